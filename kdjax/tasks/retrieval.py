"""Images found by text and texts by image, from two embeddings in one space; what belongs together is all
the labels there are."""

from collections.abc import Iterator, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import gammaln

from kdjax import losses, taps
from kdjax.errors import KdjaxError, unknown
from kdjax.options import Name
from kdjax.types import Task

SCALE, BIAS = 'logit_scale', 'logit_bias'
WAYS = ('text_to_image', 'image_to_text')
WITHIN = (1, 5, 10)
METRICS = {'mean_recall': 'mean_recall', 'zero_shot': 'zero_shot/accuracy'}  # option -> name
BLOCK = 1024  # texts whose cosines with all images are in memory at once
SHOWN = 5  # found things a card


def unit(x: np.ndarray) -> np.ndarray:
  """`[N, D]` at length 1 along D, in float32 at least."""
  x = x.astype(np.promote_types(x.dtype, np.float32))
  return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def pairs(gathered: Mapping, language: int | None = None) -> dict[str, np.ndarray]:
  """What a search goes through, I images and T texts.

  'image' [I, D] once a group and 'text' [T, D], of length 1; 'of' [T], the text's image; 'picture' [I]
  and 'row' [T], the rows of the split that they stand in. Prompts, of a group below 0, are left out, and
  so are other languages than the one asked for.
  """
  group = gathered.get('group', np.arange(len(gathered['text/embed'])))
  row = np.flatnonzero((group >= 0) & (True if language is None else gathered['language'] == language))
  _, first, of = np.unique(group[row], return_index=True, return_inverse=True)
  image, text = (gathered[k] for k in ('image/embed', 'text/embed'))
  return {
    'image': unit(image[row[first]]),
    'text': unit(text[row]),
    'of': of,
    'picture': row[first],
    'row': row,
  }


def cosines(found: Mapping) -> Iterator[tuple[slice, np.ndarray]]:
  """The texts of a block, and their cosines with all images, [block, I]."""
  for start in range(0, len(found['text']), BLOCK):
    rows = slice(start, start + BLOCK)
    yield rows, found['text'][rows] @ found['image'].T


def ranks(found: Mapping) -> dict[str, np.ndarray]:
  """The rank, from 1, of each text's image [T], and of the best of each image's texts [I].

  A tie counts against the pair, so that embeddings that are all alike find nothing.
  """
  of, best = found['of'], np.full(len(found['image']), -np.inf, found['text'].dtype)
  to_image = np.empty(len(of), np.int64)
  for rows, cosine in cosines(found):
    own = cosine[np.arange(len(cosine)), of[rows]]
    np.maximum.at(best, of[rows], own)
    to_image[rows] = np.sum(cosine >= own[:, None], 1)  # itself counts for the 1 of the first rank
  to_text = np.ones(len(best), np.int64)
  for rows, cosine in cosines(found):
    better = cosine >= best
    better[np.arange(len(cosine)), of[rows]] = False
    to_text += better.sum(0)
  return dict(zip(WAYS, (to_image, to_text), strict=True))


def named(gathered: Mapping, found: Mapping) -> np.ndarray | None:
  """The class of the prompts nearest to each image [I], None where there are no prompts.

  A class is the mean of its prompts' embeddings of length 1, as CLIP has it (2103.00020).
  """
  group = gathered.get('group')
  if group is None or not np.any(group < 0):
    return None
  classes, of = np.unique(-1 - group[group < 0], return_inverse=True)
  prompts = unit(gathered['text/embed'][group < 0])
  means = unit(np.stack([prompts[of == i].mean(0) for i in range(len(classes))])).T
  images = found['image']
  nearest = [np.argmax(images[i : i + BLOCK] @ means, 1) for i in range(0, len(images), BLOCK)]
  return classes[np.concatenate(nearest)]


def zero_shot(gathered: Mapping, found: Mapping) -> float | None:
  """Share of the images whose label is the class that `named` gives them, None where nothing tells."""
  said, label = named(gathered, found), gathered.get('label')
  if said is None or label is None:
    return None
  truth = label[found['picture']]
  return float((said == truth)[truth >= 0].mean()) if np.any(truth >= 0) else None


def chance(found: Mapping) -> float:
  """The mean recall of a search at random, computed and not drawn."""
  images, texts = len(found['image']), len(found['text'])
  own = np.bincount(found['of'])

  def none(k):  # of k texts, that none is the image's
    k = min(k, texts)
    few = texts - own - k
    chosen = [gammaln(np.maximum(n, 0) + 1) for n in (texts - own, few, texts, texts - k)]
    return np.where(few >= 0, np.exp(chosen[0] - chosen[1] - chosen[2] + chosen[3]), 0)

  each = [min(k / images, 1) for k in WITHIN] + [1 - none(k).mean() for k in WITHIN]
  return float(np.mean(each))


def compare(teacher: Mapping, student: Mapping) -> dict[str, float]:
  """Share of the texts for which both find the same image, and the correlation of all their cosines."""
  t, s = pairs(teacher), pairs(student)
  same, sums = 0, np.zeros(5)
  for (_, a), (_, b) in zip(cosines(t), cosines(s), strict=True):
    same += np.sum(a.argmax(1) == b.argmax(1))
    a, b = a.astype(np.float64), b.astype(np.float64)
    sums += [a.sum(), b.sum(), np.sum(a * a), np.sum(b * b), np.sum(a * b)]
  n = len(t['of']) * len(t['image'])
  a, b, aa, bb, ab = sums / n
  spread = np.sqrt(max(aa - a * a, 0) * max(bb - b * b, 0))
  return {
    'agreement': float(same / len(t['of'])),
    'correlation': float((ab - a * b) / spread) if spread else 0.0,
  }


def compare_named(teacher: Mapping, student: Mapping) -> dict[str, float]:
  """Share of the images that both give the same class."""
  t, s = (named(gathered, pairs(gathered)) for gathered in (teacher, student))
  return {'agreement': float(np.mean(t == s))}


def named_cards(gathered: Mapping, examples, classes, size: int = 12) -> list[dict]:
  """Images with the class that each stage gives them."""
  found = {stage: pairs(g) for stage, g in gathered.items()}
  said = {stage: named(g, found[stage]) for stage, g in gathered.items()}
  rows, made = next(iter(found.values()))['picture'], []
  for i in np.random.default_rng(0).permutation(len(rows))[:size]:
    shown = examples[int(rows[i])]
    answers = {stage: classes[int(each[i])] for stage, each in said.items()}
    made.append({'image': shown['image'], 'truth': classes[int(shown['label'])], **answers})
  return made


def cards(gathered: Mapping, examples, classes, size: int = 12) -> list[dict]:
  """Texts with the images that each stage finds, then images with the texts."""
  stages = {stage: pairs(g) for stage, g in gathered.items()}
  one = next(iter(stages.values()))
  row, picture, of = one['row'], one['picture'], one['of']
  rng, made = np.random.default_rng(0), []

  def seen(i, *keys):
    return {k: v for k, v in examples[int(i)].items() if k in keys}

  def found(cosine, where, right, key):
    return [
      {'image': None, 'text': None, **seen(where[j], key), 'right': bool(right[j])}
      for j in np.argsort(-cosine, kind='stable')[:SHOWN]
    ]

  for i in rng.permutation(len(row))[: size - size // 2]:
    answers = {
      s: found(f['image'] @ f['text'][i], picture, np.arange(len(picture)) == of[i], 'image')
      for s, f in stages.items()
    }
    shown = examples[int(row[i])]
    made.append({'text': shown['text'], 'truth': shown.get('english', shown['text']), **answers})
  for i in rng.permutation(len(picture))[: size // 2]:
    answers = {s: found(f['text'] @ f['image'][i], row, of == i, 'text') for s, f in stages.items()}
    shown = examples[int(picture[i])]
    made.append({'image': shown['image'], 'truth': shown.get('english', shown['text']), **answers})
  return made


def answer(outputs: Mapping, classes) -> list[tuple[str, float]]:
  """How well one image and one text fit."""
  image, text = (unit(outputs[k]) for k in ('image/embed', 'text/embed'))
  return [('cosine of image and text', float(image @ text))]


def retrieval(
  *,
  loss: Literal['softmax', 'sigmoid'] = 'softmax',
  languages: tuple[Name, ...] = (),
  metric: Literal['mean_recall', 'zero_shot'] = 'mean_recall',
) -> Task:
  """Contrast of the pairs of a batch; metric `mean_recall`, that of six: R@1, R@5 and R@10, both ways.

  `group` [B] names what a pair belongs to; each pair is one of its own where the batch has none. In the
  softmax (CLIP's, 2103.00020) each pair has its own text and image as the one positive, and others of its
  group are no negatives: they are masked. In the sigmoid (SigLIP's, 2303.15343) they are positives.
  Evaluated are all pairs of the split, as the literature does with several captions an image: a text's
  rank is that of its image among the images, an image's rank that of its best text among all texts. Also
  the median ranks, and the accuracy of the classes of prompts (examples of a group below 0, which take no
  other part).

  Args:
    loss: 'softmax', or 'sigmoid', which needs the tap `logit_bias`.
    languages: the names of the values of `language` [B], in order. Then each language is searched on its
      own, the metrics are means over the languages, and each has its own mean recall too. () for one search
      through all texts.
    metric: 'mean_recall', or 'zero_shot' for the accuracy of the classes of prompts and nothing else: then
      nothing is searched for, and pairs that are no pairs, images without a text, do no harm.

  Raises:
    KdjaxError: for another loss or metric, and later for data in other languages or without prompts.
  """
  if metric not in METRICS:
    raise unknown('metric of the task retrieval', metric, METRICS)
  if loss not in ('softmax', 'sigmoid'):
    raise unknown('loss of the task retrieval', loss, ('softmax', 'sigmoid'))
  scalars = (SCALE, BIAS) if loss == 'sigmoid' else (SCALE,)
  wanted = ('image/embed', 'text/embed', *scalars)

  def contrast(outputs, batch):
    v, w, log_scale, *bias = (taps.raise_precision(outputs[k]) for k in wanted)
    v, w, scale = losses.unit(v), losses.unit(w), jnp.exp(log_scale)
    group = batch.get('group', batch.get('id', jnp.arange(len(v))))  # a small split repeats in a batch
    mask = taps.example_mask(batch, v) * (group >= 0)
    same, itself = group[:, None] == group, jnp.eye(len(v), dtype=bool)
    if loss == 'softmax':
      values = losses.clip_info_nce(v, w, scale, mask * (itself | ~same))
    else:
      z = scale * jnp.matmul(v, w.T, precision='highest') + bias[0]
      values = -jnp.sum(jax.nn.log_sigmoid(jnp.where(same, z, -z)) * mask, -1)
    return taps.once(taps.mean_over_examples(values, {'mask': mask}))

  def searches(gathered):
    """What is searched through, at once or a language at a time: name -> pairs."""
    spoken = np.unique(gathered['language']).tolist() if languages else ()
    there = {name: pairs(gathered, i) for i, name in enumerate(languages) if i in spoken}
    return there or {'': pairs(gathered)}

  def finalize(gathered):
    each, medians, recalls = {}, {}, {}
    for name, found in searches(gathered).items():
      for way, rank in ranks(found).items():
        each |= {(name, f'{way}/r@{k}'): float(np.mean(rank <= k)) for k in WITHIN}
        medians[name, f'{way}/median_rank'] = float(np.median(rank))
      recalls[name] = float(np.mean([v for (n, _), v in each.items() if n == name]))

    def over_languages(values):
      kinds = dict.fromkeys(kind for _, kind in values)
      return {kind: float(np.mean([v for (_, k), v in values.items() if k == kind])) for kind in kinds}

    metrics = {'mean_recall': float(np.mean(list(recalls.values())))}
    metrics |= over_languages(each) | over_languages(medians)
    metrics |= {f'{name}/mean_recall': v for name, v in recalls.items() if name}
    accuracy = zero_shot(gathered, pairs(gathered))
    return metrics if accuracy is None else metrics | {'zero_shot/accuracy': accuracy}

  def classified(gathered):
    accuracy = zero_shot(gathered, pairs(gathered))
    if accuracy is None:
      raise KdjaxError(
        "task.metric is 'zero_shot', and the split has no prompts (texts of a group below 0), or no labels: "
        'choose another split, data set or metric.'
      )
    return {METRICS['zero_shot']: accuracy}

  def guesses(train, test):
    """A class at random, and the most frequent one."""
    groups, first = np.unique(test['group'], return_index=True)
    label = test['label'][first[groups >= 0]]
    many = np.bincount(label[label >= 0])
    return {'chance': float(1 / np.sum(groups < 0)), 'most frequent': float(many.max() / many.sum())}

  def outputs(dataset):
    if metric == 'zero_shot' and not dataset.classes:
      raise KdjaxError("task.metric is 'zero_shot', and the data set has no classes.")
    if languages and tuple(languages) != tuple(dataset.languages):
      there = ', '.join(dataset.languages) or 'none'
      raise KdjaxError(f'task.languages is {", ".join(languages)}, and those of the data are {there}.')
    return dict.fromkeys(wanted)

  def references(train, test):
    """A search at random."""
    nothing = dict.fromkeys(('image/embed', 'text/embed'), np.zeros((len(next(iter(test.values()))), 1)))
    return {'chance': float(np.mean([chance(f) for f in searches(dict(test) | nothing).values()]))}

  named_alone = metric == 'zero_shot'
  return Task(
    loss=contrast,
    metrics=lambda outputs, batch: {},
    gather=('image/embed', 'text/embed', 'group', 'label', 'language'),
    finalize=classified if named_alone else finalize,
    references=guesses if named_alone else references,
    compare=compare_named if named_alone else compare,
    metric=METRICS[metric],
    higher_is_better=True,
    outputs=outputs,
    cards=named_cards if named_alone else cards,
    answer=answer,
    whole=True,
    relational=True,
  )
