"""Image-text retrieval from two embeddings in one space; the pairs are the only labels."""

from collections.abc import Iterator, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Name
from kdjax.types import Task

SCALE, BIAS = 'logit_scale', 'logit_bias'
DIRECTIONS = ('text_to_image', 'image_to_text')
TOP_K = (1, 5, 10)
METRICS = {'mean_recall': 'mean_recall', 'zero_shot': 'zero_shot/accuracy'}  # option -> name
BLOCK = 1024  # texts whose cosines with all images are in memory at once
CARD_RESULTS = 5  # retrieved items per card


def unit(x: np.ndarray) -> np.ndarray:
  """`[N, D]` at length 1 along D, in float32 at least."""
  x = x.astype(np.promote_types(x.dtype, np.float32))
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def pairs(gathered: Mapping, language: int | None = None) -> dict[str, np.ndarray]:
  """The corpus of a search, I images and T texts.

  'image' [I, D] once per group and 'text' [T, D], of length 1; 'image_of_text' [T], the index of each text's
  image; 'image_row' [I] and 'text_row' [T], their rows in the split. Prompts (groups below 0) and languages
  other than `language` are left out.
  """
  group = gathered.get('group', np.arange(len(gathered['text/embed'])))
  row = np.flatnonzero((group >= 0) & (True if language is None else gathered['language'] == language))
  _, first, image_of_text = np.unique(group[row], return_index=True, return_inverse=True)
  image, text = (gathered[k] for k in ('image/embed', 'text/embed'))
  return {
    'image': unit(image[row[first]]),
    'text': unit(text[row]),
    'image_of_text': image_of_text,
    'image_row': row[first],
    'text_row': row,
  }


def cosines(corpus: Mapping) -> Iterator[tuple[slice, np.ndarray]]:
  """The texts of a block, and their cosines with all images, [block, I]."""
  for start in range(0, len(corpus['text']), BLOCK):
    rows = slice(start, start + BLOCK)
    yield rows, corpus['text'][rows] @ corpus['image'].T


def ranks(corpus: Mapping) -> dict[str, np.ndarray]:
  """The rank, from 1, of each text's image [T], and of the best of each image's texts [I].

  A tie counts against the pair, so that equal embeddings retrieve nothing.
  """
  image_of_text, best = corpus['image_of_text'], np.full(len(corpus['image']), -np.inf, corpus['text'].dtype)
  to_image = np.empty(len(image_of_text), np.int64)
  for rows, cosine in cosines(corpus):
    positive = cosine[np.arange(len(cosine)), image_of_text[rows]]
    np.maximum.at(best, image_of_text[rows], positive)
    to_image[rows] = np.sum(cosine >= positive[:, None], 1)  # itself counts for the 1 of the first rank
  to_text = np.ones(len(best), np.int64)
  for rows, cosine in cosines(corpus):
    better = cosine >= best
    better[np.arange(len(cosine)), image_of_text[rows]] = False
    to_text += better.sum(0)
  return dict(zip(DIRECTIONS, (to_image, to_text), strict=True))


def classify(gathered: Mapping, corpus: Mapping) -> np.ndarray | None:
  """The class of the prompts nearest to each image [I], None where there are no prompts.

  A class is the mean of its prompts' embeddings of length 1, as CLIP has it (2103.00020).
  """
  group = gathered.get('group')
  if group is None or not np.any(group < 0):
    return None
  classes, class_of_prompt = np.unique(-1 - group[group < 0], return_inverse=True)
  prompts = unit(gathered['text/embed'][group < 0])
  means = unit(np.stack([prompts[class_of_prompt == i].mean(0) for i in range(len(classes))])).T
  images = corpus['image']
  nearest = [np.argmax(images[i : i + BLOCK] @ means, 1) for i in range(0, len(images), BLOCK)]
  return classes[np.concatenate(nearest)]


def zero_shot(gathered: Mapping, corpus: Mapping) -> float | None:
  """Zero-shot accuracy of `classify`, None where there are no prompts or no labels."""
  predicted, label = classify(gathered, corpus), gathered.get('label')
  if predicted is None or label is None:
    return None
  truth = label[corpus['image_row']]
  return float((predicted == truth)[truth >= 0].mean()) if np.any(truth >= 0) else None


def chance(corpus: Mapping) -> float:
  """The expected mean recall of a random ranking."""
  images, texts = len(corpus['image']), len(corpus['text'])
  n_own = np.bincount(corpus['image_of_text'])

  def miss(k):  # probability that none of k texts is the image's
    k = min(k, texts)
    remaining = texts - n_own - k
    terms = [gammaln(np.maximum(n, 0) + 1) for n in (texts - n_own, remaining, texts, texts - k)]
    return np.where(remaining >= 0, np.exp(terms[0] - terms[1] - terms[2] + terms[3]), 0)

  recalls = [min(k / images, 1) for k in TOP_K] + [1 - miss(k).mean() for k in TOP_K]
  return float(np.mean(recalls))


def compare(teacher: Mapping, student: Mapping) -> dict[str, float]:
  """Share of the texts for which both retrieve the same image, and the correlation of all their cosines."""
  t, s = pairs(teacher), pairs(student)
  same, sums = 0, np.zeros(5)
  for (_, a), (_, b) in zip(cosines(t), cosines(s), strict=True):
    same += np.sum(a.argmax(1) == b.argmax(1))
    a, b = a.astype(np.float64), b.astype(np.float64)
    sums += [a.sum(), b.sum(), np.sum(a * a), np.sum(b * b), np.sum(a * b)]
  n = len(t['image_of_text']) * len(t['image'])
  a, b, aa, bb, ab = sums / n
  norm = np.sqrt(max(aa - a * a, 0) * max(bb - b * b, 0))
  return {
    'agreement': float(same / len(t['image_of_text'])),
    'correlation': float((ab - a * b) / norm) if norm else 0.0,
  }


def compare_classes(teacher: Mapping, student: Mapping) -> dict[str, float]:
  """Share of the images for which both predict the same class."""
  t, s = (classify(gathered, pairs(gathered)) for gathered in (teacher, student))
  return {'agreement': float(np.mean(t == s))}


def classification_cards(gathered: Mapping, examples, classes, size: int = 12) -> list[dict]:
  """Images with the class that each stage predicts."""
  corpora = {stage: pairs(g) for stage, g in gathered.items()}
  predicted = {}
  for stage, g in gathered.items():
    predicted[stage] = classify(g, corpora[stage])
    assert predicted[stage] is not None  # `finalize` refuses a split without prompts
  rows, gallery = next(iter(corpora.values()))['image_row'], []
  for i in np.random.default_rng(0).permutation(len(rows))[:size]:
    example = examples[int(rows[i])]
    shown = {stage: classes[int(predictions[i])] for stage, predictions in predicted.items()}
    gallery.append({'image': example['image'], 'truth': classes[int(example['label'])], **shown})
  return gallery


def cards(gathered: Mapping, examples, classes, size: int = 12) -> list[dict]:
  """Texts with the images that each stage retrieves, then images with the texts."""
  corpora = {stage: pairs(g) for stage, g in gathered.items()}
  corpus = next(iter(corpora.values()))
  text_row, image_row, image_of = corpus['text_row'], corpus['image_row'], corpus['image_of_text']
  rng, gallery = np.random.default_rng(0), []

  def content(i, *keys):
    return {k: v for k, v in examples[int(i)].items() if k in keys}

  def top(cosine, rows, correct, key):
    return [
      {'image': None, 'text': None, **content(rows[j], key), 'right': bool(correct[j])}
      for j in np.argsort(-cosine, kind='stable')[:CARD_RESULTS]
    ]

  for i in rng.permutation(len(text_row))[: size - size // 2]:
    shown = {
      s: top(c['image'] @ c['text'][i], image_row, np.arange(len(image_row)) == image_of[i], 'image')
      for s, c in corpora.items()
    }
    example = examples[int(text_row[i])]
    gallery.append({'text': example['text'], 'truth': example.get('english', example['text']), **shown})
  for i in rng.permutation(len(image_row))[: size // 2]:
    shown = {s: top(c['text'] @ c['image'][i], text_row, image_of == i, 'text') for s, c in corpora.items()}
    example = examples[int(image_row[i])]
    gallery.append({'image': example['image'], 'truth': example.get('english', example['text']), **shown})
  return gallery


def answer(outputs: Mapping, classes) -> list[tuple[str, float]]:
  """The cosine of one image and one text."""
  image, text = (unit(outputs[k]) for k in ('image/embed', 'text/embed'))
  return [('cosine of image and text', float(image @ text))]


def retrieval(
  *,
  loss: Literal['softmax', 'sigmoid'] = 'softmax',
  languages: tuple[Name, ...] = (),
  metric: Literal['mean_recall', 'zero_shot'] = 'mean_recall',
) -> Task:
  """Contrastive loss of image-text pairs; metric `mean_recall`, of R@1, R@5 and R@10 in both directions.

  Pairs of the same `group` [B] belong together; without it each pair is a group of its own. In the softmax
  (CLIP's, 2103.00020) a pair's own text and image are the one positive, and others of its group are masked;
  in the sigmoid (SigLIP's, 2303.15343) they are positives. Metrics are over all pairs of the split: a text's
  rank is that of its image among all images, an image's that of its best text among all texts. Also the
  median ranks, and the zero-shot accuracy from prompts (examples of a group below 0, used for nothing else).

  Args:
    loss: 'softmax', or 'sigmoid', which needs the tap `logit_bias`.
    languages: the names of the values of `language` [B], in order. Each language is then searched on its own;
      the metrics are means over languages, beside the mean recall of each. () to search all texts at once.
    metric: 'mean_recall', or 'zero_shot' for that accuracy alone: then images may lack a text.

  Raises:
    KdjaxError: for another loss or metric, and later for data in other languages or without prompts.
  """
  if metric not in METRICS:
    raise unknown('metric of the task retrieval', metric, METRICS)
  if loss not in ('softmax', 'sigmoid'):
    raise unknown('loss of the task retrieval', loss, ('softmax', 'sigmoid'))
  scalars = (SCALE, BIAS) if loss == 'sigmoid' else (SCALE,)
  tap_names = ('image/embed', 'text/embed', *scalars)

  def contrast(outputs, batch):
    v, w, log_scale, *bias = (taps.raise_precision(outputs[k]) for k in tap_names)
    v, w, scale = losses.unit(v), losses.unit(w), jnp.exp(log_scale)
    group = batch.get('group', batch.get('id', jnp.arange(len(v))))  # a small split repeats in a batch
    mask = taps.example_mask(batch, v) * (group >= 0)
    same, itself = group[:, None] == group, jnp.eye(len(v), dtype=bool)
    if loss == 'softmax':
      values = losses.clip_info_nce(v, w, scale, mask * (itself | ~same))
    else:
      z = scale * jnp.matmul(v, w.T, precision='highest') + bias[0]
      values = -jnp.sum(jax.nn.log_sigmoid(jnp.where(same, z, -z)) * mask, -1)
    return taps.as_batch_term(taps.mean_over_examples(values, {'mask': mask}))

  def corpora(gathered):
    """Language -> pairs; '' for all texts at once."""
    present = np.unique(gathered['language']).tolist() if languages else ()
    by_language = {name: pairs(gathered, i) for i, name in enumerate(languages) if i in present}
    return by_language or {'': pairs(gathered)}

  def finalize(gathered):
    recalls, medians, mean_recalls = {}, {}, {}
    for name, corpus in corpora(gathered).items():
      for direction, rank in ranks(corpus).items():
        recalls |= {(name, f'{direction}/r@{k}'): float(np.mean(rank <= k)) for k in TOP_K}
        medians[name, f'{direction}/median_rank'] = float(np.median(rank))
      mean_recalls[name] = float(np.mean([v for (n, _), v in recalls.items() if n == name]))

    def over_languages(values):
      kinds = dict.fromkeys(kind for _, kind in values)
      return {kind: float(np.mean([v for (_, k), v in values.items() if k == kind])) for kind in kinds}

    metrics = {'mean_recall': float(np.mean(list(mean_recalls.values())))}
    metrics |= over_languages(recalls) | over_languages(medians)
    metrics |= {f'{name}/mean_recall': v for name, v in mean_recalls.items() if name}
    accuracy = zero_shot(gathered, pairs(gathered))
    return metrics if accuracy is None else metrics | {'zero_shot/accuracy': accuracy}

  def finalize_zero_shot(gathered):
    accuracy = zero_shot(gathered, pairs(gathered))
    if accuracy is None:
      raise KdjaxError(
        "task.metric is 'zero_shot', and the split has no prompts (texts of a group below 0), or no labels: "
        'choose another split, data set or metric.'
      )
    return {METRICS['zero_shot']: accuracy}

  def references_zero_shot(train, test):
    """A random class, and the most frequent one."""
    groups, first = np.unique(test['group'], return_index=True)
    label = test['label'][first[groups >= 0]]
    counts = np.bincount(label[label >= 0])
    return {'chance': float(1 / np.sum(groups < 0)), 'most frequent': float(counts.max() / counts.sum())}

  def outputs(dataset):
    if metric == 'zero_shot' and not dataset.classes:
      raise KdjaxError("task.metric is 'zero_shot', and the data set has no classes.")
    if languages and tuple(languages) != tuple(dataset.languages):
      available = ', '.join(dataset.languages) or 'none'
      raise KdjaxError(f'task.languages is {", ".join(languages)}, and those of the data are {available}.')
    return dict.fromkeys(tap_names)

  def references(train, test):
    """A random ranking."""
    constant = dict.fromkeys(('image/embed', 'text/embed'), np.zeros((len(next(iter(test.values()))), 1)))
    return {'chance': float(np.mean([chance(f) for f in corpora(dict(test) | constant).values()]))}

  zero_shot_only = metric == 'zero_shot'
  return Task(
    loss=contrast,
    metrics=lambda outputs, batch: {},
    gather=('image/embed', 'text/embed', 'group', 'label', 'language'),
    finalize=finalize_zero_shot if zero_shot_only else finalize,
    references=references_zero_shot if zero_shot_only else references,
    compare=compare_classes if zero_shot_only else compare,
    metric=METRICS[metric],
    higher_is_better=True,
    outputs=outputs,
    cards=classification_cards if zero_shot_only else cards,
    answer=answer,
    whole=True,
    relational=True,
  )
