"""Vectors and what is known of them in training alone (Lopez-Paz et al., 1511.03643, section 4)."""

from typing import Literal

import numpy as np
from PIL import Image

from kdjax.errors import KdjaxError
from kdjax.input import tfds_source
from kdjax.input.examples import Columns
from kdjax.options import Count, Size, Whole
from kdjax.runtime import files
from kdjax.types import DataSet

Study = Literal['labels', 'features', 'relevant', 'own', 'largest', 'digits']
SIDE = 7  # of the small digits


def privileged(
  *,
  study: Study = 'labels',
  train: Count = 200,
  test: Count = 10_000,
  size: Size = 50,
  relevant: Size = 3,
  seed: Whole = 0,
  data_dir: str | None = None,
) -> DataSet:
  """`x`, f32 [D], and `privileged`, f32 [E], which a student does not see (arXiv 1511.03643, section 4).

  With α and the values x drawn from N(0, 1), and both inputs then standardised by the training examples:
  'labels': privileged is α·x, the label whether α·x + ε > 0, ε from N(0, 1);
  'features': privileged is x without its noise, of deviation 1, the label whether α·privileged > 0;
  'relevant': privileged are the same few values of each x, the label whether α_J·privileged > 0;
  'own': as 'relevant', but other values J of each example, and a label by their own α_J;
  'largest': privileged are the largest values, the label whether α·privileged is above its median.
  'digits' are images of MNIST, in [0, 1]: 28 × 28 privileged, and 7 × 7 for the student (bilinear).

  Args:
    study: which of them.
    train: examples; of 'digits' drawn from the training images.
    test: examples; of 'digits' all test images are taken.
    size: D of the synthetic ones.
    relevant: values that decide, of 'relevant', 'own' and 'largest'.
    seed: of all that is drawn.
    data_dir: where TFDS keeps MNIST.

  Raises:
    KdjaxError: if more values are relevant than there are, or MNIST is not prepared or too small.
  """
  if relevant > size:
    raise KdjaxError(f'privileged: {relevant} relevant values of {size}; there cannot be more than all.')
  rng, opened = np.random.default_rng(seed), ()
  if study == 'digits':
    builder = tfds_source.open_builder('mnist', data_dir)
    opened, classes = tfds_source.files(builder), tuple(map(str, range(10)))
    n = builder.info.splits['train'].num_examples
    if train > n:
      raise KdjaxError(f'privileged: {train} training digits; MNIST has {n}.')
    arrays = {
      'train': _digits(builder, 'train', np.sort(rng.permutation(n)[:train])),
      'test': _digits(builder, 'test', np.arange(builder.info.splits['test'].num_examples)),
    }
  else:
    classes, alpha = ('negative', 'positive'), rng.standard_normal(size)
    places = rng.permutation(size)[:relevant]
    arrays = {s: _draw(study, rng, n, alpha, places) for s, n in (('train', train), ('test', test))}
    for key in ('x', 'privileged'):
      mean, deviation = (getattr(arrays['train'][key], f)(0) for f in ('mean', 'std'))
      for part in arrays.values():
        part[key] = ((part[key] - mean) / deviation).astype(np.float32)
  splits = {s: Columns(part | {'id': np.arange(len(part['label']))}) for s, part in arrays.items()}
  mark = files.fingerprint('privileged', study, train, test, size, relevant, seed, *map(str, opened))
  return DataSet(splits, classes, mark, 'made' if not opened else 'CC BY-SA 3.0', files=opened)


def _draw(study, rng, n, alpha, places):
  """n examples of a synthetic study, not yet standardised."""
  x, weights = rng.standard_normal((n, len(alpha))), alpha[places]
  if study == 'labels':
    known = (x @ alpha)[:, None]
    score = known[:, 0] + rng.standard_normal(n)
  elif study == 'features':
    known, score = x, x @ alpha
    x = x + rng.standard_normal(x.shape)
  elif study == 'relevant':
    known, score = x[:, places], x[:, places] @ weights
  elif study == 'own':
    each = rng.permuted(np.tile(np.arange(len(alpha)), (n, 1)), axis=1)[:, : len(places)]
    known = np.take_along_axis(x, each, 1)
    score = np.sum(known * alpha[each], 1)
  else:
    known = -np.sort(-x)[:, : len(places)]
    score = known @ weights
    score = score - np.median(score)
  return {'x': x, 'privileged': known, 'label': (score > 0).astype(np.int32)}


def _digits(builder, split, rows):
  """Images of MNIST as vectors, large and small, and their labels."""
  source = tfds_source.TfdsSource(builder, split, lambda record, index: record)
  records = [source[int(i)] for i in rows]
  images = [np.asarray(r['image'], np.float32)[..., 0] for r in records]
  small = [np.asarray(Image.fromarray(i).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for i in images]
  large, small = (np.stack(v).reshape(len(rows), -1) / np.float32(255) for v in (images, small))
  labels = np.array([r['label'] for r in records], np.int32)
  return {'x': small, 'privileged': large, 'label': labels}
