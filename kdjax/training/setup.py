"""What the training of one stage is given."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from kdjax.training import schedules
from kdjax.training.schemes import data_free, on_policy
from kdjax.types import Method, Model, Task, TrainState


class Member(NamedTuple):
  """What is trained, over all seeds, beside the others of its cohort.

  Attributes:
    model: of the student, or of the teacher in its own stage.
    method: the distillation losses, combined.
    tx: the optimiser.
    task_weight: of the labels' loss.
    ema: decay of the average of the variables, which is then what is kept; 0 for none.
    warm: whether the average follows the first steps faster, see `schedules.average_decay`.
    previous_epoch: steps after which the student becomes its own teacher anew; 0 for another teacher.
    self_teacher: whether the average, or the past student, is the teacher.
    folder: where its metrics.jsonl goes.
    image_generator: makes the images, where there are no data.
    writer: writes responses in training, where that is asked for.
    parts: in which a batch goes through the student.
    remat: whether the gradient makes the student's activations anew.
    start: variables that every seed starts from, a part of the model's or none.
  """

  model: Model
  method: Method
  tx: Any
  task_weight: float
  ema: float
  previous_epoch: int
  self_teacher: bool
  folder: Path
  image_generator: data_free.ImageGenerator | None = None
  writer: on_policy.Writer | None = None
  parts: int = 1
  remat: bool = False
  warm: bool = True
  start: Mapping = {}

  def needs_live_teacher(self) -> bool:
    """Whether its update needs the teacher itself, for inputs that nobody else sees."""
    return bool(self.image_generator or self.writer)

  def evaluated(self, state: TrainState) -> dict:
    """The variables of a state that are evaluated: the average of the weights where one is kept."""
    return state.ema if self.ema else {'params': state.params['student'], **state.stats['student']}

  def decay(self) -> float | Callable:
    """Of the variables that the state keeps beside the trained ones."""
    if not self.previous_epoch:
      return schedules.average_decay(self.ema) if self.ema and self.warm else self.ema
    return lambda step: jnp.where((step + 1) % self.previous_epoch == 0, 0.0, 1.0)


class Loop(NamedTuple):
  """How the loop over the steps is run.

  Only `select`, with it `eval_every`, and `parallel` change what comes out.

  Attributes:
    select: 'last', or 'best' on validation: which weights of a seed are kept.
    parallel: 'jit' or 'pmap'.
    eval_every, log_every, save_every: in steps.
    eval_batch: examples at once.
    keep: how many checkpoints.
    tensorboard: whether to write its files too.
    dispatch: steps that the device takes in a row before the host is heard again.
    resident: whether the training data live on the device: 'yes', 'no' or 'auto'.
  """

  select: str
  parallel: str
  eval_every: int
  log_every: int
  save_every: int
  eval_batch: int
  keep: int
  tensorboard: bool
  dispatch: int = 1
  resident: str = 'no'

  @classmethod
  def of(cls, select: str, run: Mapping) -> 'Loop':
    """That of a recipe's `select` and `run`."""
    return cls(select=select, **{k: v for k, v in run.items() if k in cls._fields})


class Setup(NamedTuple):
  """One stage's training, as functions and data.

  Attributes:
    name: 'teacher', 'baseline' or 'student'.
    members: name -> what is trained; all see the same batches and the same teacher.
    task: its labels' loss and metrics.
    augment: augments a batch on the device.
    teacher: gives the taps that the methods read; None without one.
    teacher_variables: its weights, an argument of the step.
    source: the training examples.
    validation: what is evaluated on the way, or None.
    seeds: a model each for every member, as `streams.seeds` gives them.
    cohort: whether a member whose loss is not finite is given up, and no error.
    steps, batch_size: of the training.
    reader: of the store that the teacher's answers come from; None for a live teacher.
    wanted: names of the teacher's taps that the members read, where they are known.
  """

  name: str
  members: Mapping[str, Member]
  task: Task
  augment: Callable
  teacher: Model | None
  teacher_variables: Any
  source: Any
  validation: Any
  seeds: tuple[tuple[int, int], ...]
  cohort: bool
  steps: int
  batch_size: int
  reader: Any = None
  wanted: frozenset | None = None
