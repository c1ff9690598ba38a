"""Your own arrays in a .npz file: `image`, `text`, `label` … of each split, or x_train, y_train, x_test."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import numpy_arrays
from kdjax.input.array_data import arrays_dataset
from kdjax.input.label_column import Kind
from kdjax.input.table_file import SPLITS, split_name
from kdjax.options import Name, Whole
from kdjax.types import DataSet

TIMES = 1000  # bytes that arrays may have for each of the file's: masks and labels pack well


def place(name: str) -> tuple[str, str]:
  """(split, name) of 'train/image', 'train_image' or 'image_train'; the split is '' where there is none."""
  for separator in '/_':
    first, _, rest = name.partition(separator)
    if rest and split_name(first) in SPLITS:
      return split_name(first), rest
    before, _, last = name.rpartition(separator)
    if before and split_name(last) in SPLITS:
      return split_name(last), before
  return '', name


def arrays(
  *,
  path: str = '',
  columns: Mapping[str, str] | None = None,
  classes: tuple[Name, ...] = (),
  label: Kind = 'class',
  rate: Whole = 0,
) -> DataSet:
  """Arrays of a .npz file; nothing in it is unpickled.

  An array is called 'image', 'text', 'audio', 'video', 'label' or 'id', with its split before or after it:
  'train/image', 'train_labels', 'x_test'. What 'x' is follows from type and shape where that leaves no doubt;
  'y' is the label. Without splits they are drawn, 80 : 10 : 10. An array 'rate' of one number says the
  samples a second of sounds. Labels are whole numbers from 0, texts, or one-hot.

  Args:
    path: a .npz file.
    columns: key -> the name that its arrays have instead, without the split.
    classes: the names of the labels, in order.
    label: what the task reads: one class, a number, several classes [C], or none.
    rate: samples a second of sounds.

  Raises:
    KdjaxError: if the file or an array is not what it should be.
  """
  if not path:
    raise KdjaxError('which arrays? Set --config.data.path=FILE.npz.')
  file = Path(path)
  parts: dict[str, dict[str, np.ndarray]] = {}
  for name, array in numpy_arrays.read_npz(file, 'file of arrays', TIMES).items():
    if name == 'rate' and array.size == 1:
      own_rate = int(array.reshape(()))
      if rate not in (0, own_rate):
        raise KdjaxError(
          f'{file} has sounds of {own_rate:,} samples a second, and data.options.rate is {rate:,}: '
          'leave it out, or resample the arrays.'
        )
      rate = own_rate
      continue
    split, bare = place(name)
    if not array.ndim:
      raise KdjaxError(f'{file}: {name!r} is one number; an array has a row an example.')
    if bare in parts.setdefault(split, {}):
      raise KdjaxError(f'{file} has two arrays for {bare!r} of {split or "all examples"}: keep one.')
    parts[split][bare] = array
  if not parts:
    raise KdjaxError(f'{file} has no arrays.')
  if '' in parts:
    if len(parts) > 1:
      raise KdjaxError(
        f'{file} has {", ".join(parts[""])} beside arrays of splits: call them train/NAME, or leave them out.'
      )
    parts['train'] = parts.pop('')
  data = arrays_dataset(
    parts.get('train'),
    parts.get('test'),
    parts.get('validation'),
    classes,
    label=label,
    columns=columns,
    rate=rate,
    where=file.name,
  )
  return data._replace(files=(file,), content='')
