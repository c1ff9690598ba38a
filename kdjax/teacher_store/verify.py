"""Describes a store, and verifies it against the live teacher."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.runtime import progress
from kdjax.teacher_store import live_teacher, manifest, record, use, write
from kdjax.training.setup import Setup

TOLERANCE = 0.01  # of a tap's largest value: more than rounding or another chip explains


def verify(experiment: Any, setup: Setup, sample: int = 256) -> dict[str, float]:
  """Computes every checksum, and compares a sample with new outputs of the teacher.

  Returns:
    Tap -> the largest absolute error; of top-k logits that of a class's probability, at temperature 1.

  Raises:
    KdjaxError: if a shard is damaged, or an error is above a hundredth of the tap's largest value.
  """
  spec = manifest.spec(experiment, setup)
  reader = use.open_reader(spec)
  for i in progress.track(range(reader.count), 'checksums', reader.count, 'shard'):
    reader.check(i)
  size = setup.batch_size // jax.process_count()
  rng, errors, peaks = np.random.default_rng(), {}, {}
  first = setup.source.take(np.arange(size) % reader.examples) | {'epoch': np.zeros(size, np.int32)}
  run = experiment.config['run']
  teacher = live_teacher.make(setup, reader.taps, first, run['mesh'], run['shard']['teacher'])
  compare = jax.jit(lambda t, batch: record.compare(reader.taps, t, batch))
  for _ in progress.track(range(-(-sample // size)), 'teacher outputs', -(-sample // size), 'batch'):
    batch, view = setup.source.take(rng.integers(reader.examples, size=size)), int(rng.integers(reader.views))
    t = jax.device_get(teacher.teacher_forward(batch, view))
    stored = reader.take(batch['id'], np.full(size, view))
    for name, (error, peak) in jax.device_get(compare(t, stored)).items():
      errors[name] = max(errors.get(name, 0.0), float(error))
      peaks[name] = max(peaks.get(name, 0.0), float(peak))
  for tap in reader.taps:
    scope = f'in the probabilities of the {tap.k} kept' if tap.k else f'of values up to {peaks[tap.name]:.4g}'
    progress.say(f'{tap.name}: largest error {errors[tap.name]:.3g} {scope} ({tap.dtype})')
    if not errors[tap.name] <= TOLERANCE * peaks[tap.name]:
      raise KdjaxError(
        f'the store {spec.folder} is off by {errors[tap.name]:.3g} in {tap.name!r}, which is more than '
        'rounding: delete it and build it again.'
      )
  return errors


def info(folder: Path) -> dict:
  """Prints what a store holds, without loading data or teacher.

  Raises:
    KdjaxError: if there is no store.
  """
  metadata = manifest.load(folder)
  if metadata is None:
    raise KdjaxError(f'there is no store in {folder}: {manifest.BUILD}.')
  identity = metadata['identity']
  count, key = -(-identity['data.examples'] // identity['store.shard']), manifest.key(identity)
  damaged = {i: damage for i in range(count) if (damage := write.damage(folder, i, key, sums=False))}
  size = sum(
    (write.sidecar_or_none(folder, i) or {}).get('bytes', 0) for i in range(count) if i not in damaged
  )
  progress.say(
    f'{folder}: {progress.counted(identity["data.examples"], "example")}, views of each: '
    f'{identity["store.views"]}, {progress.size(size)}, {count - len(damaged)} of {count} shards, '
    f'{"finished" if metadata["complete"] else "not finished"}'
  )
  for tap in manifest.taps(metadata):
    content = (
      f'{tap.k} of {tap.shape[-1]} classes and the total probability of the others' if tap.k else 'whole'
    )
    progress.say(f'  {tap.name} {list(tap.shape)} {tap.dtype}, {content}')
  for name, value in identity.items():
    if name != 'taps':
      progress.say(f'  {name} = {value!r}')
  for i, damage in list(damaged.items())[:5] if metadata['complete'] else ():
    progress.say(f'  shard {i} is {damage}')
  return metadata
