"""Weights out of the .npz files that NumPy writes, without the pickles that such a file may hold."""

from pathlib import Path

import numpy as np

from kdjax.input import numpy_arrays

WEIGHTS = 'params/'  # of big_vision's trainer, which keeps its optimiser beside them
TIMES = 20  # bytes that weights may have for each of the file's


def _weights(names):
  return [name for name in names if name.startswith(WEIGHTS)] or names


def read(path: Path) -> dict[str, np.ndarray]:
  """Name -> array, read-only; of a trainer's checkpoint the weights alone, their names without 'params/'.

  Raises:
    KdjaxError: if it is missing, damaged, no .npz, holds an array of objects, or is packed so that it would
      take many times its own size.
  """
  arrays = numpy_arrays.read_npz(path, 'model', TIMES, _weights)
  return {name.removeprefix(WEIGHTS): value for name, value in arrays.items()}
