"""Second writings in plain NumPy of the methods on features that no golden vector makes.

A writing gets the student's taps, the teacher's and the learned parameters, and the parameters once
more as `fixed` for what carries no gradient. It sees the real examples alone: the third is padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taps
from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.methods.features import mgd as mgd_file
from kdjax.methods.features import ofd as ofd_file
from kdjax.methods.features import vkd as vkd_file
from kdjax.nn import losses
from kdjax.training.loss_weights import related

RNG = np.random.default_rng(0)
REAL = np.array([0, 1, 3])
MASK = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
BATCH = {'mask': np.array([1.0, 1, 0, 1]), 'text/mask': MASK, 'id': np.array([7, 2, 9, 4])}


def outputs(width, size):
  shapes = {
    'map': (4, *size, width),
    'top': (4, 2, 2, width + 1),
    'embed': (4, width),
    'text/tokens': (4, 4, width),
    'text/attention': (4, 2, 4, 4),
  }
  return {k: RNG.normal(size=shape) for k, shape in shapes.items()}


S, T = outputs(3, (4, 4)), outputs(5, (3, 2))
with jax.enable_x64(True):
  KEEP = mgd_file.kept(jax.random.fold_in(jax.random.key(0), 0), BATCH['id'], (3, 2), 0.65)
KEEP = np.asarray(KEEP)[REAL]


def pool(x, size):
  """Adaptive average pooling of the leading axes of one example."""
  for axis, m in enumerate(size):
    n = x.shape[axis]
    parts = [x.take(range(i * n // m, -(-(i + 1) * n // m)), axis) for i in range(m)]
    x = np.stack([p.mean(axis) for p in parts], axis)
  return x


def fit(a, b):
  size = np.minimum(a.shape[:2], b.shape[:2])
  return pool(a, size), pool(b, size)


def maps(s, t, key='map'):
  return [fit(a, b) for a, b in zip(s[key], t[key], strict=True)]


def linear(x, p):
  return x @ p['kernel'] + p.get('bias', 0)


def convolve(x, p):
  """3×3 with a border of zeros."""
  h, w = x.shape[:2]
  x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  parts = [x[i : i + h, j : j + w] @ p['kernel'][i, j] for i in range(3) for j in range(3)]
  return sum(parts) + p.get('bias', 0)


def batch_norm(xs, p):
  axes = (0, 1, 2)
  return (xs - xs.mean(axes)) / np.sqrt(xs.var(axes) + 1e-5) * p['scale'] + p['bias']


def softmax(x):
  e = np.exp(x - x.max())
  return e / e.sum()


def cosine(a, b):
  return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def at_sum(s, t, params, fixed):
  def attention(x):
    q = (abs(x) ** 3).sum(-1)
    return q / (np.sqrt((q**2).sum()) + 1e-6)

  return np.mean([((attention(a) - attention(b)) ** 2).mean() for a, b in maps(s, t)])


def cwd(s, t, params, fixed):
  values = []
  for a, b in maps(s, t):
    a = linear(a, params['stage0'])
    for c in range(5):
      p, q = softmax(b[..., c] / 2), softmax(a[..., c] / 2)
      values.append(4 * (p * np.log(p / q)).sum())
  return np.mean(values)


def pkd_pearson(s, t, params, fixed):
  a, b = (np.stack(x) for x in zip(*maps(s, t), strict=True))
  a = linear(a, params['stage0'])
  return np.mean([1 - np.corrcoef(a[..., c].ravel(), b[..., c].ravel())[0, 1] for c in range(5)])


def afd_attention(s, t, params, fixed):
  values, p = [], params['attention0']
  for a, b in maps(s, t):
    a = linear(a, params['align']['stage0'])
    rho = 1 / (1 + np.exp(-linear(np.maximum(linear(b.mean((0, 1)), p['squeeze']), 0), p['excite'])))
    a, b = (x / (np.sqrt((x**2).sum((0, 1))) + 1e-6) for x in (a, b))
    values.append(rho / rho.sum() @ ((a - b) ** 2).mean((0, 1)))
  return np.mean(values)


def mgd(reduction):
  def writing(s, t, params, fixed):
    values, p = [], params['generator0']
    for (a, b), k in zip(maps(s, t), KEEP, strict=True):
      a = linear(a, params['align']['stage0']) * k
      values.append((convolve(np.maximum(convolve(a, p['conv0']), 0), p['conv1']) - b) ** 2)
    return np.mean([getattr(x, reduction)() for x in values])

  return writing


def fsp(s, t, params, fixed):
  values = []
  for i in range(3):
    grams = []
    for x, project in ((s, True), (t, False)):
      bottom, top = x['map'][i], x['top'][i]
      if project:
        bottom, top = linear(bottom, params['stage0']), linear(top, params['stage1'])
      bottom, top = fit(bottom, top)
      grams.append(sum(np.outer(top[j], bottom[j]) for j in np.ndindex(2, 2)) / 4)
    values.append(((grams[0] - grams[1]) ** 2).mean())
  return np.mean(values)


def ofd(s, t, params, fixed):
  a = batch_norm(linear(s['map'], params['stage0']), params['stage0_bn'])
  b = np.stack([pool(x, (4, 4)) for x in t['map']])
  total = 0
  for c in range(5):
    margin = np.mean([x for x in b[..., c].ravel() if x < 0])
    for x, y in zip(a[..., c].ravel(), b[..., c].ravel(), strict=True):
      if y > 0 or (y > margin and x > y):
        total += (x - y) ** 2
      elif y <= margin and x > margin:
        total += (x - margin) ** 2
  return total / 3


def ft(s, t, params, fixed):
  def leaky(x):
    return np.where(x > 0, x, 0.1 * x)

  def unit(x):
    return x / np.linalg.norm(x)

  def paraphrase(b, p, part):
    for i in range(3):
      b = leaky(convolve(b, p[f'{part}{i}']))
    return b

  translated = s['map']
  for i in range(3):
    convolved = np.stack([convolve(x, params['translator'][f'conv{i}']) for x in translated])
    translated = leaky(batch_norm(convolved, params['translator'][f'bn{i}']))
  values = []
  for x, b in zip(translated, t['map'], strict=True):
    p = params['paraphraser']
    rebuilt = paraphrase(paraphrase(b, p, 'encoder'), p, 'decoder')
    x, factor = fit(x, paraphrase(b, fixed['paraphraser'], 'encoder'))
    values.append(abs(unit(x) - unit(factor)).mean() + 0.005 * ((rebuilt - b) ** 2).mean())
  return np.mean(values)


def over_tokens(values, lengths):
  """The mean over valid positions of the whole batch."""
  return sum(v for row, n in zip(values, lengths, strict=True) for v in row[:n]) / sum(lengths)


LENGTHS = MASK[REAL].sum(1)


def projected_states(match):
  def writing(s, t, params, fixed):
    rows = []
    for a, b in zip(linear(s['text/tokens'], params['stage0']), t['text/tokens'], strict=True):
      pairs = zip(a, b, strict=True)
      rows.append([((x - y) ** 2).mean() if match == 'mse' else 1 - cosine(x, y) for x, y in pairs])
    return over_tokens(rows, LENGTHS)

  return writing


def pkd_bert(s, t, params, fixed):
  states = zip(linear(s['text/tokens'][:, 0], params['stage0']), t['text/tokens'][:, 0], strict=True)
  return np.mean([2 - 2 * cosine(a, b) for a, b in states])


def attention_ce(s, t, params, fixed):
  rows = []
  for a, b, n in zip(s['text/attention'], t['text/attention'], LENGTHS, strict=True):
    row = np.zeros(4)
    for head, query in np.ndindex(2, n):
      row[query] -= softmax(b[head, query, :n]) @ np.log(softmax(a[head, query, :n])) / 2
    rows.append(row)
  return over_tokens(rows, LENGTHS)


def pooled_feature(s, t, params, fixed):
  return np.mean([1 - cosine(a, pool(b, (3,))) for a, b in zip(s['embed'], t['embed'], strict=True)])


def wkd_features(grid):
  def moments(x):
    cells = []
    for i, j in np.ndindex(grid, grid):
      (h, w), (m, n) = x.shape[:2], (grid, grid)
      cell = x[i * h // m : -(-(i + 1) * h // m), j * w // n : -(-(j + 1) * w // n)].reshape(-1, 5)
      cells.append((cell.mean(0), np.sqrt(cell.var(0, ddof=1) + 1e-5)))
    return cells

  def writing(s, t, params, fixed):
    projected, values = np.maximum(batch_norm(linear(s['map'], params['conv']), params['bn']), 0), []
    for a, b in zip(projected, t['map'], strict=True):
      pairs = zip(moments(a), moments(b), strict=True)
      values += [3 * ((m - n) ** 2).sum() + ((d - e) ** 2).sum() for (m, d), (n, e) in pairs]
    return np.mean(values)

  return writing


def bottleneck(xs, p):
  for i in range(3):
    xs = [convolve(x, p['conv1']) if i == 1 else x @ p[f'conv{i}']['kernel'][0, 0] for x in xs]
    xs = np.maximum(batch_norm(np.stack(xs), p[f'norm{i}']), 0)
  return xs


def simkd(s, t, params, fixed):
  a, b = (np.stack(x) for x in zip(*maps(s, t), strict=True))
  return ((bottleneck(a, params) - b) ** 2).mean()


def vkd(s, t, params, fixed):
  skew, values = params['free'] - params['free'].T, []
  rotation = np.linalg.inv(np.eye(5) - skew) @ (np.eye(5) + skew)
  np.testing.assert_allclose(rotation @ rotation.T, np.eye(5), atol=1e-9)
  for a, b in zip(s['map'], t['map'], strict=True):
    b = b.mean((0, 1))
    d = abs(a.mean((0, 1)) @ rotation[:3] - (b - b.mean()) / np.sqrt(b.var() + 1e-5))
    values.append(np.where(d < 1, d**2 / 2, d - 0.5).mean())
  return np.mean(values)


def token_rows(a, b):
  """KL of the similarities of each token to all, of student `a` and teacher `b`."""
  rows = []
  for i in range(len(a)):
    q, p = (softmax(np.array([cosine(x[i], y) for y in x]) / 0.5) for x in (a, b))
    rows.append((p * np.log(p / q)).sum())
  return rows


def token_similarity(s, t, params, fixed):
  tokens = zip(s['text/tokens'], t['text/tokens'], LENGTHS, strict=True)
  return over_tokens([token_rows(a[:n], b[:n]) for a, b, n in tokens], LENGTHS)


def patch_similarity(s, t, params, fixed):
  return np.mean([token_rows(a.reshape(6, -1), b.reshape(6, -1)) for a, b in maps(s, t)])


def both(tap):
  return {'student': tap, 'teacher': tap}


ON_TOKENS = both(('text/tokens',))
WRITINGS = {  # name -> (method, options, writing)
  'at_sum': ('at_sum', {'p': 3.0} | both(('map',)), at_sum),
  'fsp': ('fsp', both(('map', 'top')), fsp),
  'ft': ('ft', both('map'), ft),
  'ofd': ('ofd', both(('map',)), ofd),
  'mgd mean': ('mgd', both('map'), mgd('mean')),
  'mgd sum': ('mgd', {'reduction': 'sum'} | both('map'), mgd('sum')),
  'cwd': ('cwd', {'temperature': 2.0} | both('map'), cwd),
  'pkd_pearson': ('pkd_pearson', both(('map',)), pkd_pearson),
  'pkd_bert': ('pkd_bert', ON_TOKENS, pkd_bert),
  'afd_attention': ('afd_attention', both('map'), afd_attention),
  'hidden_state mse': ('hidden_state', ON_TOKENS, projected_states('mse')),
  'hidden_state cosine': ('hidden_state', {'match': 'cosine'} | ON_TOKENS, projected_states('cosine')),
  'attention_match ce': ('attention_match', {'match': 'ce'} | both(('text/attention',)), attention_ce),
  'pooled_feature': ('pooled_feature', both(('embed',)), pooled_feature),
  'wkd_features': ('wkd_features', {'mean': 3.0} | both('map'), wkd_features(1)),
  'wkd_features of cells': ('wkd_features', {'mean': 3.0, 'grid': 2} | both('map'), wkd_features(2)),
  'simkd': ('simkd', both('map'), simkd),
  'vkd': ('vkd', both('map'), vkd),
  'token_similarity': ('token_similarity', {'temperature': 0.5} | both('text/tokens'), token_similarity),
  'token_similarity of maps': ('token_similarity', {'temperature': 0.5} | both('map'), patch_similarity),
}

# Every method of the family with its defaults, and options that take another way.
VARIANTS = [
  ('ft', {'power': 2, 'p': 2}),
  ('hidden_state', {'match': 'cosine'}),
  ('hidden_state', {'project': True}),
  ('gram_match', {'over': 'features'} | both(('text/states',) * 2)),
  *(('attention_match', {'match': match}) for match in ('mse_sum', 'ce', 'ce_mean')),
  *(
    (name, {}) for name, path in sorted(registry.names('methods').items()) if path.split('.')[2] == 'features'
  ),
]
# Of the rest, with nothing learned where the widths agree, the loss is 0 at student = teacher.
NOT_ZERO = {'ab', 'ofa_kd', 'fitnet', 'ft', 'mgd', 'ofd', 'reviewkd', 'vid', 'afd', 'vkd', 'wkd_features'}


def value(method, params, stats, s, t, batch, step=0):
  (total, count), _ = method.loss(params, stats, s, t, batch, step=step, rng=jax.random.key(0))
  return total / jnp.maximum(count, 1)


def check_gradient(function, x, gradient, message, h=1e-6):
  """Difference quotients of a few entries of `x`, which `function` reads."""
  for i in RNG.permutation(x.size)[:8]:
    i, sides = np.unravel_index(i, x.shape), []
    old = x[i]
    for sign in (1, -1):
      x[i] = old + sign * h
      sides.append(function())
    x[i] = old
    wanted = (sides[0] - sides[1]) / (2 * h)
    np.testing.assert_allclose(gradient[i], wanted, rtol=1e-5, atol=1e-8, err_msg=message)


@pytest.mark.parametrize('name', WRITINGS)
def test_the_second_writing_and_its_gradient(name):
  entry, options, writing = WRITINGS[name]
  s, t = ({k: v[REAL] for k, v in x.items()} for x in (S, T))
  with jax.enable_x64(True):
    method = registry.make('methods', entry, options)
    params, stats = jax.jit(method.init)(jax.random.key(1), S, T, BATCH)
    # No bias stays at 0, where a masked map would lie on the kink of a ReLU.
    params = jax.tree.map(lambda x: np.asarray(x, np.float64) + 0.1 * RNG.normal(size=x.shape), params)
    function = jax.value_and_grad(lambda p, s: value(method, p, stats, s, T, BATCH), (0, 1))
    result, grads = jax.jit(function)(params, S)
    to_params, to_s = jax.tree.map(np.asarray, grads)
  np.testing.assert_allclose(result, writing(s, t, params, params), rtol=1e-9)
  moved = jax.tree.map(np.copy, params)
  for x, gradient in zip(jax.tree.leaves(moved), jax.tree.leaves(to_params), strict=True):
    check_gradient(lambda: writing(s, t, moved, params), x, gradient, f'{name}: {x.shape}')
  names = options['student']
  for key in (names,) if isinstance(names, str) else names:
    check_gradient(lambda: writing(s, t, params, params), s[key], to_s[key][REAL], f'{name}: {key}')
    assert np.abs(to_s[key]).max() > 0 and not to_s[key][2].any(), 'a gradient reaches padding, or none'


def example():
  """The taps of a few examples, states of one width, and scores of another number of heads."""
  s, t, batch = (taps.rows(x, np.arange(3)) for x in taps.example())
  s['text/states'], t['text/states'] = s['text/block1'], t['text/block1'][..., :4]
  s['text/heads'], t['text/heads'] = s['text/attention1'], t['text/attention1'][:, :1]
  return s, t, batch


@pytest.mark.parametrize('name,options', VARIANTS)
def test_it_stays_finite(name, options):
  method = registry.make('methods', name, options)
  s, t, batch = example()
  params, stats = jax.jit(method.init)(jax.random.key(1), s, t, batch)
  run = jax.jit(jax.value_and_grad(lambda p, s, t, b: value(method, p, stats, s, t, b), (0, 1)))
  saturated = [{k: 1e4 * np.sign(v) for k, v in x.items()} for x in (s, t)]
  zero = [{k: 0 * v for k, v in x.items()} for x in (s, t)]
  padding = batch | {'mask': 0 * batch['mask']}
  cases = {'saturated': (*saturated, batch), 'zero': (*zero, batch), 'padding': (s, t, padding)}
  for case, inputs in cases.items():
    result, grads = run(params, *inputs)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((result, grads))), case
    if case == 'padding':
      assert result == 0 and all(np.abs(g).max() == 0 for g in jax.tree.leaves(grads))


@pytest.mark.parametrize('name,options', VARIANTS)
def test_equal_outputs(name, options):
  method = registry.make('methods', name, options)
  _, t, batch = example()
  params, stats = jax.jit(method.init)(jax.random.key(1), t, t, batch)
  result, grads = jax.jit(jax.value_and_grad(lambda s: value(method, params, stats, s, t, batch)))(t)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((result, grads)))
  if name not in NOT_ZERO and not options.get('project') and not options.get('match', '').startswith('ce'):
    np.testing.assert_allclose(result, 0, atol=1e-6)


def test_factor_transfer_in_two_stages():
  s, t, batch = example()
  method = registry.make('methods', 'ft', {'reconstruction_steps': 5})
  params, stats = jax.jit(method.init)(jax.random.key(1), s, t, batch)
  function = jax.jit(jax.grad(lambda p, n: value(method, p, stats, s, t, batch, n)))
  for step, learns in ((4, 'paraphraser'), (5, 'translator')):
    grads = function(params, step)
    assert learns == ' '.join(k for k, g in grads.items() if any(x.any() for x in jax.tree.leaves(g)))


def test_a_batch_norm_margin_is_the_mean_of_what_is_negative():
  with jax.enable_x64(True):
    scale, bias = np.array([0.5, -1.0, 2.0, 0.1, 0.0]), np.array([0.3, -0.4, 0.0, 5.0, -2.0])
    result = np.asarray(ofd_file.bn_margin(jnp.asarray(scale), jnp.asarray(bias)))
  drawn = np.random.default_rng(0).normal(size=10**6)
  wanted = [
    np.mean([x for x in s * drawn + b if x < 0] or [-3 * s]) for s, b in zip(scale, bias, strict=True)
  ]
  np.testing.assert_allclose(result, wanted, rtol=0.01)


def test_the_mask_of_a_tap():
  s, t, batch = example()

  def run(tap, s, t, batch, **options):
    method = registry.make('methods', 'hidden_state', options | both((tap,)))
    return value(method, *method.init(jax.random.key(1), s, t, batch), s, t, batch)

  masked = run('text/block1', s, t, batch)
  alone = [{'block1': x['text/block1']} for x in (s, t)]  # a model of one modality names none
  np.testing.assert_allclose(run('block1', *alone, batch), masked, rtol=1e-6)
  every = run('text/block1', s, t, batch, mask='')
  assert abs(every - masked) > 1e-3
  batch.pop('text/mask')
  np.testing.assert_allclose(run('text/block1', s, t, batch), every)


@pytest.mark.parametrize(
  'name,options,says',
  [
    ('at_mean', {'student': ('image/stage1',)}, 'as many of each'),
    ('at_mean', both(('text/block1',)), r"'text/block1' \[3, 6, 4\]"),
    ('fsp', both('image/stage1'), 'two taps or more'),
    ('ofd', {'margins': ((0.0, 0.0),)}, '1 margins for 3 stages'),
    ('ofd', {'margins': ('logits',)} | both('image/stage1'), 'cannot use a margin'),
    ('reviewkd', both('text/block1'), 'maps .* or vectors'),
    ('hidden_state', {'project': False}, 'cannot pair'),
    ('hidden_state', {'match': 'mae'}, 'Choose from: mse, cosine'),
    ('hidden_state', both(('text/block1', 'embed')), 'of one length'),
    ('hidden_state', {'mask': 'id'}, 'cannot mask positions of shape'),
    ('gram_match', both(('text/block1',)), 'two layers'),
    ('gram_match', {'over': 'features'}, 'cannot pair'),
    ('gram_match', {'over': 'tokens'}, 'Choose from: features, positions'),
    ('attention_match', {'match': 'kl'}, 'Choose from: ce'),
    ('attention_match', both('text/heads'), 'take other heads'),
    ('mgd', {'reduction': 'max'}, 'Choose from: mean, sum'),
    ('pooled_feature', {'student': 'image/embed', 'teacher': 'logits'}, 'averages the teacher down'),
    ('simkd', both('text/block1'), 'they need 4 axes each'),
    ('token_similarity', {'student_first': 1}, 'a square of patches after the first 1 tokens'),
    ('ab', {'student': 'image/stage3', 'teacher': 'image/stage1'}, 'no connector'),
  ],
)
def test_what_cannot_pair_says_so_in_one_line(name, options, says):
  s, t, batch = example()
  with pytest.raises(KdjaxError, match=says) as raised:
    method = registry.make('methods', name, options)
    method.loss(*method.init(jax.random.key(1), s, t, batch), s, t, batch, step=0, rng=jax.random.key(0))
  assert '\n' not in str(raised.value)


def test_patches_after_a_class_token_are_those_of_a_map():
  """Tokens [B, 1 + 16, D] and a map of 4 × 4 against two maps, and tokens of 4 × 4 against a map of 2 × 2."""
  rng = np.random.default_rng(0)
  s, t = ({'map': rng.normal(size=(3, 4, 4, d)).astype(np.float32)} for d in (3, 5))
  t['small'] = losses.average_to(t['map'], (2, 2))
  for x in (s, t):
    x['tokens'] = np.concatenate([rng.normal(size=x['map'][:, 0, :1].shape), x['map'].reshape(3, 16, -1)], 1)

  def of(student, teacher, **options):
    names = {'student': student, 'teacher': teacher}
    return value(registry.make('methods', 'token_similarity', names | options), {}, {}, s, t, {})

  wanted = of('map', 'map')
  np.testing.assert_allclose(of('tokens', 'map', student_first=1), wanted, rtol=1e-5)
  np.testing.assert_allclose(of('tokens', 'tokens', student_first=1, teacher_first=1), wanted, rtol=1e-5)
  assert abs(of('tokens', 'tokens') - wanted) > 1e-3
  np.testing.assert_allclose(of('tokens', 'small', student_first=1), of('map', 'small'), rtol=1e-5)


def test_a_student_of_the_teachers_width_has_no_projector_in_simkd():
  _, t, batch = example()
  method = registry.make('methods', 'simkd', {})
  params, stats = method.init(jax.random.key(0), t, t, batch)
  assert params == {} and not related(method, params, stats)
  shifted = {k: v + 0.5 for k, v in t.items()}
  np.testing.assert_allclose(value(method, params, stats, shifted, t, batch), 0.25, rtol=1e-5)


@pytest.mark.parametrize('width', [3, 8])
def test_the_projection_of_vkd_keeps_angles_or_is_onto(width):
  x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
  module = vkd_file.Orthogonal(width)
  variables = module.init(jax.random.key(0), x)
  matrix = np.asarray(module.apply(variables, np.eye(5, dtype=np.float32)))
  gram = matrix @ matrix.T if width > 5 else matrix.T @ matrix
  np.testing.assert_allclose(gram, np.eye(min(width, 5)), atol=1e-5)
