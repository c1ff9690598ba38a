"""What a method without relations gives in parts is what it gives at once, draws and statistics too."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import taps
from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages, validate
from kdjax.nn.taps import RecordingTaps
from kdjax.training import accumulate, step
from kdjax.training.loss_weights import combine, related
from kdjax.types import Method, Model

PARTS = 4
EMBEDS = {'student': 'embed', 'teacher': 'embed'}
VARIANTS = [
  ('alignment', {'distance': 'scale_invariant'}),
  ('c2kd', {'proxies': False}),
  ('confidence', {'normalise': False}),
  ('dino', {'prototypes': 7}),
  ('fitnet', EMBEDS),
  ('fitnet', {'norm': False}),
  ('hidden_state', {'match': 'cosine', 'project': True}),
  (
    'mgd',
    {'reduction': 'sum', 'student': ('image/stage2', 'image/stage3'), 'teacher': ('image/stage2',) * 2},
  ),
]
OWN = {'g2d': {'encoders': ('image/embed', 'text/embed')}}  # submodules of `echo`
ALL = [(name, OWN.get(name, {})) for name in sorted(registry.names('methods'))] + VARIANTS


def wide(tree, dtype):
  return {k: np.asarray(v, dtype) if np.asarray(v).dtype.kind == 'f' else v for k, v in tree.items()}


def echo(rows):
  """A student whose taps are an example's own, times a parameter a channel: no example sees another."""

  def init(rng, batch):
    return {'params': {name: jnp.ones(np.shape(x)[-1:], x.dtype) for name, x in rows.items()}}

  def apply(variables, batch, *, train=False, rng=None):
    own = {k: jnp.asarray(v) for k, v in rows.items()}
    own = {k: v[batch['id']] if v.ndim and len(v) == taps.B else v for k, v in own.items()}
    return {k: v * variables['params'][k] for k, v in own.items()}, {}

  return Model(init, apply)


def both_ways(name, options, dtype):
  """The state and the losses after a step of SGD at once, and in parts; None where examples are related."""
  s, t, batch = (wide(x, dtype) for x in taps.example())
  batch['mask'] = batch['mask'].copy()
  batch['mask'][[1, 5, 6]] = 0  # the parts hold no equal numbers of examples
  method = registry.make('methods', name, {**taps.needed(name), **options})
  learned = jax.eval_shape(method.init, key := jax.random.key(0), s, t, batch)
  if related(method, *learned):
    return None
  read = {'logits'}  # by the task; what nobody reads would only take time

  def recorded(learned, s, t, batch):
    return method.loss(*learned, RecordingTaps(s, read), t, batch, step=0, rng=key)

  jax.eval_shape(recorded, learned, s, t, batch)
  student = echo({k: v for k, v in s.items() if k in read})
  task, tx = build.task({'name': 'classification'}), optax.sgd(1.0)
  method = combine({name: (0.7, method, lambda step: 1.0)})
  state = jax.jit(step.make_init(student, method, tx))(0, t, batch)
  state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)  # layers too
  ways = ({}, {'gradient': accumulate.in_parts(PARTS)})
  updates = [step.make_update(student, task, method, tx, **way) for way in ways]
  return jax.jit(lambda *given: [update(*given) for update in updates])(state, t, batch)


def check(name, options, dtype, tolerance):
  result = both_ways(name, options, dtype)
  if result is None:
    pytest.skip('it relates the examples of a batch')
  (whole, losses), (parts, summed) = result
  for key, path in losses.items():
    np.testing.assert_allclose(summed[key], path, rtol=tolerance, atol=tolerance, err_msg=key)
  largest = max(np.abs(x - 1).max() for x in jax.tree.leaves(whole.params['student']))
  assert largest > 0
  for x, y in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
    np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance * max(largest, 1))
  if name == 'dino':
    for x, y in zip(jax.tree.leaves(whole.stats), jax.tree.leaves(parts.stats), strict=True):
      np.testing.assert_allclose(y, x, rtol=tolerance, atol=tolerance)


def ids(value):
  return value if isinstance(value, str) else '-'.join(map(str, value.values()))[:40]


@pytest.mark.whole
@pytest.mark.parametrize(('name', 'options'), ALL, ids=ids)
def test_parts_add_up_to_the_whole(name, options):
  with jax.enable_x64(True):
    check(name, options, np.float64, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'options'), ALL, ids=ids)
def test_parts_add_up_to_the_whole_in_float32(name, options):
  check(name, options, np.float32, 3e-5)


@pytest.mark.whole
@pytest.mark.parametrize(
  ('name', 'options', 'wanted'),
  [
    ('fitnet', {}, True),  # maps: the regressor ends in batch norm
    ('fitnet', {'norm': False}, False),
    ('fitnet', EMBEDS, False),
    ('fitnet', {**EMBEDS, 'norm': True}, True),
    ('ab', {}, True),
    ('ab', {'teacher': ('image/stage1', 'image/stage2', 'image/stage3')}, None),
  ],
)
def test_batch_norm_relates_examples_where_there_is_some(name, options, wanted):
  s, t, batch = taps.example()
  if wanted is None:  # of the teacher's own width no map needs a connector
    s, wanted = t, False
  method = registry.make('methods', name, options)
  learned = jax.eval_shape(method.init, jax.random.key(0), s, t, batch)
  assert related(method, *learned) == wanted
  several = combine({n: (1.0, m, lambda step: 1.0) for n, m in (('a', method), ('b', Method(*method[:2])))})
  assert related(several, *jax.eval_shape(several.init, jax.random.key(0), s, t, batch)) == wanted


@pytest.mark.whole
def test_a_student_with_hints_on_vectors_learns_in_parts(experiment, config):
  config.student.train.accumulate = 2
  tap = {'student': 'image/embed', 'teacher': 'image/embed'}
  config.methods = {'fitnet': {'weight': 1.0, **tap}}
  validate.check(experiment('vectors'))
  config.methods = {'fitnet': {'weight': 1.0, 'norm': True, **tap}}
  with pytest.raises(KdjaxError, match='relates the examples of the whole batch'):
    validate.check(experiment('normed'))


@pytest.mark.whole
def test_crd_has_a_place_for_every_example_and_says_beforehand_where_it_has_not(experiment, config):
  tap = {'student': 'image/embed', 'teacher': 'image/embed'}
  config.methods = {'crd': {'weight': 1.0, 'negatives': 4, **tap}}
  exp = experiment('all')
  last = int(exp.data.transfer_set.arrays['id'].max())
  s, t, batch = (
    exp.shapes('student')[1],
    exp.shapes('teacher')[1],
    exp.data.transfer_set.take(np.arange(4)),
  )
  _, stats = jax.eval_shape(exp.method().init, jax.random.key(0), s, t, batch)
  assert stats['crd']['label'].shape == (last + 1,)
  config.methods.crd.size = last
  with pytest.raises(
    KdjaxError, match=f"methods.crd.size is {last}.*'id' .* is {last}: set it to {last + 1}"
  ) as e:
    stages.run(experiment('few'), ('teacher',))
  assert '\n' not in str(e.value)
