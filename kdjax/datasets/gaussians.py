"""Two modalities of normal values that share a part of what decides the label; generated."""

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input.examples import Columns
from kdjax.options import Count, Size, Whole
from kdjax.runtime import files
from kdjax.types import DataSet

SPLITS = ('train', 'transfer', 'test')


def gaussians(
  *,
  decisive: Whole = 20,
  x1: tuple[Whole, Whole] = (0, 20),
  x2: tuple[Whole, Whole] = (0, 10),
  sizes: tuple[Size, Size] = (50, 50),
  random: bool = False,
  train: Count = 200,
  test: Count = 1000,
  seed: Whole = 0,
  same: bool = False,
) -> DataSet:
  """`x1` and `x2`, f32 vectors that hold some of the values that decide the label (2206.06487, 5.1).

  The label is the sign of a weighted sum of the decisive values. Each modality holds a range of them, at the
  places of that range; all its other values are noise. `x1_general` is the part of x1 that x2 holds too, and
  γ of the modality Venn diagram is its share of all that either holds. The splits 'train' and 'transfer' are
  drawn apart; 'transfer_swapped' is the latter with x1 and x2 in each other's place.

  Args:
    decisive: how many values decide.
    x1, x2: the range (start, stop) of them that a modality holds.
    sizes: values of x1 and of x2.
    random: whether the weights are drawn; else they are all 1.
    train: examples of 'train', and of 'transfer'.
    test: examples of 'test'.
    seed: of all of them.
    same: whether 'train' is 'transfer', so that the teacher trains on its student's examples.

  Raises:
    KdjaxError: if a range does not lie within the decisive values or its modality.
  """
  for name, (start, stop), size in (('x1', x1, sizes[0]), ('x2', x2, sizes[1])):
    if not 0 <= start < stop <= min(decisive, size):
      raise KdjaxError(
        f'gaussians: {name} holds {start} to {stop} of {decisive} in {size} values: no such range.'
      )
  rng = np.random.default_rng(seed)
  weights = rng.standard_normal(decisive) if random else np.ones(decisive)
  shared = slice(max(x1[0], x2[0]), min(x1[1], x2[1]))

  def draw(n):
    values, arrays = rng.standard_normal((n, decisive)), {}
    for name, (start, stop), size in (('x1', x1, sizes[0]), ('x2', x2, sizes[1])):
      arrays[name] = rng.standard_normal((n, size))
      arrays[name][:, start:stop] = values[:, start:stop]
    arrays['x1_general'] = arrays['x1'][:, shared]
    drawn = {k: v.astype(np.float32) for k, v in arrays.items()}
    return drawn | {'label': (values @ weights > 0).astype(np.int32), 'id': np.arange(n)}

  by_split = {s: draw(test if s == 'test' else train) for s in SPLITS}
  by_split |= {'train': by_split['transfer']} if same else {}
  swapped = by_split['transfer'] | {'x1': by_split['transfer']['x2'], 'x2': by_split['transfer']['x1']}
  splits = {k: Columns(v) for k, v in (by_split | {'transfer_swapped': swapped}).items()}
  mark = files.fingerprint('gaussians', decisive, x1, x2, sizes, random, train, test, seed, same)
  return DataSet(splits, ('negative', 'positive'), mark, 'made')
