"""Rounding in training: its values, its gradient, and students that go on from others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.experiment import predict, stages, trained_model
from kdjax.training import quantization_aware


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
def test_weights_are_whole_steps_of_a_scale_a_channel(bits):
  kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 7)).astype(np.float32)
  variables = {'params': {'a': {'kernel': jnp.asarray(kernel), 'bias': jnp.full(7, 0.3)}}, 'stats': {}}
  rounded = quantization_aware.weights(variables, bits)
  top = 2 ** (bits - 1) - 1
  scale = np.abs(kernel.astype(np.float64)).max((0, 1, 2)) / top
  expected = np.round(kernel / scale) * scale
  np.testing.assert_allclose(rounded['params']['a']['kernel'], expected, atol=1e-6)
  np.testing.assert_array_equal(rounded['params']['a']['bias'], variables['params']['a']['bias'])
  again = quantization_aware.weights(rounded, bits)
  np.testing.assert_allclose(again['params']['a']['kernel'], rounded['params']['a']['kernel'], atol=1e-6)


def test_zeros_stay_zeros():
  variables = {'params': {'kernel': jnp.zeros((4, 2))}}
  assert not quantization_aware.weights(variables, 4)['params']['kernel'].any()
  assert not quantization_aware.activations(jnp.zeros((2, 3)), 8).any()


def test_activations_have_a_range_an_example():
  x = (
    np.random.default_rng(1).normal(size=(3, 4, 5)).astype(np.float32) * np.array([1, 10, 100])[:, None, None]
  )
  rounded = np.asarray(quantization_aware.activations(jnp.asarray(x, jnp.float32), 8))
  for one, other in zip(x, rounded, strict=True):
    step = (max(one.max(), 0) - min(one.min(), 0)) / 255
    assert np.abs(one - other).max() <= step * 0.51 and len(np.unique(other)) > 10
  positive = jnp.asarray(np.abs(x) + 5, jnp.float32)
  assert np.abs(quantization_aware.activations(positive, 8) - positive).max() < 0.6 * positive.max() / 255


def test_gradients_pass_the_rounding():
  x = jnp.linspace(-1, 1, 12).reshape(2, 6)
  gradient = jax.grad(
    lambda x: (quantization_aware.activations(x, 8) * jnp.arange(12.0).reshape(2, 6)).sum()
  )(x)
  np.testing.assert_array_equal(gradient, np.arange(12.0).reshape(2, 6))
  params = {'params': {'kernel': x}}
  gradient = jax.grad(lambda p: (quantization_aware.weights(p, 4)['params']['kernel'] * 3).sum())(params)
  np.testing.assert_array_equal(gradient['params']['kernel'], np.full((2, 6), 3.0))


@pytest.mark.whole
def test_a_student_goes_on_with_rounded_weights(trained, config, experiment):
  config.student.update(init=str(trained.workdir), weight_bits=4, activation_bits=8)
  config.student.train.steps = 2
  further = experiment('further', teacher_from=trained)
  seeds = further.seeds('student')
  for i, seed in enumerate(seeds):
    own = trained_model.load(trained.workdir, seed=seed).variables
    jax.tree.map(np.testing.assert_array_equal, further.start('student', i), own)
    jax.tree.map(np.testing.assert_array_equal, further.start('baseline', i), own)
  stages.run(further, ('baseline', 'student'))
  rounded = trained_model.load(further.workdir)
  assert rounded.rounding == {'weight_bits': 4, 'activation_bits': 8}
  for path, x in jax.tree_util.tree_leaves_with_path(rounded.variables['params']):
    if path[-1].key == 'kernel':
      flat = np.asarray(x).reshape(-1, x.shape[-1])
      steps = flat / np.maximum(np.abs(flat).max(0), 1e-9) * 7
      np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
  predictor, test = predict.load(further.workdir), trained.data.test.take(np.arange(4))
  variables = jax.tree.map(lambda x: x[0], further.variables('student'))
  expected = further.model('student').apply(variables, test)[0]['logits']
  np.testing.assert_allclose(
    predictor.forward(test)['logits'], expected, atol=5e-3
  )  # an activation between two steps


def test_a_start_that_is_none_is_one_line(config, experiment, tmp_path):
  config.student.init = str(tmp_path / 'nothing')
  with pytest.raises(KdjaxError, match='student.init: there is no .*nothing; give the workdir'):
    stages.run(experiment(), ('teacher',))
