"""A store in place of the live teacher."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from kdjax.errors import KdjaxError, differences
from kdjax.runtime import files, progress
from kdjax.teacher_store import manifest, read, record
from kdjax.training.setup import Setup

SCHEMA = {'store': (dict, type(None))}


def open_reader(spec: manifest.Spec) -> read.Reader:
  """Opens the store of `spec`.

  Raises:
    KdjaxError: if there is none, it is not finished or damaged, or it is of another teacher, other data
      or another format; the message names the difference.
  """
  metadata = manifest.load(spec.folder)
  if metadata is None:
    raise KdjaxError(f'there is no store in {spec.folder}: {manifest.BUILD}.')
  if difference := manifest.differs(metadata, spec, whole=False):
    raise KdjaxError(f'the store {spec.folder} is another one ({difference}): choose another store.folder.')
  if not metadata['complete']:
    raise KdjaxError(f'the store {spec.folder} is not finished: {manifest.BUILD}, which resumes it.')
  return read.Reader(spec.folder, metadata)


def use_store(experiment: Any, setup: Setup, sources: Iterable[str], folder: Path) -> Setup:
  """The setup with the store in place of the live teacher, where `teacher.source` says so.

  A resumed training keeps its source, which `folder/teacher_outputs.json` records.

  Args:
    experiment: the whole, not a member of its cohort.
    setup: of the student's training, with the live teacher.
    sources: `teacher.source` of every member.
    folder: of the training.

  Raises:
    KdjaxError: if the store does not fit the config, is not the one that the training began with, or
      cannot be used by this training.
  """
  sources = set(sources)
  if not sources & {'store', 'auto'}:
    return setup
  if {'live', 'store'} <= sources:
    raise KdjaxError(
      "the members of a cohort share one teacher: set teacher.source to 'live' or 'store', not both."
    )
  if any(member.image_generator for member in setup.members.values()):
    if 'store' in sources:
      raise KdjaxError("a generator needs the live teacher for its own images: set teacher.source='live'.")
    return setup
  spec, path = manifest.spec(experiment, setup), folder / 'teacher_outputs.json'
  advice = f'move {folder} away to train this stage again'
  old_path = folder / 'heard.json'  # its former name
  previous = files.read_json(path if path.exists() else old_path, SCHEMA, advice, {})
  reader, reason = None, ' (this training began with it)' if previous == {'store': None} else ''
  if 'live' not in sources and not reason:
    try:
      reader = open_reader(spec)
    except KdjaxError as e:
      if 'store' in sources or previous:
        raise
      reason = f' ({e})'
  identity = reader.identity if reader else None
  if previous and identity and previous['store'] != identity:
    difference = differences(previous['store'], identity, sorted(identity))
    raise KdjaxError(f'{folder} was begun with another store ({difference}): choose another --workdir.')
  multihost_utils.sync_global_devices('teacher source read')  # all have read it
  if not jax.process_index():
    files.write_json(path, {'store': identity})
  if reader is None:
    progress.say(f'{setup.name}: uses the live teacher{reason}')
    return setup
  progress.say(f'{setup.name}: uses the store {spec.folder} ({progress.size(reader.bytes)})')
  return setup._replace(
    teacher=record.model(reader.taps), teacher_variables={}, reader=reader, wanted=spec.wanted
  )
