"""The experiment: teacher, baseline, student, comparison, each once, in a folder of its own."""

import dataclasses
import json
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kdjax import build, checkpoint, compare, optim, parallel, pipeline, progress, train
from kdjax.errors import KdjaxError, unknown
from kdjax.evaluate import make_evaluate
from kdjax.methods import combine

TRAINED = ('teacher', 'baseline', 'student')
STAGES = (*TRAINED, 'compare')


@dataclasses.dataclass
class Experiment:
  """A config, a folder, and what is made from them when it is first asked for.

  Attributes:
    config: a recipe as plain dicts; `configs/common.py` describes its keys.
    workdir: where everything of this experiment lies.
    data_dir: where TFDS keeps prepared data.
    command: how a person runs it again, for the report.
  """

  config: Mapping[str, Any]
  workdir: Path
  data_dir: str | None = None
  command: str = ''

  @cached_property
  def data(self) -> build.Data:
    return build.data(self.config['data'], self.workdir, self.data_dir, self.config['seed'])

  @cached_property
  def task(self):
    return build.task(self.config['task'])

  def model(self, stage: str):
    return build.model(self.config['teacher' if stage == 'teacher' else 'student'], self.data, self.task)

  def seeds(self, stage: str) -> tuple[int, ...]:
    n = 1 if stage == 'teacher' else self.config['seeds']
    return tuple(self.config['seed'] + i for i in range(n))

  def folder(self, stage: str) -> Path:
    return self.workdir / stage

  def done(self, stage: str) -> bool:
    return (self.folder(stage) / 'stage.json').exists()

  def summary(self, stage: str) -> dict:
    return json.loads((self.folder(stage) / 'stage.json').read_text(encoding='utf-8'))

  def variables(self, stage: str) -> dict:
    """The weights that a finished stage gave, stacked over its seeds.

    Raises:
      KdjaxError: if the stage has not been run.
    """
    if not self.done(stage):
      raise KdjaxError(f'{self.workdir} holds no finished {stage}: run the {stage} first.')
    files = [self.folder(stage) / f'seed_{s}.safetensors' for s in self.seeds(stage)]
    like = _shapes(self.model(stage), self.data)
    loaded = [checkpoint.load(f, like) for f in files]
    return jax.tree.map(lambda *x: np.stack(x), *loaded)


def _shapes(model, data):
  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  return jax.eval_shape(model.init, jax.random.key(0), batch)


def claim(experiment: Experiment) -> None:
  """Makes the workdir this config's own.

  Raises:
    KdjaxError: if it belongs to another config; it names the keys that differ.
  """
  path, mine = experiment.workdir / 'config.json', _flat(json.loads(json.dumps(experiment.config)))
  if path.exists():
    theirs = _flat(json.loads(path.read_text(encoding='utf-8')))
    differ = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    differ = [k for k in differ if not k.startswith('run.') or k == 'run.parallel']
    if differ:
      shown = '; '.join(f'{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here' for k in differ[:4])
      more = f'; and {len(differ) - 4} more' if len(differ) > 4 else ''
      raise KdjaxError(
        f'{experiment.workdir} belongs to another config ({shown}{more}): choose another --workdir.'
      )
  elif not jax.process_index():
    checkpoint.write_json(path, experiment.config)


def _flat(tree, prefix=''):
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  return {k: v for key, value in tree.items() for k, v in _flat(value, f'{prefix}.{key}'.lstrip('.')).items()}


def run(experiment: Experiment, wanted: tuple[str, ...] = STAGES) -> dict | None:
  """Runs the stages that are not done yet, and gives the comparison's results if it is wanted.

  Raises:
    KdjaxError: for anything that the user can put right.
    kdjax.train.Interrupted: when a signal asked to stop.
  """
  for stage in wanted:
    if stage not in STAGES:
      raise unknown('stage', stage, STAGES)
  claim(experiment)
  _check_pairs(experiment)
  if experiment.data.words is not None and not jax.process_index():
    checkpoint.write(experiment.workdir / 'tokenizer.json', experiment.data.words.to_str())
  for stage in wanted:
    if stage in TRAINED and not experiment.done(stage):
      if stage == 'student' and not experiment.done('teacher'):
        raise KdjaxError(
          f'the student needs a teacher, and {experiment.workdir} has none: run the teacher first.'
        )
      finish(experiment, stage)
    elif stage in TRAINED:
      progress.say(f'{stage}: done before')
  return compare.run(experiment) if 'compare' in wanted else None


def _check_pairs(experiment):
  """Finds taps, shapes and options that do not fit, before anything is compiled or trained."""
  data, config = experiment.data, experiment.config
  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  models = {stage: experiment.model(stage) for stage in ('teacher', 'student')}
  outputs = {}
  for stage, model in models.items():
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    outputs[stage] = jax.eval_shape(lambda v, b, m=model: m.apply(v, b, train=False)[0], variables, batch)
    for tap, size in experiment.task.outputs(data.dataset).items():
      have = outputs[stage].get(tap)
      if have is None or have.shape[-1] != size:
        raise KdjaxError(
          f'the {stage} has {f"{have.shape[-1]} values" if have else "nothing"} in {tap!r}, and the data '
          f'set has {size} classes: leave num_classes out, or set it to {size}.'
        )
    optim.optimiser(config[stage]['train']['optimiser'], config[stage]['train']['steps'])
    build.view(config[stage]['train'], 0)

  method = build.method(config['methods'], config['student']['train']['steps'])

  def losses(s, t, batch):
    params, stats = method.init(jax.random.key(0), s, t, batch)
    return method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))

  jax.eval_shape(losses, outputs['student'], outputs['teacher'], batch)


def setup(experiment: Experiment, stage: str) -> train.Setup:
  """The training of one stage: the baseline is the student's, without a teacher."""
  config, data = experiment.config, experiment.data
  own = config['teacher' if stage == 'teacher' else 'student']['train']
  distilled = stage == 'student'
  return train.Setup(
    name=stage,
    model=experiment.model(stage),
    task=experiment.task,
    method=build.method(config['methods'], own['steps']) if distilled else combine({}),
    tx=optim.optimiser(own['optimiser'], own['steps']),
    view=build.view(own, config['seed']),
    teacher=experiment.model('teacher') if distilled else None,
    teacher_variables=jax.tree.map(lambda x: x[0], experiment.variables('teacher')) if distilled else {},
    source={'teacher': data.train, 'baseline': data.labelled, 'student': data.few}[stage],
    validation=data.validation,
    seeds=experiment.seeds(stage),
    task_weight=config['task_weight'] if distilled else 1.0,
    steps=own['steps'],
    batch_size=own['batch_size'],
    ema=own['ema'],
  )


def finish(experiment: Experiment, stage: str) -> None:
  """Trains a stage to its end, or takes over the weights of `teacher.init`, and exports them."""
  config, folder = experiment.config, experiment.folder(stage)
  given = config['teacher']['init'] if stage == 'teacher' else ''
  if given:
    like = _shapes(experiment.model(stage), experiment.data)
    trained = {
      'variables': jax.tree.map(lambda x: x[None], checkpoint.load(Path(given), like)),
      'wall_time_s': 0.0,
      'first_step_s': 0.0,
    }
    progress.say(f'{stage}: weights from {given}')
  else:
    loop = train.Loop(select=config['select'], **config['run'])
    trained = train.train(setup(experiment, stage), loop, folder, config['seed'])
  if jax.process_index():
    return
  for i, seed in enumerate(experiment.seeds(stage)):
    one = jax.tree.map(lambda x, i=i: x[i], trained['variables'])
    checkpoint.export(folder / f'seed_{seed}.safetensors', one)
  own = config['teacher' if stage == 'teacher' else 'student']
  checkpoint.write_json(
    folder / 'stage.json',
    {
      'stage': stage,
      'seeds': experiment.seeds(stage),
      'steps': 0 if given else own['train']['steps'],
      'wall_time_s': trained['wall_time_s'],
      'first_step_s': trained['first_step_s'],
      'model': own['model'],
      'inputs': own['inputs'],
      'classes': experiment.data.dataset.classes,
      'finished': time.strftime('%Y-%m-%d %H:%M:%S %z'),
    },
  )


def evaluate(experiment: Experiment, split: str) -> dict[str, dict[str, list[float]]]:
  """stage -> metric -> a value a seed, of every finished stage, on a split of the data set."""
  data = experiment.data
  source = pipeline.read(data.dataset, split, data.encode)
  results = {}
  for stage in TRAINED:
    if experiment.done(stage):
      run_ = make_evaluate(
        experiment.model(stage), experiment.task, parallel.make_mesh(), experiment.config['run']['eval_batch']
      )
      found = run_(experiment.variables(stage), source, f'{stage}: {split}').metrics
      results[stage] = {k: v.tolist() for k, v in found.items()}
  if not results:
    raise KdjaxError(f'{experiment.workdir} holds no finished stage: run one first.')
  return results
