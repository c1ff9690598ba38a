"""What survives a crash: training states through Orbax, finished models as safetensors.

Both carry a checksum of the arrays themselves, which is compared whenever they are read: a byte that flips on
the disk is an error or a step back to an older state, and never another model.
"""

import functools
import logging
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from kdjax.errors import KdjaxError
from kdjax.runtime import files
from kdjax.runtime.array_hash import checksum
from kdjax.runtime.files import first_line
from kdjax.runtime.progress import say

BESIDE = {'batches': object, 'wall_time_s': files.NUMBER, 'failed': {str: int}}


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

  def restore(self, target: Any) -> Restored | None:
    """The newest state that can be read whole, or None; says so when it had to go back.

    Args:
      like: a tree of the structure, shapes and shardings that were saved.

    Raises:
      KdjaxError: if there are checkpoints and none of them can be read.
    """
    steps, damaged_steps = sorted(self.manager.all_steps(), reverse=True), []
    for step in steps:
      items = ocp.args.Composite(tree=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore())
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
        damaged_steps.append(step)
        path = self.folder / str(step)
        say(f'the checkpoint {path} cannot be read ({first_line(e)}); trying an older one')
        continue
      for damaged in damaged_steps:  # their place is needed, and only now is it sure that they are bad
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
    status = 'nothing was saved before' if last is None else f'the last good one is of step {last}'
    return KdjaxError(
      f'cannot write a checkpoint to {self.folder} ({first_line(error)}); {status}. '
      'Make room and run the same command again.'
    )


@functools.cache
def _quiet() -> None:
  """Keeps tracebacks of Orbax's threads off the screen: what goes wrong in them is raised here too."""
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  default_hook = sys.unraisablehook

  def hook(
    unraisable,
  ):  # TensorStore answers when the loop that asked has ended with the first write that failed
    if str(unraisable.exc_value) != 'Event loop is closed':
      default_hook(unraisable)

  sys.unraisablehook = hook
