"""What survives a crash: training states through Orbax, finished models as safetensors.

Both carry a checksum of the arrays themselves, which is compared whenever they are read: a byte that flips on
the disk is an error or a step back to an older state, and never another model.
"""

import errno
import functools
import hashlib
import json
import logging
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kdjax import files
from kdjax.errors import KdjaxError
from kdjax.files import regular_file
from kdjax.progress import say

BESIDE = {'batches': object, 'wall_time_s': files.NUMBER, 'failed': {str: int}}
HEADER = 'kdjax'  # of an exported model: one key, since the order of several is not the same in every file


def hash_arrays(tree: Any) -> str:
  """SHA-256 of every array of a tree, its place and its type: the identity of weights."""
  digest = hashlib.sha256()
  for part in _parts(tree):
    digest.update(part)
  return digest.hexdigest()[:16]


def checksum(tree: Any) -> int:
  """CRC-32 of the same, which is two to four times as fast and knows what a disk has damaged."""
  return functools.reduce(lambda crc, part: zlib.crc32(part, crc), _parts(tree), 0)


def _parts(tree) -> Iterator[Any]:
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    x = np.ascontiguousarray(x)
    yield f'{jax.tree_util.keystr(path)} {x.dtype} {x.shape}'.encode()
    yield x.reshape(-1).view(np.uint8)


class Restored(NamedTuple):
  step: int
  tree: Any  # of arrays, as it was saved
  data: Any  # what went beside it as JSON: the data iterator's state, the time spent


class Checkpoints:
  """The last few states of one training, written in the background.

  Args:
    folder: where they lie; a step a folder.
    keep: how many.
  """

  def __init__(self, folder: Path, keep: int = 2):
    _quiet()
    self.folder = Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    self.manager = ocp.CheckpointManager(self.folder, options=options)

  def save(self, step: int, tree: Any, data: Any) -> None:
    """Saves in the background; `tree` must not be donated before the next `wait`."""
    data = files.sealed({'arrays': checksum(tree), 'data': data})
    items = ocp.args.Composite(tree=ocp.args.StandardSave(tree), data=ocp.args.JsonSave(data))
    try:
      self.manager.save(step, args=items)
    except (OSError, ValueError, RuntimeError) as e:
      raise self._unwritten(e) from e

  def restore(self, like: Any) -> Restored | None:
    """The newest state that can be read whole, or None; says so when it had to go back.

    Args:
      like: a tree of the structure, shapes and shardings that were saved.

    Raises:
      KdjaxError: if there are checkpoints and none of them can be read.
    """
    steps, bad = sorted(self.manager.all_steps(), reverse=True), []
    for step in steps:
      items = ocp.args.Composite(tree=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
      try:
        restored = self.manager.restore(step, args=items)
        data = files.unsealed(restored['data'])
        if 'arrays' in data:  # an earlier version saved no checksum
          if data['arrays'] != checksum(restored['tree']):
            raise ValueError('the checksum of its arrays is another')
          data = data['data']
        if wrong := files.misfit(data, BESIDE):
          raise ValueError(wrong)
      except Exception as e:  # a damaged file shows up as any of a dozen types
        bad.append(step)
        path = self.folder / str(step)
        say(f'the checkpoint {path} cannot be read ({_first_line(e)}); trying an older one')
        continue
      for damaged in bad:  # their place is needed, and only now is it sure that they are bad
        self.manager.delete(damaged)
      return Restored(step, restored['tree'], data)
    if steps:
      raise KdjaxError(
        f'none of the checkpoints in {self.folder} can be read; move it away to start this stage again.'
      )
    return None

  def newest(self) -> int | None:
    return self.manager.latest_step()

  def wait(self) -> None:
    """Until everything saved is on the disk."""
    try:
      self.manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as e:
      raise self._unwritten(e) from e

  def close(self) -> None:
    try:
      self.manager.close()
    except (OSError, ValueError, RuntimeError) as e:
      raise self._unwritten(e) from e
    finally:
      self._clear()

  def _clear(self):
    """Deletes what is half written and takes room."""
    for half in self.folder.glob('*.orbax-checkpoint-tmp*') if not jax.process_index() else ():
      shutil.rmtree(half, ignore_errors=True)

  def _unwritten(self, error):
    self._clear()
    last = self.newest()
    kept = 'nothing was saved before' if last is None else f'the last good one is of step {last}'
    return KdjaxError(
      f'cannot write a checkpoint to {self.folder} ({_first_line(error)}); {kept}. '
      'Make room and run the same command again.'
    )


@functools.cache
def _quiet() -> None:
  """Keeps tracebacks of Orbax's threads off the screen: what goes wrong in them is raised here too."""
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  before = sys.unraisablehook

  def hook(what):  # TensorStore answers when the loop that asked has ended with the first write that failed
    if str(what.exc_value) != 'Event loop is closed':
      before(what)

  sys.unraisablehook = hook


def _first_line(error: Exception) -> str:
  full = getattr(error, 'errno', 0) in (errno.ENOSPC, errno.EDQUOT) or 'RESOURCE_EXHAUSTED' in str(error)
  return 'the disk is full' if full else (str(error).strip() or type(error).__name__).split('\n')[0][:200]


def whole(name: str) -> str:
  """The name of a variable in a file, where frozen weights are among the 'params'."""
  return f'params/{name.removeprefix("frozen/")}' if name.startswith('frozen/') else name


def export(path: Path, variables: Mapping, vocabulary: str = '') -> None:
  """Variables as one safetensors file; a name is the path of its leaf, joined by '/', see `whole`.

  Args:
    path: the file.
    variables: the arrays.
    vocabulary: a hash of the tokenizer whose ids the model reads; '' for none.

  Raises:
    KdjaxError: if it cannot be written.
  """
  flat = traverse_util.flatten_dict(jax.device_get(variables), sep='/')
  try:
    with files.swapped_in(path) as part:
      arrays = {whole(k): np.asarray(v, order='C') for k, v in flat.items()}
      metadata = files.sealed({'vocabulary': vocabulary, 'arrays': hash_arrays(arrays)})
      save_file(arrays, part, {HEADER: json.dumps(metadata)})
  except SafetensorError as e:
    raise KdjaxError(f'cannot write the model {path} ({_first_line(e)}).') from e


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
  """Name -> array of a safetensors file, and what is written in its header.

  Raises:
    KdjaxError: if it is missing or damaged.
  """
  try:
    with safe_open(regular_file(path, 'model'), 'numpy') as file:
      tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118, it is no dict
      header = file.metadata() or {}
    if HEADER in header:  # an earlier version wrote no checksum
      header = files.unsealed(files.parse(header[HEADER]))
      if header['arrays'] != hash_arrays(tensors):
        raise ValueError('the checksum of its arrays is another')
    return tensors, header
  except (OSError, SafetensorError, TypeError, ValueError, AttributeError, KeyError) as e:  # types, too
    anew = 'delete the stage.json beside it and run the same command, which exports it anew'
    raise KdjaxError(
      f'cannot read the model {path} ({_first_line(e)}); if a training of kdjax wrote it, {anew}.'
    ) from e


def fit(stored: Mapping[str, Any], like: Mapping, source: str | Path) -> dict:
  """Flat variables as the tree that `like` is, if they have its names and shapes.

  Which weights are frozen makes no difference: files of earlier versions name them 'frozen/...'.

  Raises:
    KdjaxError: if they have not; it says what `source` lacks, what it has beyond it, and what is of
      another shape.
  """
  flat = traverse_util.flatten_dict(like, sep='/')
  places, wanted = {whole(k): k for k in flat}, {whole(k): v for k, v in flat.items()}
  stored = {whole(k): v for k, v in stored.items()}
  missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
  other = [
    f'{k} {list(stored[k].shape)} for {list(wanted[k].shape)}'
    for k in sorted(wanted.keys() & stored.keys())
    if stored[k].shape != wanted[k].shape
  ]
  if missing or extra or other:
    problems = [
      f'{len(names)} {what} ({", ".join(names[:3])}{", …" if len(names) > 3 else ""})'
      for what, names in (('missing', missing), ('extra', extra), ('of another shape', other))
      if names
    ]
    raise KdjaxError(f'{source} is not of this architecture: {"; ".join(problems)}.')
  tree = traverse_util.unflatten_dict({places[k]: v for k, v in stored.items()}, sep='/')
  return {kind: tree.get(kind, {}) for kind in like}  # all weights may be frozen


def load(path: Path, like: Mapping, vocabulary: str = '', without: str = '') -> dict:
  """Variables from a safetensors file.

  Args:
    path: the file.
    like: a tree of the names and shapes that are wanted.
    vocabulary: a hash of the tokenizer in use.
    without: a module whose variables are left out.

  Raises:
    KdjaxError: if the file is missing or damaged, or its architecture or vocabulary is another.
  """
  stored, header = read(path)
  stored = {k: v for k, v in stored.items() if not without or k.split('/')[1] != without}
  variables = fit(stored, like, path)
  of = header.get('vocabulary')
  if of and vocabulary and of != vocabulary:
    raise KdjaxError(f'{path} was trained with another vocabulary: set data.tokenizer to its tokenizer.json.')
  return variables
