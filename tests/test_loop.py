"""The training loop: which weights it keeps as the best on validation."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.training import loop


def evaluating(higher):
  """A loop whose evaluation gives the weights themselves as scores, one a seed."""
  self = object.__new__(loop.TrainLoop)
  member = SimpleNamespace(model='net', evaluated=lambda state: state['average'])
  task = SimpleNamespace(metric='score', higher_is_better=higher)
  self.setup = SimpleNamespace(
    name='student', members={'student': member}, task=task, validation='validation'
  )
  self.how, self.failed, self.notes = SimpleNamespace(select='best'), {}, {}
  self.logs = {'student': SimpleNamespace(write=lambda n, record: None)}

  def evaluate(variables, source, title):
    assert source == 'validation'
    return SimpleNamespace(metrics={'score': np.asarray(variables['w'])})

  self.evaluators = {'net': evaluate}
  return self


@pytest.mark.parametrize('higher', [True, False])
def test_each_seed_keeps_its_best(higher):
  """By what the member evaluates; the first of several that are equal."""
  sign = 1 if higher else -1
  start = {'w': jnp.zeros(3), 'step': jnp.zeros((3, 2))}
  tree = {'best': {'student': {'variables': start, 'score': jnp.full(3, -jnp.inf)}}}
  for n, scores in enumerate([(0.5, 0.2, 0.3), (0.4, 0.6, 0.3), (0.1, 0.5, 0.2)], 1):
    average = {'w': sign * jnp.array(scores), 'step': jnp.full((3, 2), n)}
    tree['state'] = {'student': {'average': average, 'params': {'w': jnp.full(3, 9.0)}}}
    tree = evaluating(higher).evaluate(n, tree, SimpleNamespace())
  best = tree['best']['student']
  np.testing.assert_allclose(best['variables']['w'], sign * np.array([0.5, 0.6, 0.3]))
  np.testing.assert_allclose(best['score'], [0.5, 0.6, 0.3])
  np.testing.assert_array_equal(best['variables']['step'], [[1, 1], [2, 2], [1, 1]])
