"""Builds a store: runs the teacher on every example, in every view."""

import shutil
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax.errors import KdjaxError
from kdjax.runtime import files, progress
from kdjax.teacher_store import live_teacher, manifest, record, write
from kdjax.training.setup import Setup


def build(experiment: Any, setup: Setup) -> None:
  """Runs the teacher on every example and view; resumes an earlier build.

  Every host writes its own shards. Complete shards are kept, damaged ones are written again.

  Raises:
    KdjaxError: if the folder holds another store or another process builds it, the disk is full, or
      the teacher's values do not fit the dtype.
  """
  spec, started = manifest.spec(experiment, setup), time.monotonic()
  examples, key = len(setup.source), manifest.key(spec.identity)
  with write.alone(spec.folder):
    metadata = manifest.load(spec.folder)
    if metadata and (difference := manifest.differs(metadata, spec, whole=True)):
      raise KdjaxError(
        f'{spec.folder} holds another store ({difference}): choose another store.folder, or delete it.'
      )
    shards = range(-(-examples // spec.shard))
    own_shards = shards[jax.process_index() :: jax.process_count()]
    missing = [i for i in own_shards if write.damage(spec.folder, i, key)]
    estimated = progress.size(write.estimate(spec, examples))
    free = shutil.disk_usage(spec.folder).free
    progress.say(
      f'store: {", ".join(tap.name for tap in spec.taps)} of {progress.counted(examples, "example")}, '
      f'{progress.counted(spec.views, "view")} each, to {spec.folder}: {record.record(spec.taps).itemsize} '
      f'bytes a view and about {estimated} in all ({progress.size(free)} free)'
    )
    if not jax.process_index():
      files.write_json(spec.folder / manifest.NAME, write.manifest_of(spec))
    if missing:
      if len(missing) < len(own_shards):
        progress.say(
          f'store: going on, {len(own_shards) - len(missing)} of {len(own_shards)} shards are whole'
        )
      size, run = setup.batch_size // jax.process_count(), experiment.config['run']
      batch = setup.source.take(np.arange(size) % examples) | {'epoch': np.zeros(size, np.int32)}
      teacher = live_teacher.make(setup, spec.taps, batch, run['mesh'], run['shard']['teacher'])
      write.shards(spec, missing, len(own_shards) - len(missing), setup.source.take, teacher, examples)
    multihost_utils.sync_global_devices('stored')
    total = sum(write.sidecar(spec.folder, i)['bytes'] for i in shards)
    _check_ids(spec, shards)
    if not jax.process_index():
      done = {'complete': True, 'bytes': total, 'finished': time.strftime('%Y-%m-%d %H:%M:%S %z')}
      files.write_json(spec.folder / manifest.NAME, write.manifest_of(spec, **done))
    multihost_utils.sync_global_devices('finished')
  seconds = time.monotonic() - started
  n_computed = sum(min(spec.shard, examples - i * spec.shard) for i in missing)
  progress.say(
    f'store: {total / examples / spec.views:.0f} bytes a view, {progress.size(total)} in all, '
    + (f'{n_computed / seconds:.0f} examples/s' if missing else 'done before')
  )


def _check_ids(spec, shards):
  ids = np.concatenate([write.sidecar(spec.folder, i)['ids'] for i in shards])
  unique, counts = np.unique(ids, return_counts=True)
  for duplicate in unique[counts > 1][:1]:
    raise KdjaxError(f'several examples have the id {duplicate}: a store finds an example by its id.')
