"""An exported model in a folder: its file, its tokenizer, and what else its answers need."""

import contextlib
import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from kdjax.errors import KdjaxError
from kdjax.experiment import predict
from kdjax.experiment.trained_model import Trained
from kdjax.export import alone, formats
from kdjax.export.program import Program
from kdjax.input import tokenizer as tokenizers
from kdjax.runtime import files
from kdjax.runtime.packages import needed

FILE = 'export.json'
ANEW = 'export the model again'
INTERFACE = {'task': {'name': str}, 'inputs': {str: str}, 'example': {str: list}, 'classes': [str]}
INTERFACE |= {'rate': files.NUMBER, 'ranges': {str: str}, 'text_length': int, 'prompt_length': int}
SCHEMA = {'format': str, 'interface': INTERFACE, 'inputs': {str: list}, 'outputs': {str: list}}
SCHEMA |= {'files': {str: str}, 'model': {'model': str}, 'seed': int, 'quantised': str}


class Exported(NamedTuple):
  """An exported model, ready to run.

  Attributes:
    run: `(inputs [B, ...]) -> outputs [B, ...]`, dicts of NumPy arrays.
    about: the content of export.json.
    tokenizer: of texts; None for a model without.
  """

  run: Callable
  about: dict[str, Any]
  tokenizer: Tokenizer | None


def write(
  program: Program,
  trained: Trained,
  name: str,
  folder: Path,
  calibration: Mapping[str, np.ndarray] | None = None,
  packed: bool = False,
  finish: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
  """Writes a model in a format, whole or not at all; what the folder held before is replaced.

  Args:
    program: of the model.
    trained: the model itself.
    name: of the format, with a scheme of `formats.SCHEMES` after a '-' where it is quantised.
    folder: of this export alone.
    calibration: inputs [N, ...] of the program, from the training split, for a scheme with fixed ranges.
    packed: whether the file of the model is gzipped, as for a download.
    finish: writes what the format needs beside its file into the folder that is given.

  Returns:
    The content of export.json.

  Raises:
    KdjaxError: as the format does, without the examples that a scheme needs, or where the folder holds
      something else.
  """
  module, form, scheme = formats.module(name), *formats.split(name)
  if scheme == 'static8' and not calibration:
    raise KdjaxError('static8 needs examples for the ranges of activations: give it the data of the workdir.')
  example, writes = trained.interface['example'], predict.writes(trained.interface)
  read = {k: v for k, v in example.items() if writes or k in program.inputs}
  interface = trained.interface | {'example': read}
  with whole(folder) as part:
    if scheme:
      with tempfile.TemporaryDirectory() as temporary:
        module.write(program, source := Path(temporary) / module.FILE)
        module.quantise(source, part / module.FILE, scheme, calibration)
    else:
      module.write(program, part / module.FILE)
    if packed and not finish:  # what a page needs it fetches as it is
      _pack(part / module.FILE)
    files.write(part / 'predict.py', Path(alone.__file__).read_text(encoding='utf-8'))
    if trained.tokenizer is not None:
      files.write(part / tokenizers.FILE, trained.tokenizer.to_str())
    if finish:
      finish(part)
    about = {
      'format': form,
      'quantised': scheme,
      'model': trained.attributes,
      'seed': trained.seed,
      'inputs': program.inputs,
      'outputs': program.outputs,
      'interface': interface,
      'files': {str(p.relative_to(part)): digest(p) for p in sorted(part.rglob('*')) if p.is_file()},
    }
    files.write_json(part / FILE, about)
  return about


def _pack(path: Path) -> None:
  """Replaces a file by its gzipped form, the same bytes every time."""
  if path.is_dir():
    raise KdjaxError(f'{path.name}: a folder of several files is not gzipped.')
  path.with_name(f'{path.name}.gz').write_bytes(gzip.compress(path.read_bytes(), 9, mtime=0))
  path.unlink()


def read(folder: Path, threads: int = 0, trusted: bool = False) -> Exported:
  """The model of a folder that `write` wrote.

  Args:
    folder: of one export.
    threads: of the runtime, 0 for all cores.
    trusted: whether a folder of Python code may be run.

  Raises:
    KdjaxError: if it holds no export, or a file of it is damaged.
  """
  about = describe(folder)
  module = formats.module(about['format'])
  if about['format'] == 'python' and not trusted:
    raise KdjaxError(
      f'{folder} is Python code, which kdjax does not run: run its predict.py if you trust it.'
    )
  needed(module.RUNTIME, f'{about["format"]}', module.PIP)
  try:
    model = alone.Model(folder, threads)
  except Exception as e:  # whatever a runtime raises about a file
    raise KdjaxError(f'{folder} cannot be run ({files.first_line(e)}): {ANEW}.') from e
  return Exported(model.run, about, tokenizers.kept(folder))


def describe(folder: Path) -> dict[str, Any]:
  """The content of export.json, once all files are seen to be those that were written.

  Raises:
    KdjaxError: as `read` does.
  """
  if not (folder / FILE).exists():
    raise KdjaxError(f'{folder} holds no exported model: `export --workdir=W --to=onnx` writes one.')
  about = files.read_json(folder / FILE, SCHEMA, ANEW)
  for name, expected in about['files'].items():
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file() or digest(path) != expected:
      raise KdjaxError(f'{path} is not the file that was exported: {ANEW}.')
  return about


def size(folder: Path, about: Mapping[str, Any]) -> int:
  """Bytes of the model; its tokenizer comes on top."""
  others, file = ('predict.py', tokenizers.FILE), formats.module(about['format']).FILE
  names = [file] if file in about['files'] else [name for name in about['files'] if name not in others]
  return sum((folder / name).stat().st_size for name in names)


def digest(path: Path) -> str:
  """The SHA-256 of a file."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
  """A folder to write to, which becomes `folder` when it is complete.

  Raises:
    KdjaxError: if `folder` holds something that is no export.
  """
  if folder.exists() and not (folder / FILE).exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise KdjaxError(f'{folder} is not empty, and holds no exported model: choose another folder.')
  folder.parent.mkdir(parents=True, exist_ok=True)
  part, old = (folder.with_name(f'.{folder.name}.{what}.{os.getpid()}') for what in ('new', 'old'))
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir()
  try:
    yield part
    if folder.exists():
      os.replace(folder, old)
    os.replace(part, folder)
  finally:
    shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def copy(source: Path, folder: Path) -> None:
  """Copies an export, whole or not at all.

  Raises:
    KdjaxError: if `folder` holds something that is no export.
  """
  with whole(folder) as part:
    shutil.copytree(source, part, dirs_exist_ok=True)
