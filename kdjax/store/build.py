"""Builds a store: asks the teacher about every example, in every view."""

import shutil
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax import files, progress
from kdjax.errors import KdjaxError
from kdjax.setup import Setup
from kdjax.store import answers, layout, manifest, write


def build(experiment: Any, setup: Setup) -> None:
  """Asks the teacher about every example and view, and goes on where an earlier build stopped.

  Every host writes shards of its own. A shard that is there whole is left as it is, one that is
  damaged is written again.

  Raises:
    KdjaxError: if the folder holds another store or another builder is at it, the disk is full, or
      the teacher's values do not fit the type.
  """
  spec, began = manifest.spec(experiment, setup), time.monotonic()
  examples, key = len(setup.source), manifest.key(spec.identity)
  with write.alone(spec.folder):
    found = manifest.load(spec.folder)
    if found and (said := manifest.differs(found, spec, whole=True)):
      raise KdjaxError(
        f'{spec.folder} holds another store ({said}): choose another store.folder, or delete it.'
      )
    numbers = range(-(-examples // spec.shard))
    mine = numbers[jax.process_index() :: jax.process_count()]
    missing = [i for i in mine if write.damage(spec.folder, i, key)]
    guess = progress.size(write.estimate(spec, examples))
    free = shutil.disk_usage(spec.folder).free
    progress.say(
      f'store: {", ".join(tap.name for tap in spec.taps)} of {examples} examples, {spec.views} '
      f'view{"s" * (spec.views > 1)} each, to {spec.folder}: {layout.record(spec.taps).itemsize} bytes a '
      f'view and about {guess} in all ({progress.size(free)} free)'
    )
    if not jax.process_index():
      files.write_json(spec.folder / manifest.NAME, write.manifest_of(spec))
    if missing:
      if len(missing) < len(mine):
        progress.say(f'store: going on, {len(mine) - len(missing)} of {len(mine)} shards are whole')
      size = setup.batch_size // jax.process_count()
      batch = setup.source.take(np.arange(size) % examples) | {'epoch': np.zeros(size, np.int32)}
      ask = answers.make(setup, spec.taps, batch)
      write.shards(spec, missing, len(mine) - len(missing), setup.source.take, ask, examples)
    multihost_utils.sync_global_devices('stored')
    total = sum(write.beside(spec.folder, i)['bytes'] for i in numbers)
    _check_ids(spec, numbers)
    if not jax.process_index():
      done = {'complete': True, 'bytes': total, 'finished': time.strftime('%Y-%m-%d %H:%M:%S %z')}
      files.write_json(spec.folder / manifest.NAME, write.manifest_of(spec, **done))
    multihost_utils.sync_global_devices('finished')
  took = time.monotonic() - began
  asked = sum(min(spec.shard, examples - i * spec.shard) for i in missing)
  progress.say(
    f'store: {total / examples / spec.views:.0f} bytes a view, {progress.size(total)} in all, '
    + (f'{asked / took:.0f} examples/s' if missing else 'done before')
  )


def _check_ids(spec, numbers):
  ids = np.concatenate([write.beside(spec.folder, i)['ids'] for i in numbers])
  different, counts = np.unique(ids, return_counts=True)
  for one in different[counts > 1][:1]:
    raise KdjaxError(f'several examples have the id {one}: a store finds an example by its id.')
