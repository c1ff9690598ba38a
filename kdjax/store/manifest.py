"""What identifies a store: whose answers it holds, to what, and how they are kept."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from kdjax import files, pipeline
from kdjax.augment import check_stored
from kdjax.checkpoint import hash_arrays
from kdjax.compiled_step import taps_read
from kdjax.config_tree import digest, flat
from kdjax.described import described
from kdjax.errors import KdjaxError, differences, unknown
from kdjax.setup import Setup
from kdjax.step import make_look
from kdjax.store import layout

FORMAT = 1
NAME = 'manifest.json'
SCHEMA = {'key': str, 'complete': bool, 'bytes?': int}
SCHEMA |= {'identity': {'data.examples': int, 'store.shard': int, 'store.views': int}}
BUILD = 'run `python run.py store build` with the same config'


class Spec(NamedTuple):
  """A store that is wanted.

  Attributes:
    folder: where it lies.
    identity: all that decides what is in it, flat.
    taps: how each is kept.
    wanted: names of the taps that the training reads.
    shard: examples a file.
    views: of every example.
  """

  folder: Path
  identity: Mapping[str, Any]
  taps: tuple[layout.Tap, ...]
  wanted: frozenset
  shard: int
  views: int


def folder(experiment: Any) -> Path:
  given = experiment.config['store']['folder']
  return files.user_path(given) if given else experiment.workdir / 'store'


def spec(experiment: Any, setup: Setup) -> Spec:
  """The store that `config.store` asks for.

  Args:
    experiment: the whole, not a member of its cohort.
    setup: of the student's training with the live teacher.

  Raises:
    KdjaxError: for a tap that the teacher does not have, data without ids, views that are all alike, or views
      that relate examples.
  """
  config, own, given = experiment.config, experiment.config['store'], experiment.config['student']['train']
  augment, shown = list(given['augment']), config['student']['views']
  check_stored(augment)
  if own['views'] > 1 and not augment and not shown:
    raise KdjaxError(
      f'store.views is {own["views"]}, and student.train.augment is empty: all views would be alike, set 1.'
    )
  batch = next(pipeline.eval_batches(setup.source, setup.batch_size))
  batch.pop('mask')
  if 'id' not in batch:
    raise KdjaxError("a store finds an example by its 'id', and the examples of this data set have none.")
  forward = make_look(setup.teacher, setup.view)
  _, shapes = jax.eval_shape(forward, setup.teacher_variables, batch)
  wanted = taps_read(setup, batch)
  names = tuple(own['taps']) or wanted
  for name in names:
    if name not in shapes:
      raise unknown('tap of the teacher in store.taps', name, shapes)
  rows = len(batch['id'])
  taps = layout.plan({k: shapes[k] for k in names}, rows, own['dtype'], own['top_k'])
  identity = {
    'format': FORMAT,
    'teacher.weights': hash_arrays(setup.teacher_variables),
    **flat({'teacher': {'model': experiment.attributes('teacher')}}),
    **flat({'teacher': {k: config['teacher'][k] for k in ('inputs', 'dtype')}}),
    'data.fingerprint': experiment.data.dataset.fingerprint,
    **({'data.content': experiment.data.dataset.content} if experiment.data.dataset.content else {}),
    'data.examples': len(setup.source),
    **{f'data.{k}': config['data'][k] for k in ('image_size', 'text_length')},
    'data.vocabulary': experiment.vocabulary,
    'student.train.augment': augment,
    **flat({'student': {'views': shown}} if shown else {}),
    'seed': config['seed'] if augment or shown else None,  # of the views
    **{f'store.{k}': own[k] for k in ('dtype', 'top_k', 'views', 'shard')},
    **{f'taps.{tap.name}': list(tap[1:]) for tap in taps},
  }
  identity = json.loads(json.dumps(identity))
  return Spec(folder(experiment), identity, taps, frozenset(wanted), own['shard'], own['views'])


def key(identity: Mapping) -> str:
  """A short hash that ties a shard to its store."""
  return digest(dict(identity))


def taps(manifest: Mapping) -> tuple[layout.Tap, ...]:
  """How a store on disk keeps its taps.

  Raises:
    KdjaxError: if its manifest says what cannot be.
  """
  made = []
  for name, value in sorted(manifest['identity'].items()):
    if name.startswith('taps.'):
      *array, rows, k = value if isinstance(value, list) and len(value) == 4 else [None] * 4
      shape, dtype = described(array, NAME)
      if type(rows) is not bool or type(k) is not int or not 0 <= k <= max(shape[-1:], default=0):
        raise KdjaxError(f'{NAME} says {value!r} of {name}, which cannot be: {BUILD}.')
      made.append(layout.Tap(name.removeprefix('taps.'), shape, dtype, rows, k))
  return tuple(made)


def finished(path: Path) -> bool:
  """Whether a store is there, and whole."""
  found = load(path)
  return bool(found and found['complete'])


def load(path: Path) -> dict | None:
  """The manifest of the store in a folder, None where there is none.

  Raises:
    KdjaxError: if it cannot be read, or is damaged.
  """
  if not (path / NAME).exists():
    return None
  anew = f'delete it and {BUILD}; whole shards are kept'
  found = files.read_json(path / NAME, SCHEMA, anew)
  if found['key'] != key(found['identity']):
    raise KdjaxError(f'cannot read {path / NAME} (its key is not that of its identity): {anew}.')
  return found


def differs(found: Mapping, wanted: Spec, whole: bool) -> str:
  """What the store on disk has otherwise than is wanted, '' where it fits.

  Args:
    found: its manifest.
    wanted: the spec.
    whole: whether taps and shards have to be the very same too; a reader takes any shards, and a
      store that holds more than the taps it wants.
  """
  theirs, mine = found['identity'], wanted.identity
  new = {'data.content'} - theirs.keys()  # of a store that is older
  every = (theirs.keys() | mine.keys()) - new
  keys = [k for k in every if whole or not k.startswith(('taps.', 'store.shard'))]
  have = {tap.name for tap in taps(found)}
  if (said := differences(theirs, mine, keys)) or whole or wanted.wanted <= have:
    return said
  return f'taps: {", ".join(sorted(have))} there, {", ".join(sorted(wanted.wanted))} here'
