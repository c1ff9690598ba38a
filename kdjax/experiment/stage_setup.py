"""What a stage is trained with: its models, data, losses and seeds."""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from kdjax.experiment import build
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import TRAINED_TEACHER
from kdjax.input import augment
from kdjax.training import optimizers, quantize, streams
from kdjax.training.loss_weights import combine
from kdjax.training.schemes import on_policy
from kdjax.training.setup import Average, Member, Setup


def setup(
  experiment: Experiment,
  stage: str,
  members: Mapping[str, Experiment] | None = None,
  i: int | None = None,
  shapes_only: bool = False,
) -> Setup:
  """The `Setup` of one stage; those of baseline and ceiling are the student's without a teacher.

  Args:
    experiment: the experiment, not a member of its cohort.
    stage: one of `TRAINED`.
    members: name -> the members to train; None for all.
    i: the index of one seed; None for all seeds.
    shapes_only: whether shapes stand for the weights of the teacher, and no others are read, for a plan.
  """
  config, data = experiment.config, experiment.data
  train_config, seeds = experiment.stage_config(stage)['train'], experiment.seeds(stage)
  source = experiment.source(stage, i or 0)
  members = members or experiment.members
  sources = {m.config['teacher']['source'] for m in members.values()}
  live = stage == 'student' and bool(sources & set(TRAINED_TEACHER))
  teacher_variables = _teacher_variables(experiment, i or 0, shapes_only) if live else {}
  return Setup(
    name=stage,
    members={name: _member(m, stage, len(source), i, shapes_only) for name, m in members.items()},
    task=experiment.task,
    augment=_augmentation(experiment, stage),
    teacher=quantize.model(experiment.model('teacher'), config['teacher']['weights']) if live else None,
    teacher_variables=teacher_variables,
    source=source,
    validation=data.validation,
    seeds=streams.seeds(seeds if i is None else seeds[i : i + 1], stage, experiment.protocol),
    cohort=bool(config['cohort']) and stage != 'teacher',
    steps=train_config['steps'],
    batch_size=train_config['batch_size'],
    index_shuffle=experiment.protocol < 4,
  )


def _teacher_variables(experiment, i, shapes_only):
  weights = experiment.config['teacher']['weights']
  if not shapes_only:
    return quantize.variables(experiment.one_teacher(i), weights)
  return jax.eval_shape(lambda v: quantize.variables(v, weights, jnp), experiment.shapes('teacher')[0])


def _augmentation(experiment, stage):
  """The augmentation of a stage; without a teacher as many views of an example as the student of a store."""
  config, train_config = experiment.config, experiment.stage_config(stage)['train']
  views = config['student']['views'] if stage == 'student' else {}  # of no use to others
  augmentation = build.make_augment(train_config, config['seed'], views)
  from_store = augment.of_store(m.config for m in experiment.members.values())
  if stage in ('baseline', 'ceiling') and from_store and experiment.protocol > 1:
    return augment.repeated(augmentation, config['store']['views'])
  return augmentation


def _member(experiment, stage, examples, i, shapes_only):
  config = experiment.config
  train_config, is_student = experiment.stage_config(stage)['train'], stage == 'student'
  self_distilled = is_student and config['teacher']['source'] not in TRAINED_TEACHER
  epoch, steps = -(-examples // train_config['batch_size']), train_config['steps']
  generator = config['generator']
  image_generator = (
    build.image_generator(generator, experiment.data, steps) if generator and is_student else None
  )
  steps *= image_generator.loss.student_steps if image_generator else 1
  return Member(
    model=experiment.model(stage),
    method=experiment.method() if is_student else combine({}),
    tx=optimizers.optimiser(train_config['optimiser'], steps),
    task_weight=config['task_weight'] if is_student else 1.0,
    average=Average(
      ema=train_config['ema'],
      warmup=experiment.protocol > 1,
      previous_epoch=epoch if self_distilled and config['teacher']['source'] == 'previous_epoch' else 0,
    ),
    self_teacher=self_distilled,
    image_generator=image_generator,
    writer=on_policy.writer(config, experiment.data.tokenizer) if is_student else None,
    folder=seed_folder(experiment, stage, i, experiment.folder(stage)),
    parts=train_config['accumulate'],
    remat=train_config['remat'],
    start={} if shapes_only else experiment.start(stage, i or 0),
  )


def seed_folder(experiment: Experiment, stage: str, i: int | None, folder: Path) -> Path:
  """The folder of the log and the checkpoints of seed i; of all seeds for None."""
  return folder if i is None else folder / f'seed_{experiment.seeds(stage)[i]}'
