"""The keys of `run`: how a recipe is run, on which devices, and what is logged and kept."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Interval

from kdjax.options import Count, Name, NonNegative, Size

Tracked = Literal['', 'wandb', 'mlflow', 'trackio', 'tensorboard']  # `kdjax.training.tracking`
MeshSize = Annotated[int, Interval(ge=-1, le=2**20)]
Axis = Literal['', 'data', 'fsdp', 'tensor']
Rules = Literal['auto'] | tuple[tuple[Name, tuple[Axis, ...]], ...] | None


def section(kind: Callable[[], Any]) -> Any:
  return dataclasses.field(default_factory=kind)


@dataclasses.dataclass(frozen=True)
class Mesh:
  """The axes of the devices; batches are split over data and fsdp, weights by `run.shard`."""

  data: Annotated[
    MeshSize, 'devices that have all weights each, but for fsdp and tensor; -1 for the rest'
  ] = -1
  fsdp: Annotated[MeshSize, 'devices that share the weights, and split the batch'] = 1
  tensor: Annotated[MeshSize, 'devices that share the weights, and have the same rows of a batch'] = 1


@dataclasses.dataclass(frozen=True)
class Shard:
  """How weights, with their moments and averages, are split over the mesh: see docs/pods.md."""

  teacher: Annotated[
    Rules, "None whole, 'auto' the largest axis that divides, or pairs such as ('.*/kernel', ('', 'fsdp'))"
  ] = None
  student: Annotated[Rules, 'the same of student and baseline'] = None


@dataclasses.dataclass(frozen=True)
class Run:
  """Evaluation, logging, checkpoints; changes no weights, except 'parallel'."""

  parallel: Annotated[Literal['jit', 'pmap'], 'pmap: batch norm a device'] = 'jit'
  eval_every: Annotated[Count, 'steps between evaluations on validation'] = 500
  log_every: Annotated[Count, 'steps between lines of metrics'] = 50
  save_every: Annotated[Count, 'steps between checkpoints'] = 500
  eval_batch: Annotated[Size, 'examples a batch of an evaluation'] = 512
  keep: Annotated[Count, 'checkpoints kept'] = 2
  members_per_program: Annotated[
    Count, 'members of a cohort in one training: their programs and states are in memory'
  ] = 32
  track: Annotated[Tracked, "also logs to 'wandb', 'mlflow', 'trackio' or 'tensorboard'"] = ''
  dispatch: Annotated[
    Size, 'steps in one program, for models faster than the host; divides steps and the *_every'
  ] = 1
  resident: Annotated[
    Literal['auto', 'yes', 'no'], "keeps training data on the device; 'auto': where it is faster"
  ] = 'auto'
  profile: Annotated[
    str, "FIRST:LAST, steps of every training that are traced for xprof, such as '10:20'"
  ] = ''
  stall: Annotated[
    NonNegative, 'seconds without a move, until stacks are printed and a process of a pod ends; 0 for none'
  ] = 1800.0
  mesh: Mesh = section(Mesh)
  shard: Shard = section(Shard)
