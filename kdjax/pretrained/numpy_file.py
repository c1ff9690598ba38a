"""Arrays out of the .npz files that NumPy writes, without the pickles that such a file may hold."""

from pathlib import Path

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.files import regular_file

WEIGHTS = 'params/'  # of big_vision's trainer, which keeps its optimiser beside them


def read(path: Path) -> dict[str, np.ndarray]:
  """Name -> array; of a trainer's checkpoint the weights alone, without the 'params/' of their names.

  Raises:
    KdjaxError: if it is missing, damaged, no .npz, or holds an array of objects.
  """
  try:
    with np.load(regular_file(path, 'checkpoint'), allow_pickle=False) as file:
      names = [name for name in file.files if name.startswith(WEIGHTS)]
      return {name.removeprefix(WEIGHTS): file[name] for name in names or file.files}
  except Exception as e:  # a damaged file shows up as any of half a dozen types
    told = ' '.join(str(e).split())[:160] or type(e).__name__
    raise KdjaxError(f'cannot read the model {path} ({told}).') from e
