"""Checks of an experiment before anything is written, compiled or trained."""

from typing import Any, get_args

import jax

from kdjax import settings
from kdjax.errors import KdjaxError, explained
from kdjax.evaluation import generation_metrics
from kdjax.experiment import build, data_checks, redraw, validate_config, written
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.workdir import check_workdir
from kdjax.input import augment, pipeline, splits
from kdjax.input.encode import TEACHER
from kdjax.pretrained import images, initialize
from kdjax.runtime.progress import say
from kdjax.training import (
  accumulate,
  loss_weights,
  memory,
  monitor,
  multi_step,
  optimizers,
  partition,
  sharding,
  tracking,
)
from kdjax.training.schemes import on_policy

TRAINED_TEACHER = get_args(settings.Taught)


def check(experiment: Experiment, mesh: Any = None) -> None:
  """Checks that an experiment can be run: its config, workdir, models and data.

  Args:
    experiment: the whole, not a member of its cohort.
    mesh: the devices to train on; None for those here, whose memory is checked then.

  Raises:
    KdjaxError: for the first problem, with its config key.
  """
  validate_config.recipe(experiment.config)
  check_workdir(experiment)
  _check_loop(experiment)
  for name, member in experiment.members.items():
    _check_redraw(member)
    _check_models(member, mesh, f'cohort.{name}: ' if member.cohort else '')
  data_checks.check(experiment)  # last: it may read for long


def _check_redraw(experiment):
  """Checks `redraw`."""
  config, redrawn = experiment.config, experiment.config['redraw']
  if 'labels' in redrawn and config['data']['labels'] >= 1:
    raise KdjaxError("redraw has 'labels', and data.labels is 1: nothing is drawn; leave it out.")
  if 'teacher' not in redrawn:
    return
  if experiment.teacher_is_published:
    raise KdjaxError("redraw has 'teacher', whose weights are taken as they are: leave one of the two out.")
  if config['teacher']['source'] in ('store', 'auto'):
    raise KdjaxError("redraw has 'teacher', and a store holds the outputs of one: set teacher.source='live'.")


def _check_loop(experiment):
  """Checks `run`: dispatch against the steps of logs, evaluation and checkpoints, resident, and track."""
  config, data = experiment.config, experiment.data
  tracking.check(config['run']['track'])
  monitor.steps_of(config['run']['profile'])
  run, stages = config['run'], ('student',) if experiment.teacher_is_published else ('teacher', 'student')
  due = {f'{stage}.train.steps': config[stage]['train']['steps'] for stage in stages}
  every = ('log_every', 'save_every', *(() if data.validation is None else ('eval_every',)))
  multi_step.check(run['dispatch'], run['parallel'], due | {f'run.{k}': run[k] for k in every})
  stored = {m.config['teacher']['source'] for m in experiment.members.values()} & {'store', 'auto'}
  held = isinstance(data.train, splits.InMemorySplit) and not stored
  multi_step.lives_on_device(run['resident'], {} if held else None, None)


def _check_inputs(experiment, stage, prefix):
  """Checks that a stage's model can read the texts and sounds, and its pretrained checkpoints."""
  data, own = experiment.data.of(stage), stage == 'teacher' and experiment.data.teacher_tokenizer is not None
  tokenizer_name = experiment.config['data']['teacher_tokenizer' if own else 'tokenizer']
  init = experiment.config['teacher']['init'] if stage == 'teacher' else ''
  model = experiment.attributes(stage) | ({'init': init} if init else {})
  initialize.check(model, data.tokenizer, tokenizer_name, data.dataset.rate, prefix + stage)
  inits = [part.init for part in initialize.parts(experiment.attributes(stage)) if part.init]
  goes_on = stage != 'teacher' and experiment.config['student']['init']
  if (goes_on or inits and all(isinstance(i, str) for i in inits)) and not experiment.done(stage):
    experiment.start(stage)
  if stage == 'teacher' and experiment.teacher_is_published and not experiment.done(stage):
    experiment.published()
  image = data.train.take([0]).get(experiment.stage_config(stage)['inputs'].get('image', 'image'))
  if image is None or experiment.done(stage):
    return
  for part in initialize.parts(model):
    if part.init and isinstance(part.init, str):
      args = part.init, part.config, image.shape[1:3]
      experiment.cached(('size', *map(str, args)), lambda args=args: images.say_size(*args))


def _check_teacher_tokenizer(experiment):
  """Checks that a teacher with a tokenizer of its own reads its own ids, of texts that stay as they are."""
  config = experiment.config
  augmented = [a for a in config['student']['train']['augment'] if a == 'drop_words']
  for key, value, required in (
    ('teacher.inputs', dict(config['teacher']['inputs']), {'text': TEACHER}),
    ('on_policy.share', config['on_policy']['share'], 0),
    ('teacher.writes', config['teacher']['writes'], 0),
    ('student.train.augment', augmented, []),
  ):
    if value != required:
      raise KdjaxError(f'data.teacher_tokenizer needs {key}={required!r}, and that is {value!r}.')
  if not experiment.teacher_is_published:
    raise KdjaxError(
      'data.teacher_tokenizer needs a teacher that is trained already: give its weights in teacher.init.'
    )


def _check_models(experiment, planned, prefix=''):
  """Checks taps, shapes and options by tracing the models, the methods and the task."""
  if experiment.config['data']['labels'] < 1 and not experiment.task.hides_labels:
    task = experiment.config['task']['name']
    raise KdjaxError(
      f'data.labels hides class labels, and the task {task!r} has none that it can do without.'
    )
  data, config = experiment.data, experiment.config
  mesh = planned or sharding.make_mesh(config['run']['mesh'])
  sharding.check_parallel(config['run']['parallel'], mesh, config['run']['shard'])
  if data.teacher_tokenizer is not None:
    _check_teacher_tokenizer(experiment)
  for stage in ('teacher', 'student'):
    _check_inputs(experiment, stage, prefix)
  outputs = {stage: experiment.shapes(stage)[1] for stage in ('teacher', 'student')}
  for stage in outputs:
    for tap, size in experiment.task.outputs(data.of(stage).dataset).items():
      have = outputs[stage].get(tap)
      if size == 0:
        raise KdjaxError(f'the task {config["task"]["name"]!r} needs classes, and the data set has none.')
      if have is None and size is None:
        raise KdjaxError(
          f'the task {config["task"]["name"]!r} reads {tap!r}, and the {stage} has '
          f'{", ".join(outputs[stage])}.'
        )
      if size is not None and (have is None or have.shape[-1] != size):
        raise KdjaxError(
          f'the {stage} has {f"{have.shape[-1]} values" if have else "nothing"} in {tap!r}, and the data '
          f'set has {size} classes: leave num_classes out, or set it to {size}.'
        )
    sharding.check_batch(config[stage]['train']['batch_size'], mesh, f'{stage}.train.batch_size')
  sharding.check_batch(config['run']['eval_batch'], mesh, 'run.eval_batch')
  if config['select'] == 'best' and data.validation is None:
    raise KdjaxError("select='best' needs a validation split, and the data set has none.")

  batch = next(pipeline.eval_batches(data.train, jax.process_count()))
  source, ema = config['teacher']['source'], config['student']['train']['ema']
  if (source == 'ema') != (source not in TRAINED_TEACHER and ema > 0):
    raise KdjaxError(
      f"{prefix}teacher.source is {source!r} and student.train.ema is {ema}: the source 'ema' takes a decay "
      "above 0, and the source 'previous_epoch' keeps last epoch's weights in its place."
    )
  if config['teacher']['outputs'] and (config['student']['train']['augment'] or config['student']['views']):
    say("warning: teacher.outputs are of the examples as they are, and the student's are augmented.")
  if source in ('store', 'auto'):
    augment.check_stored(config['student']['train']['augment'])
    augmentations = [*config['student']['train']['augment'], *config['student']['views']]
    augment.check_source(source, augmentations, prefix)
  if config['generator']:
    build.image_generator(config['generator'], data, 1)
  if writer := on_policy.writer(config, data.tokenizer):
    rewrite = on_policy.make_rewrite(experiment.model(writer.who), writer)
    written_ = jax.eval_shape(rewrite, experiment.shapes(writer.who)[0], batch, jax.random.key(0))
    teacher = experiment.model('teacher')
    jax.eval_shape(
      lambda v, data, new: on_policy.taught(teacher, v, data, new, writer),
      *(experiment.shapes('teacher')[0], batch, written_),
    )
  if config['teacher']['writes']:
    written.check(config, data)
    if source not in TRAINED_TEACHER or config['teacher']['outputs']:
      raise KdjaxError(f'{prefix}teacher.writes needs a teacher that is a model: set it to 0.')
  if not experiment.task.prompted and not config['generation']['seeds']:
    raise KdjaxError('captions are scored by what is written: set generation.seeds=(0,).')
  if not experiment.task.prompted and any(config['modality_robustness'].values()):
    raise KdjaxError('captions are of an image alone: set modality_robustness.subsets=False and noise=().')
  if config['generation']['seeds']:
    generation_metrics.check_package(experiment.task.prompted)
    for stage in outputs:
      settings_ = data.tokenizer, config['generation'], config['data']['prompt_length']
      write = generation_metrics.make_write(experiment.model(stage), *settings_)
      stacked = jax.tree.map(lambda x: x.update(shape=(1, *x.shape)), experiment.shapes(stage)[0])
      jax.eval_shape(write, stacked, batch, 0)
  if config['generator'] and source != 'live':
    raise KdjaxError(f"{prefix}a generator learns from the teacher itself: set teacher.source='live'.")
  if config['student']['views']:
    batch = jax.eval_shape(build.make_augment({'augment': ()}, 0, config['student']['views']), batch)
    outputs = {stage: _view_taps(experiment, stage, batch) for stage in outputs}
  t = outputs['teacher' if source in TRAINED_TEACHER else 'student']
  method = experiment.method()

  def losses(s, t, batch):
    params, stats = method.init(jax.random.key(0), s, t, batch)
    return params, stats, method.loss(params, stats, s, t, batch, step=0, rng=jax.random.key(0))

  try:
    with explained('the methods cannot pair these models with their options'):
      method_state = jax.eval_shape(losses, outputs['student'], t, batch)[:2]
  except KdjaxError as e:
    raise KdjaxError(f'{prefix}{e}') from e
  task_relational = experiment.task.relational
  relational = task_relational or loss_weights.related(method, *method_state)
  sharding.check_relational(config['run']['parallel'], mesh, relational)
  for stage, related in (('teacher', task_relational), ('student', relational)):
    train_config = config[stage]['train']
    accumulate.check_parts(
      train_config['accumulate'],
      train_config['batch_size'],
      sharding.batch_parts(mesh),
      related,
      f'{prefix}{stage}',
    )
    if not planned and (stage == 'student' or not experiment.teacher_is_published):
      _check_memory(experiment, stage, method_state if stage == 'student' else ({}, {}), prefix)


def _view_taps(experiment, stage, batch):
  """The shapes of the taps of a stage's model, of a batch with views."""
  apply, variables = experiment.model(stage).apply, experiment.shapes(stage)[0]
  with explained(f'the model of the {stage} cannot see the views of student.views'):
    return jax.eval_shape(lambda v, b: apply(v, b, train=False)[0], variables, batch)


def _check_memory(experiment, stage, method_state, prefix):
  """Checks that weights and optimizer state fit the free memory."""
  train_config, variables = experiment.stage_config(stage)['train'], experiment.shapes(stage)[0]
  seeds = 1 if redraw.apart(experiment.config, stage) else len(experiment.seeds(stage))
  tx = optimizers.optimiser(train_config['optimiser'], train_config['steps'])
  params, run = {'student': variables['params'], 'method': method_state[0]}, experiment.config['run']
  opt_state, mesh = jax.eval_shape(tx.init, params), sharding.make_mesh(run['mesh'])
  state, rules = (variables, method_state, opt_state), run['shard'][stage]
  specs = partition.of_state(state, params, mesh, rules, f'{prefix}run.shard.{stage}')
  needs = {'for weights and optimisers': seeds * partition.bytes_each(state, specs, mesh)}
  needs['for a copy of these while it is saved'] = needs['for weights and optimisers']
  shrink = f'choose smaller options of {stage}.model' + f', or lower seeds ({seeds})' * (seeds > 1)
  memory.check(f'{prefix}{stage}', needs, memory.free(mesh), shrink)
