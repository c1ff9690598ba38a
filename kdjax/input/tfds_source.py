"""Prepared data of TFDS: located, prepared on first use, read with random access."""

import contextlib
import io
import logging
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import requests
import tensorflow_datasets as tfds
from filelock import FileLock
from jax.experimental import multihost_utils
from tensorflow_datasets.core.constants import DATA_DIR

from kdjax import registry
from kdjax.errors import KdjaxError, unknown
from kdjax.input import prepared as prepared_folder
from kdjax.input.images import decode_image
from kdjax.runtime import progress
from kdjax.runtime.files import user_path
from kdjax.runtime.program import program
from kdjax.runtime.progress import console, say


@contextlib.contextmanager
def quiet_tfds(name: str) -> Iterator[None]:
  """Silences TFDS; raises KdjaxError where it lacks TensorFlow."""
  absl.logging.set_verbosity(absl.logging.ERROR)
  logging.getLogger('urllib3').setLevel(logging.ERROR)
  console.file, output = sys.stdout, io.StringIO()
  try:
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
      yield
  except ImportError as e:
    if 'tensorflow' not in str(e).lower():
      raise
    raise KdjaxError(
      f'TFDS needs TensorFlow for {name!r}: pip install tensorflow-cpu, then run this again.'
    ) from e
  finally:
    console.file = None  # pyright: ignore[reportAttributeAccessIssue]


def prepare(make: Callable[[], Any]) -> Any:
  """The builder that `make()` returns, its data written as ArrayRecord by one process.

  Raises:
    KdjaxError: if TFDS cannot prepare them.
  """
  builder = make()
  if builder.is_prepared():
    return builder
  if not jax.process_index():
    folder = Path(builder.data_dir).parent
    there = [p for p in (folder, *folder.parents) if p.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
      with FileLock(folder / '.lock'):
        _clear(folder)  # what a process left that was killed
        builder = make()  # another process may have prepared it by now
        if not builder.is_prepared():
          _prepare(builder)
    except BaseException:
      _clear(folder)
      for path in (folder, *folder.parents):
        if path in there or any(p.name != '.lock' for p in path.iterdir()):
          break
        shutil.rmtree(path, ignore_errors=True)
      raise
  multihost_utils.sync_global_devices(f'prepared {builder.name}')
  return make()


def _clear(folder):
  for incomplete in folder.glob('incomplete.*'):
    shutil.rmtree(incomplete, ignore_errors=True)


def _prepare(builder):
  say(f'preparing {builder.name} in {builder.data_dir} (once)')
  try:
    with quiet_tfds(builder.name):
      builder.download_and_prepare(file_format='array_record')
  except (requests.RequestException, tfds.download.DownloadError, AssertionError, OSError, RuntimeError) as e:
    full = 'No space left' in str(e)  # in ArrayRecord's message
    reason = 'the disk is full' if full else str(e).strip().split('\n')[0][:200]
    raise KdjaxError(f'TFDS cannot prepare {builder.name!r} in {builder.data_dir}: {reason}') from e


def root(data_dir: str | None) -> Path:
  """The folder of prepared data of TFDS."""
  return user_path(data_dir or DATA_DIR)


def prepared(name: str, data_dir: str | None) -> Path | None:
  """The newest prepared version of `name`, or `name` itself where it is such a folder."""
  for folder in (user_path(name), root(data_dir) / name):
    if (folder / 'dataset_info.json').exists():
      return folder
    versions = [p for p in folder.glob('*.*.*') if (p / 'dataset_info.json').exists()]
    if versions:
      return max(versions, key=lambda p: [int(n) for n in re.findall(r'\d+', p.name)])
  return None


def open_builder(name: str, data_dir: str | None, download: bool = False) -> Any:
  """A builder whose data are prepared; those that are not are downloaded where that is asked for.

  Raises:
    KdjaxError: if TFDS does not know the name, it is not prepared, or preparing it needs TensorFlow.
  """
  if not name:
    raise KdjaxError(f'which data set? Set --config.data.name=NAME; `{program()} datasets` lists them.')
  try:
    folder = prepared(name, data_dir)
  except OSError as e:
    raise KdjaxError(f'{name!r} is the name of no data set ({e.strerror}).') from e
  if folder is not None:
    with quiet_tfds(name):
      return prepared_folder.read(folder)

  def make():
    with quiet_tfds(name):
      return tfds.builder(name, data_dir=data_dir)

  try:
    if not download:
      _not_prepared(make(), name, data_dir)
    return prepare(make)
  except tfds.core.DatasetNotFoundError as e:
    public = tfds.list_builders(with_community_datasets=False)
    raise unknown('data set', name, [*registry.names('data'), *public]) from e
  except (KdjaxError, ImportError, OSError):
    raise
  except Exception as e:  # of TFDS, or of a download
    reason = str(e).strip().split('\n')[0]
    raise KdjaxError(f'TFDS cannot open the data set {name!r}: {reason}') from e


def _not_prepared(builder, name, data_dir):
  """Raises KdjaxError for a builder whose data are not prepared; nothing is written."""
  if not builder.is_prepared():
    size = builder.info.download_size
    of_size = f' ({progress.size(int(size))})' if size else ''
    raise KdjaxError(
      f'{name!r} is not prepared in {root(data_dir)}, and nothing is downloaded unless you say so: '
      f'--config.data.options.download=True{of_size}; or set --data_dir to where it is.'
    )


def files(*builders: Any) -> tuple[Path, ...]:
  """The files of the prepared data of TFDS builders; () where they are in no local folder."""
  folders = [Path(builder.data_dir) for builder in builders]
  return tuple(f for d in folders for f in sorted(d.iterdir())) if all(d.is_dir() for d in folders) else ()


NAMES_FILES = re.compile(r'(^|[_/])(id|file_?name|url)$')  # texts that are not training data
KEYS = {'Image': 'image', 'Text': 'text', 'ClassLabel': 'label', 'Audio': 'audio'}


def first_features(builder: Any) -> dict[str, str]:
  """'image', 'text', 'label', 'audio' -> the name of the first such feature, where there is one."""
  features = {}
  for name, feature in builder.info.features.items():
    if not NAMES_FILES.search(name):
      features.setdefault(KEYS.get(type(feature).__name__), name)
  features.pop(None, None)
  return features


class TfdsSource(Sequence):
  """A prepared TFDS split whose examples go through `convert(record, index)`.

  Raises:
    KdjaxError: if a record cannot be read; it names the split and the record.
  """

  def __init__(self, builder: Any, split: str, convert: Callable):
    self._name, self._split, self._convert = builder.name, split, convert
    features = {k: f for k, f in builder.info.features.items() if type(f).__name__ == 'Image'}
    self._uint16 = {
      k: f.shape[-1] for k, f in features.items() if f.np_dtype == np.uint16
    }  # TFDS wants OpenCV
    decoders = {name: tfds.decode.SkipDecoding() for name in self._uint16}
    try:
      with quiet_tfds(builder.name):
        self._records = builder.as_data_source(split, decoders=decoders or None)
    except (ValueError, KeyError) as e:
      raise KdjaxError(
        f'{builder.name} has no split {split!r}; it has {", ".join(builder.info.splits)}.'
      ) from e

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index):
    try:
      record = self._records[int(index)]
    except Exception as e:  # ArrayRecord, protobuf and image decoders raise all sorts
      raise KdjaxError(
        f'{self._name}: record {index} of split {self._split!r} cannot be read ({e}); if its file is '
        'damaged, delete the prepared folder and run again.'
      ) from e
    where = f'{self._name}: record {index} of split {self._split!r}'
    for name, channels in self._uint16.items():
      image = decode_image(record[name], where)
      record[name] = image[..., :1] if channels == 1 else image
    return self._convert(record, int(index))
