"""Whole models within one, the members of an ensemble, whose taps are '<member>/<tap>'."""

from collections.abc import Mapping, Sequence

from kdjax.types import Array, Task


def of(outputs: Mapping[str, Array], name: str) -> dict[str, Array]:
  """The taps of one member, under its own names."""
  return {k.removeprefix(f'{name}/'): x for k, x in outputs.items() if k.startswith(f'{name}/')}


def each_alone(task: Task, names: Sequence[str]) -> Task:
  """The task, whose loss is the sum of those that the members have, each on its own taps.

  So the gradient of a member is the one that it has where it is trained alone: no member makes up for the
  others. With no names, the task as it is.
  """
  if not names:
    return task

  def loss(outputs, batch):
    pairs = [task.loss(of(outputs, name), batch) for name in names]
    return sum(total for total, _ in pairs), pairs[0][1]

  return task._replace(loss=loss)
