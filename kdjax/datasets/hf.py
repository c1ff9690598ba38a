"""A data set of Hugging Face: a folder of save_to_disk, or one of the hub by its name, org/name."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError
from kdjax.input.array_data import arrays_dataset
from kdjax.input.label_column import Kind
from kdjax.input.table_file import SPLITS, split_name
from kdjax.options import Name, NonNegative, Whole
from kdjax.runtime.packages import needed
from kdjax.runtime.progress import say
from kdjax.types import DataSet


def library() -> Any:
  """The package `datasets`.

  Raises:
    KdjaxError: if it is not installed.
  """
  datasets: Any = needed('datasets', "the data set 'hf'", 'pip install datasets, then run this again')
  datasets.disable_progress_bars()
  datasets.utils.logging.set_verbosity_error()
  return datasets


@contextlib.contextmanager
def offline(datasets: Any, download: bool) -> Iterator[None]:
  """Without `download`, no connection is opened: what is in the library's cache can be read."""
  import huggingface_hub

  before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
  try:
    if not download:
      datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    yield
  finally:
    datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def loaded(path: str, config: str, revision: str, download: bool) -> Any:
  """A Dataset or DatasetDict of a folder, of the cache, or of the hub where that is asked for.

  Raises:
    KdjaxError: if there is none.
  """
  datasets, folder = library(), Path(path)
  if folder.is_dir():
    try:
      return datasets.load_from_disk(str(folder))
    except Exception as e:  # of Arrow and of the library: all sorts
      reason = ' '.join(str(e).split())[:200]
      raise KdjaxError(f'{folder} is no folder of save_to_disk ({reason}).') from e
  if folder.is_absolute():
    raise KdjaxError(
      f'there is no folder {folder}: give one of save_to_disk, or a name of the hub, org/name.'
    )
  try:
    with offline(datasets, download):
      return datasets.load_dataset(path, config or None, revision=revision or None)
  except Exception as e:  # of the hub, the network and the library: all sorts
    reason = ' '.join(str(e).split())[:200]
    if not download:
      raise KdjaxError(
        f'{path!r} is not on this machine, and nothing is downloaded unless you say so: '
        f'--config.data.options.download=True ({reason}).'
      ) from e
    raise KdjaxError(f'cannot load {path!r} from the hub ({type(e).__name__}: {reason}).') from e


def hf(
  *,
  path: str = '',
  config: str = '',
  revision: str = '',
  columns: Mapping[str, str] | None = None,
  classes: tuple[Name, ...] = (),
  label: Kind = 'class',
  rate: Whole = 0,
  seconds: NonNegative = 0.0,
  download: bool = False,
) -> DataSet:
  """Images, texts, sounds and labels of a data set of Hugging Face's library, `pip install datasets`.

  The first feature Image is 'image', Audio 'audio', ClassLabel 'label'; columns called 'text', 'sentence',
  'label' and the like are these, and so is the only column of texts; others are left out, and said. Splits
  are called as there, 'validation' also 'val' or 'dev'; without a test split the validation split is the
  test, and what is missing then is drawn from train. No code of a hub is run.

  Args:
    path: a folder of save_to_disk, or org/name.
    config: the configuration, where the data set has several.
    revision: a branch, tag or commit of the hub.
    columns: 'image', 'text', 'audio' or 'label' -> the column to take instead.
    classes: the names of the labels, in order, where the feature has none.
    label: what the task reads: one class, a number, several classes, or none.
    rate: samples a second of sounds; 0 for that of the feature, or the most frequent.
    seconds: of each sound; 0 for the longest.
    download: whether what is not on this machine may be downloaded.

  Raises:
    KdjaxError: if there is no such data set, or it cannot be read.
  """
  if not path:
    raise KdjaxError('which data set? Set --config.data.path=FOLDER or --config.data.path=org/name.')
  stored = loaded(path, config, revision, download)
  parts = dict(stored) if isinstance(stored, Mapping) else {'train': stored}
  named = {split_name(s): part for s, part in parts.items() if split_name(s) in SPLITS}
  if 'train' not in named:
    raise KdjaxError(f'{path} has the splits {", ".join(parts)}, and none is called train.')
  if others := [s for s in parts if split_name(s) not in SPLITS]:
    say(f'{path}: splits left out: {", ".join(others)}.')
  data = arrays_dataset(
    *(named.get(s) for s in ('train', 'test', 'validation')),
    classes=classes,
    label=label,
    columns=columns,
    rate=rate,
    seconds=seconds,
    where=Path(path).name,
  )
  licence = getattr(named['train'].info, 'license', '') or ''
  return data._replace(licence=str(licence))
