"""The experiment: teacher, baseline, student, comparison, each once, in a folder of its own."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from kdjax import build, checkpoint, compare, interrupt, optim, parallel, pipeline, progress, train
from kdjax.errors import KdjaxError, unknown
from kdjax.evaluate import make_evaluate
from kdjax.methods import combine
from kdjax.sources import fingerprint

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

  @cached_property
  def vocabulary(self) -> str:
    """A hash of the tokenizer, '' without one."""
    words = self.data.words
    return fingerprint(sorted(words.get_vocab().items())) if words is not None else ''

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
    loaded = [checkpoint.load(f, like, self.vocabulary) for f in files]
    return jax.tree.map(lambda *x: np.stack(x), *loaded)


def _shapes(model, data):
  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  return jax.eval_shape(model.init, jax.random.key(0), batch)


def claim(experiment: Experiment) -> None:
  """Makes the workdir this experiment's own.

  Raises:
    KdjaxError: if it belongs to another config or other data; it names what differs.
  """
  path, mine = experiment.workdir / 'config.json', _flat(json.loads(json.dumps(experiment.config)))
  if experiment.workdir.exists() and not experiment.workdir.is_dir():
    raise KdjaxError(f'--workdir is {experiment.workdir}, which is a file.')
  if path.exists():
    theirs = _flat(json.loads(path.read_text(encoding='utf-8')))
    bound = {'run.parallel'} | ({'run.eval_every'} if experiment.config['select'] == 'best' else set())
    differ = [k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)]
    differ = [k for k in differ if not k.startswith('run.') or k in bound]
    if differ:
      shown = '; '.join(f'{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here' for k in differ[:4])
      more = f'; and {len(differ) - 4} more' if len(differ) > 4 else ''
      raise KdjaxError(
        f'{experiment.workdir} belongs to another config ({shown}{more}): choose another --workdir.'
      )
  data = {'fingerprint': experiment.data.dataset.fingerprint}
  kept = experiment.workdir / 'data.json'
  if kept.exists() and json.loads(kept.read_text(encoding='utf-8')) != data:
    raise KdjaxError(f'the data have changed since {experiment.workdir} was begun: choose another --workdir.')
  if not jax.process_index():
    checkpoint.write_json(path, experiment.config)
    checkpoint.write_json(kept, data)
    if experiment.data.words is not None:
      checkpoint.write(experiment.workdir / 'tokenizer.json', experiment.data.words.to_str())


def _flat(tree, prefix=''):
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  return {k: v for key, value in tree.items() for k, v in _flat(value, f'{prefix}.{key}'.lstrip('.')).items()}


def run(experiment: Experiment, wanted: tuple[str, ...] = STAGES) -> dict | None:
  """Runs the stages that are not done yet, and gives the comparison's results if it is wanted.

  Raises:
    KdjaxError: for anything that the user can put right.
    kdjax.interrupt.Interrupted: when a signal asked to stop.
  """
  for stage in wanted:
    if stage not in STAGES:
      raise unknown('stage', stage, STAGES)
  _check_numbers(experiment.config)
  claim(experiment)
  _check_models(experiment)
  with interrupt.listening() as stopped:
    for stage in wanted:
      if stopped():
        raise interrupt.Interrupted(f'stopped before {stage}; run the same command to go on.')
      if stage == 'compare':
        return compare.run(experiment)
      if experiment.done(stage):
        progress.say(f'{stage}: done before')
      elif stage == 'student' and not experiment.done('teacher'):
        raise KdjaxError(f'{experiment.workdir} has no teacher for the student: run the teacher first.')
      else:
        finish(experiment, stage, stopped)
  return None


def _check_numbers(config):
  """What no type can say; raises KdjaxError."""
  least = {'seeds': 1, 'data.text_length': 1, 'data.vocab_size': 3}
  least |= {f'run.{k}': 1 for k in ('eval_every', 'log_every', 'save_every', 'eval_batch', 'keep')}
  least |= {f'{s}.train.{k}': 1 for s in ('teacher', 'student') for k in ('steps', 'batch_size')}
  flat = _flat(config)
  for key, low in least.items():
    if flat[key] < low:
      raise KdjaxError(f'{key} is {flat[key]}; it has to be {low} or more.')
  if not 0 < config['data']['labels'] <= 1:
    raise KdjaxError(f'data.labels is {config["data"]["labels"]}; it is a share, above 0 and up to 1.')
  for key, choices in (('select', ('last', 'best')), ('run.parallel', ('jit', 'pmap'))):
    if flat[key] not in choices:
      raise unknown(key, flat[key], choices)


def _check_models(experiment):
  """Finds taps, shapes and options that do not fit, before anything is compiled or trained."""
  data, config, mesh = experiment.data, experiment.config, parallel.make_mesh()
  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  models = {stage: experiment.model(stage) for stage in ('teacher', 'student')}
  outputs = {}
  for stage, model in models.items():
    variables = jax.eval_shape(model.init, jax.random.key(0), batch)
    outputs[stage] = jax.eval_shape(lambda v, b, m=model: m.apply(v, b, train=False)[0], variables, batch)
    for tap, size in experiment.task.outputs(data.dataset).items():
      if not size:
        raise KdjaxError(f'the task {config["task"]["name"]!r} needs classes, and the data set has none.')
      have = outputs[stage].get(tap)
      if have is None or have.shape[-1] != size:
        raise KdjaxError(
          f'the {stage} has {f"{have.shape[-1]} values" if have else "nothing"} in {tap!r}, and the data '
          f'set has {size} classes: leave num_classes out, or set it to {size}.'
        )
    optim.optimiser(config[stage]['train']['optimiser'], config[stage]['train']['steps'])
    build.view(config[stage]['train'], 0)
    parallel.check_batch(config[stage]['train']['batch_size'], mesh, f'{stage}.train.batch_size')
  parallel.check_batch(config['run']['eval_batch'], mesh, 'run.eval_batch')
  if config['select'] == 'best' and data.validation is None:
    raise KdjaxError("select='best' needs a validation split, and the data set has none.")

  method = build.method(config['methods'], config['student']['train']['steps'])

  def losses(s, t, batch):
    params, stats = method.init(jax.random.key(0), s, t, batch)
    return method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))

  jax.eval_shape(losses, outputs['student'], outputs['teacher'], batch)
  parallel.check_relational(config['run']['parallel'], mesh, method.relational)


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


def finish(experiment: Experiment, stage: str, stopped: Callable[[], bool] = lambda: False) -> None:
  """Trains a stage to its end, or takes over the weights of `teacher.init`, and exports them.

  Raises:
    KdjaxError, Interrupted: as `train.train` does.
  """
  config, folder = experiment.config, experiment.folder(stage)
  given = config['teacher']['init'] if stage == 'teacher' else ''
  if given:
    like = _shapes(experiment.model(stage), experiment.data)
    trained = {
      'variables': jax.tree.map(
        lambda x: x[None], checkpoint.load(Path(given).expanduser(), like, experiment.vocabulary)
      ),
      'steps': 0,
      'wall_time_s': 0.0,
      'first_step_s': 0.0,
    }
    progress.say(f'{stage}: weights from {given}')
  else:
    loop = train.Loop(select=config['select'], **config['run'])
    trained = train.train(setup(experiment, stage), loop, folder, config['seed'], stopped)
  if not jax.process_index():
    _export(experiment, stage, trained)
  multihost_utils.sync_global_devices(f'exported {stage}')  # the others look for its files


def _export(experiment, stage, trained):
  config, folder = experiment.config, experiment.folder(stage)
  for i, seed in enumerate(experiment.seeds(stage)):
    one = jax.tree.map(lambda x, i=i: x[i], trained['variables'])
    checkpoint.export(folder / f'seed_{seed}.safetensors', one, experiment.vocabulary)
  own = config['teacher' if stage == 'teacher' else 'student']
  checkpoint.write_json(
    folder / 'stage.json',
    {
      'stage': stage,
      'seeds': experiment.seeds(stage),
      'steps': trained['steps'],
      'wall_time_s': trained['wall_time_s'],
      'first_step_s': trained['first_step_s'],
      'model': own['model'],
      'inputs': own['inputs'],
      'classes': experiment.data.dataset.classes,
      'finished': time.strftime('%Y-%m-%d %H:%M:%S %z'),
    },
  )


def evaluate(experiment: Experiment, split: str) -> dict[str, dict[str, list[float]]]:
  """stage -> metric -> a value a seed, of every finished stage, on a split of the data set.

  Raises:
    KdjaxError: if there is no such split, or no stage was finished.
  """
  claim(experiment)
  data, config, results = experiment.data, experiment.config, {}
  held = {'train': data.train, 'validation': data.validation, config['data']['test']: data.test}
  source = held.get(split)
  if source is None:
    source = pipeline.read(data.dataset, split, data.encode, config['data']['memory'])
  for stage in filter(experiment.done, TRAINED):
    judge = make_evaluate(
      experiment.model(stage), experiment.task, parallel.make_mesh(), config['run']['eval_batch']
    )
    found = judge(experiment.variables(stage), source, f'{stage}: {split}').metrics
    results[stage] = {k: v.tolist() for k, v in found.items()}
  if not results:
    raise KdjaxError(f'{experiment.workdir} holds no finished stage: run one first.')
  return results
