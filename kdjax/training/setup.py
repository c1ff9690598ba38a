"""The input of one stage's training, as functions and data."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from kdjax.training import schedules, tracking
from kdjax.training.schemes import data_free, on_policy
from kdjax.types import Method, Model, Task, TrainState


class Average(NamedTuple):
  """The variables that a state holds beside the trained ones, in `TrainState.ema`; none by default.

  Attributes:
    ema: decay of an exponential moving average, which is then evaluated and exported; 0 for none.
    warmup: whether that average is shorter in the first steps, see `schedules.average_decay`.
    previous_epoch: the steps of an epoch, for a copy of the variables at the end of the last one; 0 for none.
  """

  ema: float = 0.0
  warmup: bool = True
  previous_epoch: int = 0

  def decay(self) -> float | Callable:
    """The decay, or `step -> decay`; 0 for no average."""
    if not self.previous_epoch:
      return schedules.average_decay(self.ema) if self.ema and self.warmup else self.ema
    return lambda step: jnp.where((step + 1) % self.previous_epoch == 0, 0.0, 1.0)


class Member(NamedTuple):
  """One model to train, over all seeds; a cohort has several.

  Attributes:
    model: the student, or the teacher in its own stage.
    method: the distillation losses, combined.
    tx: the optimizer.
    task_weight: of the loss of the labels.
    folder: of its metrics.jsonl.
    average: of its variables.
    self_teacher: whether `average` is its teacher.
    image_generator: makes the images of data-free distillation; None elsewhere.
    writer: writes the responses of on-policy distillation; None elsewhere.
    parts: how many a batch is split into for gradient accumulation.
    remat: whether activations are computed again in the backward pass.
    start: initial variables, all or a part of the model's, the same for every seed.
  """

  model: Model
  method: Method
  tx: Any
  task_weight: float
  folder: Path
  average: Average = Average()
  self_teacher: bool = False
  image_generator: data_free.ImageGenerator | None = None
  writer: on_policy.Writer | None = None
  parts: int = 1
  remat: bool = False
  start: Mapping = {}

  def needs_live_teacher(self) -> bool:
    """Whether its update runs the teacher itself, on inputs that are made in the update."""
    return bool(self.image_generator or self.writer)

  def evaluated(self, state: TrainState) -> dict:
    """The variables of a state that are evaluated: the moving average where there is one."""
    return state.ema if self.average.ema else {'params': state.params['student'], **state.stats['student']}


class LoopConfig(NamedTuple):
  """Settings of the training loop.

  Only `select`, with it `eval_every`, and `parallel` change the trained weights.

  Attributes:
    select: which weights of a seed are exported: 'last', or 'best' on validation.
    parallel: 'jit' or 'pmap'.
    eval_every, log_every, save_every: in steps.
    eval_batch: the batch size of evaluation.
    keep: how many checkpoints.
    dispatch: steps in one compiled program.
    resident: whether the training data live on the device: 'yes', 'no' or 'auto'.
    tracker: gets what metrics.jsonl gets.
    mesh: axis -> size, see `sharding.make_mesh`.
    shard: 'teacher', 'student' -> rules that split its weights, see `partition`.
    profile: 'FIRST:LAST', the steps that the profiler traces; '' for none.
  """

  select: str
  parallel: str
  eval_every: int
  log_every: int
  save_every: int
  eval_batch: int
  keep: int
  dispatch: int = 1
  resident: str = 'no'
  tracker: tracking.Tracker = tracking.NONE
  mesh: Mapping[str, int] = {}
  shard: Mapping[str, Any] = {}
  profile: str = ''

  def rules(self, model: str) -> Any:
    """Those of the weights of the 'teacher' or the 'student', see `partition`."""
    return self.shard.get(model)

  @classmethod
  def of(cls, select: str, run: Mapping) -> 'LoopConfig':
    """The settings of a recipe's `select` and `run`."""
    return cls(select=select, **{k: v for k, v in run.items() if k in cls._fields})


class Setup(NamedTuple):
  """One stage's training, as functions and data.

  Attributes:
    name: of the stage: 'teacher', 'baseline', 'ceiling' or 'student'.
    members: name -> the model to train; all get the same batches and the same teacher outputs.
    task: loss and metrics of the labels.
    augment: augments a batch on the device.
    teacher: gives the taps that the methods read; None without one.
    teacher_variables: its variables, an argument of the step.
    source: the training examples.
    validation: the examples that are evaluated during training, or None.
    seeds: of each model of a member, as `streams.seeds` gives them.
    cohort: whether a member whose loss is not finite is dropped, where it is else an error.
    steps, batch_size: of the training.
    reader: of the teacher store; None for a live teacher.
    wanted: names of the teacher's taps that the members read; None where these are yet to be traced.
    index_shuffle: whether the order of the data is Grain's, as in older workdirs.
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
  index_shuffle: bool = False

  @property
  def rules_of(self) -> str:
    """Whose rules split what is trained: those of the 'teacher', or of the 'student' and its baseline."""
    return 'teacher' if self.name == 'teacher' else 'student'
