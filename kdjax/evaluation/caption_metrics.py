"""BLEU-4, CIDEr-D and ROUGE-L of captions, each against several references, written from the papers.

Words are lower-cased runs of letters, digits and apostrophes: punctuation does not count, as with the
tokenizer of COCO's evaluation (Chen et al., 1504.00325), which differs from this one in clitics ("n't").
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdjax.nn.layers import FEATURES

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
N = 4  # the longest n-gram
SIGMA = 6.0  # of CIDEr-D's Gaussian of the difference of lengths
BETA = 1.2  # of ROUGE-L in COCO's evaluation
Words = Sequence[str]


def words(caption: str) -> list[str]:
  """The words of a caption."""
  return WORD.findall(caption.lower())


def grams(text: Words, n: int) -> Counter:
  """How often each n-gram occurs."""
  return Counter(zip(*(text[i:] for i in range(n)), strict=False))


def bleu_4(references: Sequence[Sequence[Words]], written: Sequence[Words]) -> float:
  """BLEU of 1- to 4-grams of a corpus (Papineni et al., 2002), a share of 1; 0 where one has no match.

  The length of a reference is that closest to the caption's, of two as close the shorter.
  """
  matches, totals, length, closest = np.zeros(N), np.zeros(N), 0, 0
  for own, text in zip(references, written, strict=True):
    length += len(text)
    closest += min((abs(len(r) - len(text)), len(r)) for r in own)[1]
    for i in range(N):
      counts, most = grams(text, i + 1), Counter()
      for reference in own:
        most |= grams(reference, i + 1)
      matches[i] += (counts & most).total()
      totals[i] += counts.total()
  if not matches.all():
    return 0.0
  return float(np.exp(min(0.0, 1 - closest / length) + np.log(matches / totals).mean()))


def cider_d(references: Sequence[Sequence[Words]], written: Sequence[Words]) -> float:
  """CIDEr-D (Vedantam et al., 1411.5726, equation 4 and section "CIDEr-D"), with its factor of 10.

  The document frequency of an n-gram is in how many photos' references of the corpus it occurs. As in the
  authors' code the lengths are those in bigrams.
  """
  frequency: Counter = Counter()
  for own in references:
    frequency.update({gram for r in own for i in range(N) for gram in grams(r, i + 1)})
  whole = np.log(max(len(references), 1))

  def weighted(text, i):
    """n-gram -> its count times its rarity."""
    return {g: c * (whole - np.log(max(frequency[g], 1))) for g, c in grams(text, i + 1).items()}

  def norm(vector):
    return np.sqrt(sum(v * v for v in vector.values()))

  scores = []
  for own, text in zip(references, written, strict=True):
    similar = []
    for reference in own:
      apart = max(len(text) - 1, 0) - max(len(reference) - 1, 0)
      for i in range(N):
        a, b = weighted(text, i), weighted(reference, i)
        size = norm(a) * norm(b)
        product = sum(min(v, b[g]) * b[g] for g, v in a.items() if g in b)
        similar.append(product / size * np.exp(-(apart**2) / (2 * SIGMA**2)) if size else 0.0)
    scores.append(10 * np.mean(similar))
  return float(np.mean(scores))


def common(a: Words, b: Words) -> int:
  """The length of the longest common subsequence."""
  row = [0] * (len(b) + 1)
  for x in a:
    before = 0
    for j, y in enumerate(b, 1):
      before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
  return row[-1]


def rouge_l(references: Sequence[Sequence[Words]], written: Sequence[Words]) -> float:
  """The mean F of ROUGE-L (Lin, 2004), of the best precision and the best recall of a photo's references."""
  scores = []
  for own, text in zip(references, written, strict=True):
    same = [common(text, r) for r in own]
    precision = max(same) / len(text) if text else 0.0
    recall = max(n / len(r) if r else 0.0 for n, r in zip(same, own, strict=True))
    size = recall + BETA**2 * precision
    scores.append((1 + BETA**2) * precision * recall / size if size else 0.0)
  return float(np.mean(scores))


METRICS = {'cider_d': cider_d, 'bleu_4': bleu_4, 'rouge_l': rouge_l}


def score(references: Sequence[Sequence[str]], written: Sequence[str]) -> dict[str, float]:
  """Each of `METRICS`, of captions and the references of each as texts."""
  own, texts = [[words(r) for r in each] for each in references], [words(w) for w in written]
  return {name: metric(own, texts) for name, metric in METRICS.items()}


def commonest(captions: Sequence[str]) -> str:
  """The caption whose words are in the most captions, a mean over its words, among those of usual length."""
  texts = [words(c) for c in captions]
  share, usual = Counter(w for text in texts for w in set(text)), np.median([len(t) for t in texts])
  fit = [float(np.mean([share[w] for w in {*t}])) if t and abs(len(t) - usual) <= 1 else 0.0 for t in texts]
  return captions[int(np.argmax(fit))]


def nearest(train: np.ndarray, test: np.ndarray) -> np.ndarray:
  """For each row of `test` [M, E] that of `train` [N, E] with the largest cosine, the first of equal ones."""
  a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9) for x in (train, test))
  return np.concatenate([np.argmax(b[i : i + 256] @ a.T, 1) for i in range(0, len(b), 256)])


def vectors(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  """A vector of each image, f32 [N, E]: of a frozen encoder where there is one, else 8 × 8 mean colours."""
  if (embed := arrays.get(f'image{FEATURES}/embed')) is not None:
    return embed.astype(np.float32)
  if (features := arrays.get(f'image{FEATURES}')) is not None:
    return features.astype(np.float32).mean(1)
  x = arrays['image']
  rows, columns = (np.linspace(0, n, 8, endpoint=False).astype(int) for n in x.shape[1:3])
  blocks = np.add.reduceat(np.add.reduceat(x.astype(np.float32), rows, 1), columns, 2)
  return (blocks - blocks.mean((1, 2, 3), keepdims=True)).reshape(len(x), -1)


def references(data: Any, examples: Sequence[Mapping], metric: str) -> dict[str, float]:
  """Scores of captions that need no trained model: one for all, and the nearest training photo's.

  They have all captions of the training photos; {} of data without references.

  Args:
    data: of the experiment, held in memory.
    examples: those of its test split.
    metric: of `METRICS`.
  """
  if 'image' not in data.test.arrays or 'references' not in examples[0]:
    return {}
  train = data.dataset.splits['train']
  captions = [train[i]['response'] for i in range(len(train))]
  rows = nearest(vectors(data.train.arrays), vectors(data.test.arrays))
  written = {
    'one caption for all': [commonest(captions)] * len(examples),
    "nearest photo's caption": [captions[i] for i in rows],
  }
  own = [e['references'] for e in examples]
  return {name: score(own, texts)[metric] for name, texts in written.items()}
