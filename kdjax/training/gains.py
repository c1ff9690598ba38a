"""Gradients of parts of the student, scaled as its methods say: `Method.gains`."""

from collections.abc import Mapping
from typing import Any

import jax

from kdjax.errors import unknown
from kdjax.types import Method


def scaled(grads: Mapping[str, Any], method: Method, stats: Mapping[str, Any]) -> dict:
  """The gradients of `{'student', 'method'}`, those of the student's submodules times the method's gains.

  Args:
    grads: of the whole objective, of the task and of all methods.
    method: whose gains are read.
    stats: after the step, {'student', 'method'}.

  Raises:
    KdjaxError: if a gain is of a submodule that the student does not train.
  """
  gains = method.gains(stats['method']) if method.gains else {}
  student = dict(grads['student'])
  for name, gain in gains.items():
    if name not in student:
      raise unknown('submodule of the student with gradients to scale', name, student)
    student[name] = jax.tree.map(lambda g, gain=gain: g * gain.astype(g.dtype), student[name])
  return {**grads, 'student': student}
