"""Ensembles: models within a model, whose taps are '<member>/<tap>'."""

from collections.abc import Mapping, Sequence

from kdjax.types import Array, Task


def of(outputs: Mapping[str, Array], name: str) -> dict[str, Array]:
  """The taps of one member, without its prefix."""
  return {k.removeprefix(f'{name}/'): x for k, x in outputs.items() if k.startswith(f'{name}/')}


def each_alone(task: Task, names: Sequence[str]) -> Task:
  """The task with the sum of the members' losses, each on the member's taps.

  So a member has the gradient that it has when trained alone. With no names, the task itself.
  """
  if not names:
    return task

  def loss(outputs, batch):
    pairs = [task.loss(of(outputs, name), batch) for name in names]
    return sum(total for total, _ in pairs), pairs[0][1]

  return task._replace(loss=loss)
