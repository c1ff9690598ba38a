"""Students cut out of teachers: whole, with layers left out, with channels left out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.pretrained.inherit import WIDTHS, inherit

GPT = {'model': 'gpt2', 'vocab_size': 20, 'width': 12, 'depth': 4, 'heads': 3, 'mlp': 10, 'positions': 9}
TEXT = {'text': jnp.array([[3, 4, 5, 0, 0], [7, 8, 9, 2, 1]])}
SMALL = GPT | {'width': 8, 'heads': 2, 'mlp': 6, 'positions': 7}
IMAGE = {'image': jnp.arange(2 * 16 * 16 * 3, dtype=jnp.uint8).reshape(2, 16, 16, 3)}


def shapes(config, batch=TEXT):
  return jax.eval_shape(build.module(config, {}).init, jax.random.key(0), batch)


def drawn(config, batch=TEXT):
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: np.abs(rng.normal(size=x.shape)).astype(np.float32), shapes(config, batch))


@functools.cache
def teacher():
  return drawn(GPT)


def outputs(config, variables, batch=TEXT):
  return jax.jit(build.module(config, {}).apply)(variables, batch)


def flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def same(a, b):
  assert a.keys() == b.keys()
  for k in a:
    np.testing.assert_array_equal(a[k], b[k], err_msg=k)


def test_a_copy_gives_the_teachers_outputs_to_the_last_bit():
  for width in WIDTHS:
    inherited = inherit(teacher(), shapes(GPT), width=width)
    same(flat(inherited), flat(teacher()))
  same(outputs(GPT, inherited), outputs(GPT, teacher()))


CUTS = [('alternate', (1, 3)), ('spaced', (1, 4)), ('first', (1, 2)), ((2, 4), (2, 4)), ((3, 3), (3, 3))]


@pytest.mark.parametrize(('layers', 'taken'), CUTS)
def test_layers_left_out(layers, taken):
  student = GPT | {'depth': 2}
  inherited = inherit(teacher(), shapes(student), layers=layers, teacher=GPT, student=student)
  by_hand = {k: v for k, v in teacher()['params'].items() if not k.startswith('block')}
  by_hand |= {f'block{i}': teacher()['params'][f'block{j}'] for i, j in enumerate(taken, 1)}
  same(flat(inherited), flat({'params': by_hand}))


def test_every_second_layer_is_the_teacher_without_the_others():
  student, skipped = GPT | {'depth': 2}, dict(teacher()['params'])
  for i in (2, 4):  # a block that adds 0 is none
    block = dict(skipped[f'block{i}'])
    block['attention'] = block['attention'] | {'out': jax.tree.map(np.zeros_like, block['attention']['out'])}
    block['mlp_out'] = jax.tree.map(np.zeros_like, block['mlp_out'])
    skipped[f'block{i}'] = block
  ours = outputs(student, inherit(teacher(), shapes(student), layers='alternate'))
  theirs = outputs(GPT, {'params': skipped})
  for tap in ('embeddings', 'block1', 'tokens', 'embed', 'logits'):
    np.testing.assert_array_equal(ours[tap], theirs[tap], err_msg=tap)
  np.testing.assert_array_equal(ours['attention2'], theirs['attention3'])


@pytest.mark.parametrize(('n', 'm', 'taken'), [(12, 6, (1, 3, 5, 7, 9, 12)), (32, 2, (1, 32)), (4, 1, (1,))])
def test_spaced(n, m, taken):
  trees = [
    {'params': {f'block{i}': {'scale': np.array([float(i)])} for i in range(1, k + 1)}} for k in (n, m)
  ]
  inherited = inherit(*trees)['params']
  assert tuple(int(inherited[f'block{i}']['scale'][0]) for i in range(1, m + 1)) == taken


def check_rows(result, channels, inner, hidden):
  """Every array of the small student against the rows of the teacher's that it should have."""
  t, s = flat(teacher()['params']), flat(result['params'])
  assert s.keys() == t.keys()
  np.testing.assert_array_equal(s['words/embedding'], t['words/embedding'][:, channels])
  np.testing.assert_array_equal(s['positions/embedding'], t['positions/embedding'][:7, channels])
  np.testing.assert_array_equal(s['norm/scale'], t['norm/scale'][channels])
  for i in range(1, 5):
    rows = {f'attention/{k}': (channels, inner[i - 1]) for k in ('query', 'key', 'value')}
    rows |= {'attention/out': (inner[i - 1], channels)}
    rows |= {'mlp_in': (channels, hidden[i - 1]), 'mlp_out': (hidden[i - 1], channels)}
    for name, (into, out) in rows.items():
      name = f'block{i}/{name}'
      np.testing.assert_array_equal(s[f'{name}/kernel'], t[f'{name}/kernel'][np.ix_(into, out)], name)
      np.testing.assert_array_equal(s[f'{name}/bias'], t[f'{name}/bias'][out], name)


def test_a_slice_of_width():
  def cut(width):
    return inherit(teacher(), shapes(SMALL), width=width, teacher=GPT, student=SMALL)

  check_rows(cut('first'), np.arange(8), [np.arange(8)] * 4, [np.arange(6)] * 4)
  check_rows(cut('uniform'), [0, 1, 3, 4, 6, 7, 9, 10], [np.arange(8)] * 4, [[0, 1, 3, 5, 6, 8]] * 4)


def test_what_is_large_is_kept():
  """Hidden units and channels that do nothing go first, and then nothing changes."""
  rng = np.random.default_rng(1)
  hidden = [np.sort(rng.permutation(10)[:6]) for _ in range(4)]
  params = jax.tree.map(np.copy, teacher()['params'])
  for i, kept in enumerate(hidden, 1):
    dead = np.setdiff1d(np.arange(10), kept)
    params[f'block{i}']['mlp_in']['kernel'][:, dead] = 0
    params[f'block{i}']['mlp_out']['kernel'][dead] = 0
  student = GPT | {'mlp': 6}
  inherited = inherit({'params': params}, shapes(student), width='magnitude')
  for i, kept in enumerate(hidden, 1):
    bias = inherited['params'][f'block{i}']['mlp_in']['bias']
    np.testing.assert_array_equal(bias, params[f'block{i}']['mlp_in']['bias'][kept])
  ours, theirs = (x['logits'] for x in (outputs(student, inherited), outputs(GPT, {'params': params})))
  np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())  # sums of other lengths


def test_heads_are_kept_whole():
  params = jax.tree.map(np.copy, teacher()['params'])
  for i, head in enumerate((0, 1, 2, 1), 1):  # the one that does least
    rows = slice(4 * head, 4 * head + 4)
    params[f'block{i}']['attention']['value']['kernel'][:, rows] *= 0.01
    params[f'block{i}']['attention']['out']['kernel'][rows] *= 0.01
  inherited = inherit({'params': params}, shapes(SMALL), width='magnitude', teacher=GPT)['params']
  for i, head in enumerate((0, 1, 2, 1), 1):
    inner = np.setdiff1d(np.arange(12), np.arange(4 * head, 4 * head + 4))
    bias = params[f'block{i}']['attention']['key']['bias'][inner]
    np.testing.assert_array_equal(inherited[f'block{i}']['attention']['key']['bias'], bias)


def test_channels_of_a_resnet():
  """Its axes are told apart by their sizes: channels that are 0 throughout can go, and nothing changes."""
  wide = {'model': 'resnet', 'widths': (8, 12), 'blocks': (1, 1), 'num_classes': 3}
  narrow = wide | {'widths': (6, 8)}
  dead = {8: [1, 5], 12: [0, 3, 7, 11]}

  def silence(x):
    for axis, n in enumerate(x.shape):
      if n in dead:
        x[(slice(None),) * axis + (dead[n],)] = 0
    return x

  variables = jax.tree.map(silence, drawn(wide, IMAGE))
  inherited = inherit(variables, shapes(narrow, IMAGE), width='magnitude')
  ours, theirs = outputs(narrow, inherited, IMAGE), outputs(wide, variables, IMAGE)
  kept = np.setdiff1d(np.arange(12), dead[12])
  np.testing.assert_allclose(ours['embed'], theirs['embed'][:, kept], rtol=1e-4)
  np.testing.assert_allclose(ours['logits'], theirs['logits'], rtol=1e-4)


def test_towers_have_heads_of_their_own():
  towers = {
    'image': {'model': 'vit', 'width': 12, 'depth': 3, 'heads': 3, 'patch': 8},
    'text': {'model': 'transformer', 'vocab_size': 20, 'width': 12, 'depth': 2, 'heads': 6},
  }
  smaller = {
    'image': towers['image'] | {'width': 8, 'heads': 2, 'depth': 2},
    'text': towers['text'] | {'width': 8, 'heads': 4},
  }
  big, small = ({'model': 'fusion', 'width': 6, 'num_classes': 3, 'encoders': e} for e in (towers, smaller))
  variables = drawn(big, TEXT | IMAGE)
  inherited = inherit(variables, shapes(small, TEXT | IMAGE), teacher=big, student=small)['params']
  theirs = variables['params']
  bias = inherited['encoders_image']['block2']['attention']['query']['bias']
  np.testing.assert_array_equal(bias, theirs['encoders_image']['block3']['attention']['query']['bias'][:8])
  bias = inherited['encoders_text']['block2']['attention']['query']['bias']  # heads 0, 1, 3, 4 of 2 channels
  inner = [0, 1, 2, 3, 6, 7, 8, 9]
  np.testing.assert_array_equal(bias, theirs['encoders_text']['block2']['attention']['query']['bias'][inner])
  np.testing.assert_array_equal(inherited['head']['kernel'], theirs['head']['kernel'])


def test_tables_and_towers_of_published_models():
  whisper = {'model': 'whisper_encoder', 'width': 12, 'depth': 4, 'heads': 3, 'mlp': 10, 'positions': 9}
  half, sound = whisper | {'width': 8, 'depth': 2, 'heads': 2, 'positions': 6}, {'mel': jnp.zeros((1, 12, 5))}
  variables = drawn(whisper, sound)
  inherited = inherit(variables, shapes(half, sound), width='first', teacher=whisper)
  same(flat(inherited['buffers']), {'positions': variables['buffers']['positions'][:6, :8]})
  same(inherited['params']['conv1'], {k: x[..., :8] for k, x in variables['params']['conv1'].items()})
  same(
    inherited['params']['block2']['norm1'],
    {k: x[:8] for k, x in variables['params']['block4']['norm1'].items()},
  )
  with pytest.raises(KdjaxError, match='conv1/kernel is .3, 1, 5, 12.*nothing can be cut out of axis 2'):
    inherit(variables, shapes(half, {'mel': jnp.zeros((1, 12, 4))}), teacher=whisper)
  sizes = {'width': 12, 'heads': 3, 'depth': 3, 'mlp': 10}
  towers = {
    'image': {'model': 'siglip_image', 'patch': 8, **sizes},
    'text': {'model': 'siglip_text', 'vocab_size': 20, **sizes},
  }
  big = {'model': 'siglip', **towers}
  small = {'model': 'siglip', **{k: v | {'width': 8, 'heads': 2, 'depth': 2} for k, v in towers.items()}}
  variables = drawn(big, TEXT | IMAGE)
  inherited = inherit(variables, shapes(small, TEXT | IMAGE), width='magnitude', teacher=big, student=small)
  assert inherited['params']['logit_scale'] == variables['params']['logit_scale']
  pool, theirs = (tree['params']['image']['pool'] for tree in (inherited, variables))
  heads = theirs['query']['bias'].reshape(3, 4)
  assert any((pool['query']['bias'] == heads[list(kept)].ravel()).all() for kept in ((0, 1), (0, 2), (1, 2)))


def test_what_cannot_be_inherited():
  def refuse(match, result=SMALL, **options):
    with pytest.raises(KdjaxError, match=match) as error:
      inherit(teacher(), shapes(result), **{'teacher': GPT, 'student': result} | options)
    assert '\n' not in str(error.value)

  refuse("unknown width of an inheritance: 'widest'", width='widest')
  refuse("unknown layers of an inheritance: 'second'", GPT | {'depth': 2}, layers='second')
  refuse("has 3 'block', to be chosen from .1, 2, 3, 4.", GPT | {'depth': 3}, layers=(1, 2, 5))
  refuse("has 3 'block', to be chosen from", GPT | {'depth': 3}, layers=(1, 2))
  refuse("the student has 5 'block' and the teacher 4: set its depth to 4", GPT | {'depth': 5})
  refuse(
    'heads of 2 channels in the student and of 4 in the teacher.*width / heads is 4', SMALL | {'heads': 4}
  )
  refuse('heads of 6 channels in the student and of 4', GPT | {'heads': 2})
  refuse('block1/attention has heads, and how many is not said', teacher=None, student=None)
  refuse('has 6 channels in the student, and a head of the teacher 4', SMALL | {'width': 6}, student=None)
  refuse(r'words/embedding is \[20, 12\] in the teacher and \[18, 12\].*axis 0', GPT | {'vocab_size': 18})
  refuse(r'mlp_in/bias is \[10\] in the teacher and \[16\] in the student', GPT | {'mlp': 16})
  bert = GPT | {'model': 'bert', 'num_classes': 3}
  refuse('the teacher to inherit from is not of this architecture: .* missing .params/head/linear', bert)
  classes = [
    {'model': 'vit_class_token', 'width': 8, 'heads': 2, 'depth': 1, 'patch': 8, 'num_classes': n}
    for n in (5, 3)
  ]
  with pytest.raises(KdjaxError, match=r'head/linear/.* is .*\[3\].* nothing can be cut out of axis'):
    inherit(drawn(classes[0], IMAGE), shapes(classes[1], IMAGE))
  classes[1] |= {'num_classes': 5, 'patch': 4}
  with pytest.raises(KdjaxError, match='nothing can be cut out of axis'):
    inherit(drawn(classes[0], IMAGE), shapes(classes[1], IMAGE))
