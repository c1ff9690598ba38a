"""Programs as lists of steps: inlined, with constants computed, layers recognised and nothing unused."""

import jax
import jax.numpy as jnp
import numpy as np

import export_parity
from kdjax.export import program as export_program
from kdjax.export.equations import equations


def steps(apply, weights=None, rows=None, **inputs):
  """The graph of a function of weights and inputs, of whose outputs 'embed' is kept."""
  example = {k: (shape, 'float32') for k, shape in inputs.items()}
  made = export_program.make(lambda w, x: {'embed': apply(w, x)}, weights or {}, example, ('embed',))
  return equations(made, rows or export_program.any_rows())


def names(graph):
  return [step.primitive for step in graph.steps.values()]


def test_calls_are_inlined_and_the_unused_is_left_out():
  def apply(w, inputs):
    x = inputs['x']
    _ = jnp.sin(x) + w['unused']
    return jax.checkpoint(jax.nn.relu)(jax.jit(lambda x: x * 2)(x))

  graph = steps(apply, {'unused': np.ones(3, np.float32)}, x=(3,))
  assert names(graph) == ['mul', 'max'] and not graph.weights


def test_constants_are_computed():
  graph = steps(
    lambda w, inputs: inputs['x'] + jnp.cos(jnp.arange(3.0)) * jnp.tril(jnp.ones((3, 3))), x=(3, 3)
  )
  assert names(graph) == ['add']
  (table,) = graph.constants.values()
  np.testing.assert_allclose(table, np.cos(np.arange(3)) * np.tril(np.ones((3, 3))), atol=1e-6)


def test_what_does_nothing_is_no_step():
  def apply(w, inputs):
    x = inputs['x']
    mask = jnp.ones(x.shape[:2], bool)
    shown = jnp.where(mask[..., None], x, 0) * mask[..., None].astype(jnp.float32) + 0
    return jnp.pad(shown, ((0, 0), (0, 0), (0, 0))).sum(1) / mask.sum(1)[:, None]

  graph = steps(apply, x=(4, 3))
  assert names(graph) == ['reduce_mean']


def test_the_number_of_examples_is_a_symbol_or_a_number():
  def apply(w, inputs):
    return inputs['x'].reshape(-1, 2) @ w['kernel']

  for rows, shape in ((None, '(2*b, 5)'), (3, '(6, 5)')):
    graph = steps(apply, {'kernel': np.ones((2, 5), np.float32)}, rows, x=(2, 2))
    assert names(graph) == ['reshape', 'matmul'] and graph.weights == {'kernel'}
    assert str(graph.shape(graph.outputs['embed'])) == shape


def test_layers_are_recognised():
  found = names(equations(export_parity.program('bert'), export_program.any_rows()))
  assert [found.count(n) for n in ('layer_norm', 'softmax', 'gelu', 'take')] == [5, 2, 2, 1]
  assert not {'rsqrt', 'exp', 'erfc', 'square'} & set(found)
  found = names(equations(export_parity.program('cifar_resnet'), export_program.any_rows()))
  assert [found.count(n) for n in ('conv', 'batch_norm', 'max', 'reduce_mean')] == [9, 9, 7, 1]
  assert found[:3] == ['convert', 'mul', 'add'] and 'rsqrt' not in found


def test_a_bias_is_joined_to_its_convolution_unless_the_sum_is_read_alone():
  def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

  weights = {'kernel': np.ones((3, 3, 2, 4), np.float32), 'bias': np.ones(4, np.float32)}
  graph = steps(lambda w, a: conv(a['x'], w['kernel']) + w['bias'], weights, x=(5, 5, 2))
  assert names(graph) == ['conv']

  def twice(w, inputs):
    y = conv(inputs['x'], w['kernel'])
    return y * (y + w['bias'])

  assert names(steps(twice, weights, x=(5, 5, 2))) == ['conv', 'add', 'mul']
