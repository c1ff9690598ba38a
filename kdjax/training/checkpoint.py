"""Checkpoints of training states, written by Orbax in the background.

A checkpoint has a checksum of its arrays, which is compared when it is restored: a damaged one is skipped for
an older one.
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

METADATA = '_CHECKPOINT_METADATA'  # a file of Orbax in every checkpoint
DATA = {'batches': object, 'wall_time_s': files.NUMBER, 'failed': {str: int}}


class Restored(NamedTuple):
  step: int
  tree: Any  # of arrays, as it was saved
  data: Any  # the JSON beside it, `DATA`: the data iterator's state, the time, the failed members


class Checkpoints:
  """The last few states of one training, written in the background.

  Args:
    folder: of the checkpoints, one folder a step.
    keep: how many of the last.
  """

  def __init__(self, folder: Path, keep: int = 2):
    _quiet()
    _whole_arrays()
    self.folder = Path(folder).absolute()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    try:
      self.manager = ocp.CheckpointManager(self.folder, options=options)
    except Exception as e:  # damaged metadata show up as any of several types
      raise self._damaged(e) from e

  def save(self, step: int, tree: Any, data: Any) -> None:
    """Saves in the background; `tree` must not be donated before the next `wait`."""
    data = files.sealed({'arrays': checksum(tree), 'data': data})
    items = ocp.args.Composite(tree=ocp.args.StandardSave(tree), data=ocp.args.JsonSave(data))
    try:
      self.manager.save(step, args=items)
    except (OSError, ValueError, RuntimeError) as e:
      raise self._unwritten(e) from e

  def restore(self, target: Any) -> Restored | None:
    """The newest checkpoint that is whole, or None where there is none; prints which were skipped.

    Args:
      target: a tree of the structure, shapes and shardings that were saved.

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
        if wrong := files.misfit(data, DATA):
          raise ValueError(wrong)
      except Exception as e:  # a damaged file shows up as any of a dozen types
        damaged_steps.append(step)
        path = self.folder / str(step)
        say(f'the checkpoint {path} cannot be read ({first_line(e)}); trying an older one')
        continue
      for damaged in damaged_steps:  # only now is it sure that an older one is whole
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
    """Waits until everything saved is on the disk."""
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

  def _damaged(self, error):
    """The error of metadata that Orbax cannot read when it opens the folder; it names the checkpoint."""
    for path in sorted(self.folder.glob(f'[0-9]*/{METADATA}')):
      try:
        whole = isinstance(files.parse(path.read_bytes()), dict)
      except (OSError, ValueError):
        whole = False
      if not whole:
        return KdjaxError(
          f'the checkpoint {path.parent} is damaged ({METADATA}): delete it and run the same command, which '
          'goes on from an older one.'
        )
    return KdjaxError(f'cannot read the checkpoints in {self.folder} ({first_line(error)}): move them away.')

  def _clear(self):
    """Deletes checkpoints that are half written."""
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
def _whole_arrays() -> None:
  """Lets Orbax write every array of one process at once.

  It would give each device a slice of it to write, and compile a program for every shape to cut that out,
  even where there is one device: seconds at the first checkpoint of a process.
  """
  if jax.process_count() > 1:
    return
  store = getattr(ocp.type_handlers.get_type_handler(jax.Array), '_array_metadata_store', None)
  handler = ocp.type_handlers.ArrayHandler(use_replica_parallel=False, array_metadata_store=store)
  ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)


@functools.cache
def _quiet() -> None:
  """Hides the tracebacks of Orbax's threads: their errors are raised in this one too."""
  logging.getLogger('absl').addFilter(lambda record: 'orbax' not in record.pathname)
  logging.getLogger('asyncio').setLevel(logging.CRITICAL)
  default_hook = sys.unraisablehook

  def hook(unraisable):  # TensorStore calls back an event loop that a failed write has closed
    if str(unraisable.exc_value) != 'Event loop is closed':
      default_hook(unraisable)

  sys.unraisablehook = hook
