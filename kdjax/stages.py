"""The stages of an experiment: teacher, baseline, student, comparison, each run once."""

import time
from collections.abc import Callable, Mapping

import jax
from jax.experimental import multihost_utils

from kdjax import (
  build,
  checkpoint,
  compare,
  interrupt,
  loop,
  optim,
  parallel,
  pipeline,
  pretrained,
  progress,
  store,
  train,
)
from kdjax.errors import KdjaxError, unknown
from kdjax.experiment import TRAINED, Experiment, claim, digest, flat, refuse
from kdjax.methods import combine

STAGES = (*TRAINED, 'compare')
TAUGHT = ('live', 'store', 'auto')  # the trained teacher, its answers on disk, these if they are there
SOURCES = (*TAUGHT, 'ema', 'past')  # the student's own average, its last epoch


def run(experiment: Experiment, wanted: tuple[str, ...] = STAGES) -> dict | None:
  """Runs the stages that are not done yet, and gives the comparison's results if it is wanted.

  Raises:
    KdjaxError: for anything that the user can put right.
    kdjax.interrupt.Interrupted: when a signal asked to stop.
  """
  for stage in wanted:
    if stage not in STAGES:
      raise unknown('stage', stage, STAGES)
  _check(experiment)
  claim(experiment)
  with interrupt.listening() as stopped:
    for stage in wanted:
      if stopped():
        raise interrupt.Interrupted(f'stopped before {stage}; run the same command to go on.')
      if stage == 'compare':
        return compare.run(experiment)
      missing = {m.folder(stage): (n, m) for n, m in experiment.members.items() if not m.done(stage)}
      if not missing:
        progress.say(f'{stage}: done before')
      elif stage == 'student' and not experiment.done('teacher'):
        raise KdjaxError(f'{experiment.workdir} has no teacher for the student: run the teacher first.')
      members, together = list(missing.values()), experiment.config['run']['together']
      for i in range(0, len(members), together):
        finish(experiment, stage, dict(members[i : i + together]), stopped)
  return None


def _check(experiment):
  """Finds what cannot be run before anything is written, compiled or trained."""
  _check_numbers(experiment.config)
  refuse(experiment)
  for name, member in experiment.members.items():
    _check_numbers(member.config)
    _check_models(member, f'cohort.{name}: ' if member.cohort else '')


def _check_numbers(config):
  """What no type can say; raises KdjaxError."""
  least = {'seeds': 1, 'data.text_length': 1, 'data.vocab_size': 3}
  least |= {
    f'run.{k}': 1 for k in ('eval_every', 'log_every', 'save_every', 'eval_batch', 'keep', 'together')
  }
  least |= {'store.top_k': 0, 'store.views': 1, 'store.shard': 1}
  least |= {f'{s}.train.{k}': 1 for s in ('teacher', 'student') for k in ('steps', 'batch_size')}
  given = flat(config)
  for key, low in least.items():
    if given[key] < low:
      raise KdjaxError(f'{key} is {given[key]}; it has to be {low} or more.')
  if not 0 < config['data']['labels'] <= 1:
    raise KdjaxError(f'data.labels is {config["data"]["labels"]}; it is a share, above 0 and up to 1.')
  for key, choices in (
    ('select', ('last', 'best')),
    ('run.parallel', ('jit', 'pmap')),
    ('teacher.source', SOURCES),
    ('store.dtype', store.DTYPES),
  ):
    if given[key] not in choices:
      raise unknown(key, given[key], choices)


def _check_models(experiment, whose=''):
  """Finds taps, shapes and options that do not fit, before anything is compiled or trained."""
  data, config, mesh = experiment.data, experiment.config, parallel.make_mesh()
  outputs = {stage: experiment.shapes(stage)[1] for stage in ('teacher', 'student')}
  for stage in outputs:
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

  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  source, ema = config['teacher']['source'], config['student']['train']['ema']
  if (source == 'ema') != (source not in TAUGHT and ema > 0):
    raise KdjaxError(
      f"{whose}teacher.source is {source!r} and student.train.ema is {ema}: the source 'ema' takes a decay "
      "above 0, and the source 'past' keeps last epoch's weights in its place."
    )
  if config['generator']:
    build.maker(config['generator'], data, 1)
  if config['generator'] and source != 'live':
    raise KdjaxError(f"{whose}a generator learns from the teacher itself: set teacher.source='live'.")
  taught = outputs['teacher' if source in TAUGHT else 'student']
  method = _method(experiment)

  def losses(s, t, batch):
    params, stats = method.init(jax.random.key(0), s, t, batch)
    return method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))

  try:
    jax.eval_shape(losses, outputs['student'], taught, batch)
  except KdjaxError as e:
    raise KdjaxError(f'{whose}{e}') from e
  parallel.check_relational(config['run']['parallel'], mesh, method.relational)


def _method(experiment):
  config = experiment.config
  return build.method(
    config['methods'],
    config['student']['train']['steps'],
    lambda given: build.model({**config['student'], 'model': given}, experiment.data, experiment.task),
  )


def setup(experiment: Experiment, stage: str, members: Mapping[str, Experiment] | None = None) -> train.Setup:
  """The training of one stage: the baseline is the student's, without a teacher."""
  config, data = experiment.config, experiment.data
  own = config['teacher' if stage == 'teacher' else 'student']['train']
  source = {'teacher': data.train, 'baseline': data.labelled, 'student': data.few}[stage]
  members = members or experiment.members
  live = stage == 'student' and any(m.config['teacher']['source'] in TAUGHT for m in members.values())
  return train.Setup(
    name=stage,
    members={name: _member(m, stage, len(source)) for name, m in members.items()},
    task=experiment.task,
    view=build.view(own, config['seed']),
    teacher=experiment.model('teacher') if live else None,
    teacher_variables=jax.tree.map(lambda x: x[0], experiment.variables('teacher')) if live else {},
    source=source,
    validation=data.validation,
    seeds=experiment.seeds(stage),
    cohort=bool(config['cohort']) and stage != 'teacher',
    steps=own['steps'],
    batch_size=own['batch_size'],
  )


def _member(experiment, stage, examples):
  config = experiment.config
  own, distilled = config['teacher' if stage == 'teacher' else 'student']['train'], stage == 'student'
  itself = distilled and config['teacher']['source'] not in TAUGHT
  epoch, made, steps = -(-examples // own['batch_size']), config['generator'], own['steps']
  maker = build.maker(made, experiment.data, steps) if made and distilled else None
  steps *= maker.loss.student_steps if maker else 1
  return train.Member(
    model=experiment.model(stage),
    method=_method(experiment) if distilled else combine({}),
    tx=optim.optimiser(own['optimiser'], steps),
    task_weight=config['task_weight'] if distilled else 1.0,
    ema=own['ema'],
    past=epoch if itself and config['teacher']['source'] == 'past' else 0,
    own=itself,
    maker=maker,
    folder=experiment.folder(stage),
  )


def finish(
  experiment: Experiment,
  stage: str,
  members: Mapping[str, Experiment] | None = None,
  stopped: Callable[[], bool] = lambda: False,
) -> None:
  """Trains a stage to its end, or takes over the weights of `teacher.init`, and exports them.

  Args:
    experiment: the whole.
    stage: one of `TRAINED`.
    members: those of the cohort that are not done, by name; None for all.
    stopped: as `train.train` takes it.

  Raises:
    KdjaxError, Interrupted: as `train.train` does.
  """
  config, members = experiment.config, members or experiment.members
  if stage == 'teacher':
    members = {'teacher': experiment}
  given = config['teacher']['init'] if stage == 'teacher' else ''
  if given:
    like, attributes = experiment.shapes(stage)[0], experiment.attributes(stage)
    loaded = pretrained.load(given, attributes, like, experiment.vocabulary)
    nothing = {'steps': 0, 'wall_time_s': 0.0, 'first_step_s': 0.0, 'update_s': None}
    trained = {'teacher': {'variables': jax.tree.map(lambda x: x[None], loaded), **nothing}}
    progress.say(f'{stage}: weights from {given}')
  else:
    how = {k: v for k, v in config['run'].items() if k != 'together'}
    how = loop.Loop(select=config['select'], **how)
    folder = next(iter(members.values())).folder(stage)
    if len(members) > 1:
      folder = experiment.workdir / 'cohort' / f'{stage}_{digest(sorted(members))}'
    made = setup(experiment, stage, members)
    if stage == 'student':
      made = store.use(experiment, made, {m.config['teacher']['source'] for m in members.values()}, folder)
    trained = train.train(made, how, folder, config['seed'], stopped)
  if not jax.process_index():
    for name, member in members.items():
      _export(member, stage, trained[name].pop('variables', None))
    for name, member in members.items():  # last, so that a kill between two members loses no training
      of = '' if given else str(folder.relative_to(experiment.workdir))
      _finished(member, stage, trained[name] | {'members': len(members), 'training': of})
  multihost_utils.sync_global_devices(f'exported {stage}')  # the others look for its files


def _export(experiment, stage, variables):
  folder = experiment.folder(stage)
  for i, seed in enumerate(experiment.seeds(stage) if variables else ()):
    one = jax.tree.map(lambda x, i=i: x[i], variables)
    checkpoint.export(folder / f'seed_{seed}.safetensors', one, experiment.vocabulary)


def _finished(experiment, stage, trained):
  config, folder = experiment.config, experiment.folder(stage)
  own = config['teacher' if stage == 'teacher' else 'student']
  checkpoint.write_json(
    folder / 'stage.json',
    {
      'stage': stage,
      'seeds': experiment.seeds(stage),
      **trained,
      'model': own['model'],
      'inputs': own['inputs'],
      'classes': experiment.data.dataset.classes,
      'finished': time.strftime('%Y-%m-%d %H:%M:%S %z'),
    },
  )


def keep(experiment: Experiment, what: str) -> None:
  """The command `store`: 'build', 'verify' or 'info'.

  Raises:
    KdjaxError: if the teacher is not finished, or as `kdjax.store` does.
  """
  if what == 'info':
    store.info(store.folder(experiment))
    return
  _check(experiment)
  claim(experiment)
  made = setup(experiment, 'student')
  if made.teacher is None:
    raise KdjaxError('no student of this config hears the teacher: there is nothing to store.')
  {'build': store.build, 'verify': store.verify}[what](experiment, made)


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
  for name, member in experiment.members.items():
    for stage in filter(member.trained, TRAINED):
      own = member.folder(stage) != experiment.folder(stage)
      whose = f'{name}/{stage}' if own else stage
      if whose not in results:
        found = member.judge(stage)(member.variables(stage), source, f'{whose}: {split}').metrics
        results[whose] = {k: v.tolist() for k, v in found.items()}
  if not results:
    raise KdjaxError(f'{experiment.workdir} holds no finished stage: run one first.')
  return results
