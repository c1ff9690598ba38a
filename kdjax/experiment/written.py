"""Sequence-level distillation (Kim and Rush, 1606.07947): a student learns from what its teacher writes.

It writes once, before the training, and by beam search; `on_policy.writer='teacher'` samples in every step.
"""

from typing import Any

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.evaluation import generation_metrics
from kdjax.input import tokenizer as tokenizers
from kdjax.input.splits import InMemorySplit
from kdjax.nn import generate
from kdjax.runtime.progress import bar
from kdjax.tasks.language_modelling import TARGET
from kdjax.training.setup import Setup

CHANGED = ('text', 'text/mask', 'text/response', TARGET)


def unwritten(source: Any) -> np.ndarray:
  """The rows of a split whose response the student does not see."""
  return np.flatnonzero((source.arrays[TARGET] < 0).all(1))


def check(config, data) -> None:
  """Raises KdjaxError if the teacher of a config cannot write for its student."""
  if not isinstance(data.transfer_set, InMemorySplit) or TARGET not in data.transfer_set.arrays:
    raise KdjaxError(
      'teacher.writes is set, and the data have no responses, or do not fit in memory: set it to 0.'
    )
  if not len(unwritten(data.transfer_set)):
    raise KdjaxError(
      'teacher.writes is set, and the student sees every response: lower data.labels, or set it to 0.'
    )


def by_teacher(experiment: Any, setup: Setup) -> Setup:
  """The setup of a student, with what the teacher writes in place of the responses that it does not see."""
  config, data, source = experiment.config, experiment.data, setup.source
  if not config['teacher']['writes']:
    return setup
  assert setup.teacher is not None  # `check` sees to it
  prompt = tokenizers.longest(data.tokenizer, config['data']['prompt_length'])
  length = tokenizers.max_length(data.tokenizer) - prompt
  how = {'beams': config['teacher']['writes'], 'temperature': 0}
  search = generation_metrics.writer(setup.teacher.apply, data.tokenizer, length, how)

  @jax.jit
  def write(variables, batch):
    new = generate.answered(
      batch, prompt, search(variables, generate.prompts(batch, prompt), jax.random.key(0))
    )
    return {k: new[k] for k in CHANGED}

  rows, parts = unwritten(source), []
  variables = jax.device_put(setup.teacher_variables)
  size = min(config['run']['eval_batch'], len(rows))
  with bar('the teacher writes', len(rows), 'text') as shown:
    for start in range(0, len(rows), size):
      chosen = rows[start : start + size]
      batch = source.take(np.resize(chosen, size))  # the last one is filled up
      parts.append({k: v[: len(chosen)] for k, v in jax.device_get(write(variables, batch)).items()})
      shown.update(start + len(chosen))
  arrays = dict(source.arrays)
  for key in CHANGED:
    arrays[key] = arrays[key].copy()
    arrays[key][rows] = np.concatenate([p[key] for p in parts])
  return setup._replace(source=InMemorySplit(arrays))
