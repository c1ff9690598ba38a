"""onnxruntime-web: the two files of the npm package that a page needs, fetched once."""

import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from kdjax.errors import KdjaxError
from kdjax.runtime import files

VERSION = '1.30.0'
# In the package -> in the page; every server knows the type of '.js'.
NAMES = {'ort.wasm.bundle.min.mjs': 'ort.js', 'ort-wasm-simd-threaded.wasm': 'ort.wasm'}
CACHE = '~/.cache/kdjax/web'
OWN = 'KDJAX_ORT_WEB'
SECONDS = 900


def copy(folder: Path) -> str:
  """Copies the runtime into a folder; gives its name and version.

  Raises:
    KdjaxError: if it is not in the cache, and npm is missing or fails.
  """
  own = os.environ.get(OWN)
  package = files.user_path(own) if own else _fetched()
  missing = [name for name in NAMES if not (package / 'dist' / name).is_file()]
  if missing:
    raise KdjaxError(
      f'{package} has no dist/{missing[0]}: set {OWN} to the unpacked npm package onnxruntime-web {VERSION}.'
    )
  folder.mkdir()
  for name, here in NAMES.items():
    shutil.copyfile(package / 'dist' / name, folder / here)
  about = files.read_json(package / 'package.json', {'version': str}, 'unpack onnxruntime-web again', {})
  return f'onnxruntime-web {about.get("version", VERSION)}'


def _fetched() -> Path:
  """The package in the cache, by npm where it is not there yet."""
  package = files.user_path(CACHE) / f'onnxruntime-web-{VERSION}'
  if package.exists():
    return package
  package.parent.mkdir(parents=True, exist_ok=True)
  hint = f'or set {OWN} to the unpacked npm package onnxruntime-web {VERSION}'
  npm = shutil.which('npm')
  if npm is None:
    raise KdjaxError(f'web: onnxruntime-web comes by npm, which is not installed: install it, {hint}.')
  with tempfile.TemporaryDirectory(dir=package.parent, prefix='.') as temporary:
    try:
      command = [npm, 'pack', f'onnxruntime-web@{VERSION}', '--silent']
      ended = subprocess.run(command, cwd=temporary, capture_output=True, text=True, timeout=SECONDS)
      if ended.returncode:
        why = [line for line in ended.stderr.splitlines() if line.strip()] or [f'exit {ended.returncode}']
        raise KdjaxError(
          f'web: npm cannot fetch onnxruntime-web ({why[0].strip()[:200]}): be online, {hint}.'
        )
      archive = next(Path(temporary).glob('*.tgz'))
      wanted = {'package/package.json', *(f'package/dist/{name}' for name in NAMES)}
      with tarfile.open(archive) as tar:
        tar.extractall(temporary, [m for m in tar if m.name in wanted], filter='data')
      (Path(temporary) / 'package').rename(package)
    except (subprocess.TimeoutExpired, OSError, StopIteration, tarfile.TarError) as e:
      if not package.exists():  # else another process was first
        raise KdjaxError(f'web: npm cannot fetch onnxruntime-web ({files.first_line(e)}): {hint}.') from e
  return package
