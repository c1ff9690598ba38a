"""What a path of a user's data is: which data set of kdjax reads it."""

import os
from pathlib import Path

from kdjax.errors import KdjaxError
from kdjax.runtime.files import user_path
from kdjax.runtime.program import program

SUFFIXES = dict.fromkeys(('.jsonl', '.csv', '.tsv', '.parquet'), 'manifest') | {'.npz': 'arrays'}
SUFFIXES |= {'.tar': 'webdataset'}
PATTERN = '*?[{'  # of names of several tars
READS = (
  'a folder of class folders, a table (.jsonl, .csv, .tsv, .parquet), arrays (.npz), tars (.tar), or a '
  'folder of TFDS or of save_to_disk'
)


def of(path: str) -> str:
  """The name of the data set that reads a path.

  Raises:
    KdjaxError: if there is nothing, or nothing that kdjax reads.
  """
  if any(c in path for c in PATTERN) and path.endswith('.tar'):
    return 'webdataset'
  file = user_path(path)
  if file.is_dir():
    return _folder(file)
  if (name := SUFFIXES.get(file.suffix.lower())) and file.exists():
    return name
  if not file.exists():
    raise KdjaxError(
      f'there is no file or folder {path}: set data.path to {READS}; or data.name to a data set.'
    )
  raise KdjaxError(
    f'{path} is nothing that kdjax knows by its name: it reads {READS}; or set --config.data.name=NAME '
    f'(`{program()} datasets` lists them).'
  )


def _folder(folder: Path) -> str:
  """The data set that reads a folder."""
  names = {entry.name for entry in os.scandir(folder)}
  if {'dataset_info.json', 'features.json'} <= names or _versions(folder, names):
    return 'tfds'
  if 'dataset_dict.json' in names or {'state.json', 'dataset_info.json'} <= names:
    return 'hf'
  tables = sorted(n for n in names if SUFFIXES.get(Path(n).suffix.lower()) and not n.startswith('.'))
  if tables and not any(entry.is_dir() and not entry.name.startswith('.') for entry in os.scandir(folder)):
    raise KdjaxError(
      f'{folder} is a folder with {", ".join(tables[:5])}: set data.path to '
      + (f'{folder / tables[0]}.' if len(tables) == 1 else 'one of them, or to a pattern of tars.')
    )
  return 'folder'


def _versions(folder, names):
  """Whether a folder has prepared versions of TFDS, such as 1.0.0."""
  return any(
    n.replace('.', '').isdigit() and n.count('.') == 2 and (folder / n / 'features.json').exists()
    for n in names
  )


def whole(path: str) -> str:
  """An absolute path; the name of a data set on a hub, org/name, and a pattern of tars stay as they are.

  Raises:
    KdjaxError: as `user_path` does.
  """
  file = user_path(path)
  on_hub = path.count('/') <= 1 and not path.startswith(('/', '.', '~')) and not file.suffix
  return path if on_hub and not file.exists() else str(file)
