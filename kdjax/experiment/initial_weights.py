"""The weights that a stage of an experiment starts from, where they are not drawn."""

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from kdjax import pretrained, registry
from kdjax.errors import KdjaxError
from kdjax.pretrained import initialize, safetensors_io
from kdjax.runtime import files
from kdjax.training import finite


def published(experiment: Any) -> dict:
  """The variables of a teacher that is not trained.

  Raises:
    KdjaxError: for a part that is frozen and has no 'init', or weights that do not fit.
  """
  init = experiment.config['teacher']['init']
  if not init:
    return _of_parts(experiment)
  source = init, experiment.attributes('teacher'), experiment.shapes('teacher')[0]
  classes = experiment.data.of('teacher').dataset.classes
  return pretrained.load(*source, experiment.vocabulary_of('teacher'), classes=classes)


def _of_parts(experiment):
  expected = flatten_dict(experiment.shapes('teacher')[0])
  if set(expected) == {('frozen', 'none')}:  # a function, or outputs
    return {'params': {}, 'frozen': {'none': np.zeros(1, np.float32)}}
  loaded = flatten_dict(experiment.start('teacher'))
  for part in initialize.parts(experiment.attributes('teacher')):
    if part.path and any(k[1 : len(part.path) + 1] == part.path for k in expected.keys() - loaded.keys()):
      raise KdjaxError(
        f'teacher.model.{".".join(part.path)} is frozen, and nothing says with which weights: give it an '
        "'init', or leave its 'frozen' out."
      )
  return experiment.start('teacher')


def start(experiment: Any, stage: str, i: int) -> dict:
  """The initial variables of a stage's model for seed i: a part of them, or {}.

  Raises:
    KdjaxError: for weights that do not fit.
  """
  name = experiment.stage_config(stage)['model'].get('model')
  given = registry.python_object(name).variables if registry.is_object(name) else None
  if given is not None:
    flat = flatten_dict(given if 'params' in given else {'params': given}, sep='/')
    return safetensors_io.fit(flat, experiment.shapes(stage)[0], f'what came with the {stage}')

  def teacher():
    return experiment.attributes('teacher'), experiment.one_teacher(i)

  if stage != 'teacher' and experiment.config['student']['init']:
    return _trained_before(experiment, stage, i)
  target = experiment.attributes(stage), experiment.shapes(stage)[0], experiment.vocabulary_of(stage)
  classes = experiment.data.of(stage).dataset.classes
  return initialize.load(*target, teacher if stage != 'teacher' else None, classes)


def _trained_before(experiment, stage, i):
  """The weights of `student.init`: those of the same seed of a workdir, or a file."""
  path, seed = files.user_path(experiment.config['student']['init']), experiment.seeds(stage)[i]
  try:
    folder = path / 'student' if (path / 'student').is_dir() else path
    if path.is_dir():
      path = folder / f'seed_{seed}.safetensors'
    there = path.is_file()
  except OSError as e:  # such as a name that is too long
    raise KdjaxError(f'student.init: {path} cannot be read ({e.strerror}).') from e
  if not there:
    raise KdjaxError(
      f'student.init: there is no {path}; give the workdir of an experiment with the seed {seed}, or a '
      '.safetensors file.'
    )
  return finite.check(
    safetensors_io.load(path, experiment.shapes(stage)[0], experiment.vocabulary_of('student')),
    str(path),
    'give another',
  )
