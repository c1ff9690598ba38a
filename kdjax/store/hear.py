"""A store in the place of the live teacher."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from kdjax import files, progress
from kdjax.errors import KdjaxError, differences
from kdjax.setup import Setup
from kdjax.store import layout, manifest, read

HEARD = {'store': (dict, type(None))}


def open(spec: manifest.Spec) -> read.Reader:
  """The store that is wanted.

  Raises:
    KdjaxError: if there is none, it is not finished or damaged, or it is of another teacher, of other
      data or of another kind; it names the difference.
  """
  found = manifest.load(spec.folder)
  if found is None:
    raise KdjaxError(f'there is no store in {spec.folder}: {manifest.BUILD}.')
  if said := manifest.differs(found, spec, whole=False):
    raise KdjaxError(f'the store {spec.folder} is another one ({said}): choose another store.folder.')
  if not found['complete']:
    raise KdjaxError(f'the store {spec.folder} is not finished: {manifest.BUILD}, which goes on with it.')
  return read.Reader(spec.folder, found)


def use(experiment: Any, setup: Setup, sources: Iterable[str], folder: Path) -> Setup:
  """The setup with the stored teacher in the live one's place, where that is what a student hears.

  What was begun with one goes on with it, `folder/teacher_outputs.json` says with which.

  Args:
    experiment: the whole, not a member of its cohort.
    setup: of the student's training, with the live teacher.
    sources: `teacher.source` of every member.
    folder: of the training.

  Raises:
    KdjaxError: if the store is not what is wanted, or not what the training was begun with, or nothing
      that is stored could be heard.
  """
  sources = set(sources)
  if not sources & {'store', 'auto'}:
    return setup
  if {'live', 'store'} <= sources:
    raise KdjaxError("the members of a cohort hear one teacher: teacher.source 'live' or 'store', not both.")
  if any(member.maker for member in setup.members.values()):
    if 'store' in sources:
      raise KdjaxError(
        "a generator asks the live teacher about images of its own: set teacher.source='live'."
      )
    return setup
  spec, kept = manifest.spec(experiment, setup), folder / 'teacher_outputs.json'
  anew = f'move {folder} away to train this stage again'
  old = folder / 'heard.json'  # its name of before
  before = files.read_json(kept if kept.exists() else old, HEARD, anew, {})
  reader, why = None, ' (it was begun with it)' if before == {'store': None} else ''
  if 'live' not in sources and not why:
    try:
      reader = open(spec)
    except KdjaxError as e:
      if 'store' in sources or before:
        raise
      why = f' ({e})'
  heard = manifest.load(spec.folder)['identity'] if reader else None
  if before and heard and before['store'] != heard:
    said = differences(before['store'], heard, sorted(heard))
    raise KdjaxError(f'{folder} was begun with another store ({said}): choose another --workdir.')
  multihost_utils.sync_global_devices('heard')  # all have read it
  if not jax.process_index():
    files.write_json(kept, {'store': heard})
  if reader is None:
    progress.say(f'{setup.name}: hears the live teacher{why}')
    return setup
  progress.say(f'{setup.name}: hears the store {spec.folder} ({progress.size(reader.bytes)})')
  return setup._replace(
    teacher=layout.model(reader.taps), teacher_variables={}, reader=reader, wanted=spec.wanted
  )
