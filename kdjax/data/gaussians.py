"""Two modalities of normal values that share a part of what decides the label; made on the spot."""

from collections.abc import Sequence

import numpy as np

from kdjax import sources
from kdjax.errors import KdjaxError
from kdjax.types import DataSet

SPLITS = ('train', 'transfer', 'test')


class Rows(Sequence):
  """Examples that are the rows of arrays."""

  def __init__(self, arrays):
    self.arrays = arrays

  def __len__(self) -> int:
    return len(self.arrays['label'])

  def __getitem__(self, index):
    return {k: v[index] for k, v in self.arrays.items()} | {'id': int(index)}


def draw(rng: np.random.Generator, n: int, own: int, shared: int, size: int) -> dict[str, np.ndarray]:
  """`x1`, `x2` [n, size], `x1_general` [n, shared], the shared part of x1, and `label` [n]."""
  decisive = rng.standard_normal((n, shared + own))
  x1, x2 = rng.standard_normal((2, n, size))
  x1[:, : shared + own], x2[:, :shared] = decisive, decisive[:, :shared]
  arrays = {'x1': x1, 'x2': x2, 'x1_general': x1[:, :shared]}
  made = {k: v.astype(np.float32) for k, v in arrays.items()}
  return made | {'label': (decisive.sum(1) > 0).astype(np.int32)}


def gaussians(
  *,
  own: int = 10,
  shared: int = 10,
  size: int = 50,
  train: int = 200,
  test: int = 1000,
  seed: int = 0,
  same: bool = False,
) -> DataSet:
  """`x1` and `x2` [size], of which `own + shared` and `shared` values decide the label (2206.06487, 5.1).

  The label is the sign of the sum of the decisive values; x1 has all of them, x2 the shared ones, all
  other values are noise. γ of the modality Venn diagram is shared / (own + shared). The splits 'train' and
  'transfer' are drawn apart; 'transfer_swapped' is the latter with x1 and x2 in each other's place.

  Args:
    own: decisive values that x1 alone has.
    shared: decisive values of both.
    size: values of each modality.
    train: examples of 'train', and of 'transfer'.
    test: examples of 'test'.
    seed: of all of them.
    same: whether 'train' is 'transfer', where the teacher shall see what its student does.

  Raises:
    KdjaxError: if a modality has fewer values than decide.
  """
  if not 0 < shared <= own + shared <= size or own < 0:
    raise KdjaxError(f'gaussians: own={own} and shared={shared} decisive values of {size} do not fit.')
  rng = np.random.default_rng(seed)
  made = {s: draw(rng, test if s == 'test' else train, own, shared, size) for s in SPLITS}
  swapped = made['transfer'] | {'x1': made['transfer']['x2'], 'x2': made['transfer']['x1']}
  made |= {'train': made['transfer']} if same else {}
  splits = {k: Rows(v) for k, v in (made | {'transfer_swapped': swapped}).items()}
  known = sources.fingerprint('gaussians', own, shared, size, train, test, seed, same)
  return DataSet(splits, ('negative', 'positive'), known, 'made')
