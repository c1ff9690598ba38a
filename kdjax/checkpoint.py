"""What survives a crash: training states through Orbax, finished models as safetensors."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kdjax.errors import KdjaxError
from kdjax.files import regular_file
from kdjax.progress import say


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
    self.folder = Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    self.manager = ocp.CheckpointManager(self.folder, options=options)

  def save(self, step: int, tree: Any, data: Any) -> None:
    """Saves in the background; `tree` must not be donated before the next `wait`."""
    items = ocp.args.Composite(tree=ocp.args.StandardSave(tree), data=ocp.args.JsonSave(data))
    try:
      self.manager.save(step, args=items)
    except (OSError, ValueError) as e:
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
        found = self.manager.restore(step, args=items)
      except Exception as e:  # a damaged file shows up as any of a dozen types
        bad.append(step)
        path = self.folder / str(step)
        say(f'the checkpoint {path} cannot be read ({_first_line(e)}); trying an older one')
        continue
      for damaged in bad:  # their place is needed, and only now is it sure that they are bad
        self.manager.delete(damaged)
      return Restored(step, found['tree'], found['data'])
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
    except (OSError, ValueError) as e:
      raise self._unwritten(e) from e

  def close(self) -> None:
    try:
      self.manager.close()
    except (OSError, ValueError) as e:
      raise self._unwritten(e) from e

  def _unwritten(self, error):
    return KdjaxError(
      f'cannot write a checkpoint to {self.folder} ({_first_line(error)}); the last good one is of step '
      f'{self.newest()}. Make room and run the same command again.'
    )


def _first_line(error: Exception) -> str:
  return str(error).strip().split('\n')[0][:200]


@contextmanager
def swapped_in(path: Path) -> Iterator[Path]:
  """A file to write beside `path`, which takes its place when it is whole and on the disk."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f'.{path.name}.{os.getpid()}')
  try:
    yield part
    with part.open('rb+') as file:
      os.fsync(file.fileno())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def write(path: Path, text: str) -> None:
  """Swaps a whole text file in, so that nobody ever reads half of one."""
  with swapped_in(path) as part:
    part.write_text(text, encoding='utf-8', newline='\n')


def write_json(path: Path, value: Any) -> None:
  write(path, json.dumps(value, indent=2, default=str) + '\n')


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
    with swapped_in(path) as part:
      arrays = {whole(k): np.asarray(v, order='C') for k, v in flat.items()}
      save_file(arrays, part, {'vocabulary': vocabulary})
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
      return tensors, file.metadata() or {}
  except (OSError, SafetensorError) as e:
    raise KdjaxError(f'cannot read the model {path} ({e}).') from e


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
    told = [
      f'{len(names)} {what} ({", ".join(names[:3])}{", …" if len(names) > 3 else ""})'
      for what, names in (('missing', missing), ('extra', extra), ('of another shape', other))
      if names
    ]
    raise KdjaxError(f'{source} is not of this architecture: {"; ".join(told)}.')
  made = traverse_util.unflatten_dict({places[k]: v for k, v in stored.items()}, sep='/')
  return {kind: made.get(kind, {}) for kind in like}  # all weights may be frozen


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
