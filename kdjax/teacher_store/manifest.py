"""What identifies a store: the teacher, the data, and the format of its taps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kdjax.errors import KdjaxError, differences, unknown
from kdjax.input import pipeline
from kdjax.input.augment import check_stored
from kdjax.runtime import files
from kdjax.runtime.array_hash import hash_arrays
from kdjax.runtime.config_tree import digest, flat
from kdjax.runtime.described import described
from kdjax.runtime.program import program
from kdjax.teacher_store import record
from kdjax.training.setup import Setup
from kdjax.training.step import make_teacher_forward
from kdjax.training.traced import taps_read

FORMAT = 1
NAME = 'manifest.json'
SCHEMA = {'key': str, 'complete': bool, 'bytes?': int}
SCHEMA |= {'identity': {'data.examples': int, 'store.shard': int, 'store.views': int}}
BUILD = f'run `{program()} store build` with the same config'


class Spec(NamedTuple):
  """The store that a config describes.

  Attributes:
    folder: of the store.
    identity: all that decides its content, flat.
    taps: how each is stored.
    wanted: names of the taps that the training reads.
    shard: examples a file.
    views: of every example.
  """

  folder: Path
  identity: Mapping[str, Any]
  taps: tuple[record.Tap, ...]
  wanted: frozenset
  shard: int
  views: int


def folder(experiment: Any) -> Path:
  path = experiment.config['store']['folder']
  return files.user_path(path) if path else experiment.workdir / 'store'


def spec(experiment: Any, setup: Setup) -> Spec:
  """The store that `config.store` describes.

  Args:
    experiment: the whole, not a member of its cohort.
    setup: of the student's training with the live teacher.

  Raises:
    KdjaxError: for a tap that the teacher does not have, data without ids, views that are all equal, or views
      that relate examples.
  """
  config, store = experiment.config, experiment.config['store']
  augment, more_views = list(config['student']['train']['augment']), config['student']['views']
  check_stored(augment)
  if store['views'] > 1 and not augment and not more_views:
    raise KdjaxError(
      f'store.views is {store["views"]}, and student.train.augment is empty: all views would be equal, set 1.'
    )
  batch = next(pipeline.eval_batches(setup.source, setup.batch_size))
  batch.pop('mask')
  if 'id' not in batch:
    raise KdjaxError("a store finds an example by its 'id', and the examples of this data set have none.")
  forward = make_teacher_forward(setup.teacher, setup.augment)
  _, shapes = jax.eval_shape(forward, setup.teacher_variables, batch)
  needed = taps_read(setup, batch)
  names = tuple(store['taps']) or needed
  for name in names:
    if name not in shapes:
      raise unknown('tap of the teacher in store.taps', name, shapes)
  rows = len(batch['id'])
  taps = record.plan({k: shapes[k] for k in names}, rows, store['dtype'], store['top_k'])
  identity = {
    'format': FORMAT,
    'teacher.weights': hash_arrays(setup.teacher_variables),
    **flat({'teacher': {'model': experiment.attributes('teacher')}}),
    **flat({'teacher': {k: config['teacher'][k] for k in ('inputs', 'dtype')}}),
    'data.fingerprint': experiment.data.dataset.fingerprint,
    **({'data.content': experiment.data.dataset.content} if experiment.data.dataset.content else {}),
    'data.examples': len(setup.source),
    **{f'data.{k}': config['data'][k] for k in ('image_size', 'text_length')},
    'data.vocabulary': experiment.vocabulary_of('student'),
    'student.train.augment': augment,
    **(flat({'student': {'views': more_views}}) if more_views else {}),
    'seed': config['seed'] if augment or more_views else None,  # of the views
    **{f'store.{k}': store[k] for k in ('dtype', 'top_k', 'views', 'shard')},
    **{f'taps.{tap.name}': list(tap[1:]) for tap in taps},
  }
  identity = json.loads(json.dumps(identity))
  return Spec(folder(experiment), identity, taps, frozenset(needed), store['shard'], store['views'])


def key(identity: Mapping) -> str:
  """A short hash that ties a shard to its store."""
  return digest(dict(identity))


def taps(manifest: Mapping) -> tuple[record.Tap, ...]:
  """How the taps of a store on disk are stored.

  Raises:
    KdjaxError: if its manifest is not valid.
  """
  loaded = []
  for name, value in sorted(manifest['identity'].items()):
    if name.startswith('taps.'):
      *array, rows, k = value if isinstance(value, list) and len(value) == 4 else [None] * 4
      shape, dtype = described(array, NAME)
      if type(rows) is not bool or type(k) is not int or not 0 <= k <= max(shape[-1:], default=0):
        raise KdjaxError(f'{NAME} has {value!r} for {name}, which is not valid: {BUILD}.')
      loaded.append(record.Tap(name.removeprefix('taps.'), shape, dtype, rows, k))
  return tuple(loaded)


def finished(path: Path) -> bool:
  """Whether there is a complete store."""
  metadata = load(path)
  return bool(metadata and metadata['complete'])


def load(path: Path) -> dict | None:
  """The manifest of the store in a folder, None where there is none.

  Raises:
    KdjaxError: if it cannot be read, or is damaged.
  """
  if not (path / NAME).exists():
    return None
  advice = f'delete it and {BUILD}; whole shards are kept'
  metadata = files.read_json(path / NAME, SCHEMA, advice)
  if metadata['key'] != key(metadata['identity']):
    raise KdjaxError(f'cannot read {path / NAME} (its key is not that of its identity): {advice}.')
  return metadata


def differs(metadata: Mapping, required: Spec, whole: bool) -> str:
  """How the store on disk differs from the required one, '' where it fits.

  Args:
    metadata: the manifest of the store.
    required: the spec.
    whole: whether taps and shards have to be the same too; a reader accepts any shards, and a store with
      more taps than it needs.
  """
  stored, expected = metadata['identity'], required.identity
  absent = {'data.content'} - stored.keys()  # in a store of an older version
  all_keys = (stored.keys() | expected.keys()) - absent
  keys = [k for k in all_keys if whole or not k.startswith(('taps.', 'store.shard'))]
  tap_names = {tap.name for tap in taps(metadata)}
  if (difference := differences(stored, expected, keys)) or whole or required.wanted <= tap_names:
    return difference
  return f'taps: {", ".join(sorted(tap_names))} there, {", ".join(sorted(required.wanted))} here'
