"""Deep Compression: masks, shared weights, codes, files, and trainings of what is left."""

import hashlib
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from kdjax.compress import file, huffman, parametrize, prune, retrain, share, sparse, structured
from kdjax.errors import KdjaxError
from kdjax.input.splits import InMemorySplit
from kdjax.methods.logits.kd import kd
from kdjax.models.vision.lenet5 import Lenet5
from kdjax.models.vision.mlp import Mlp
from kdjax.models.vision.resnet import Resnet
from kdjax.nn.functional import functions
from kdjax.tasks.classification import classification
from kdjax.training import optimizers, trainer
from kdjax.training import step as steps
from kdjax.training.loss_weights import combine
from kdjax.training.setup import LoopConfig, Member, Setup

RNG = np.random.default_rng(0)
BATCH = {
  'image': RNG.integers(0, 255, (8, 28, 28, 1), np.uint8),
  'label': RNG.integers(0, 10, 8).astype(np.int32),
}
NET = functions(Mlp((6, 5), num_classes=10), {})
METHOD = combine({'kd': (1.0, kd(), lambda step: 1.0)})


def variables(net=NET, seed=0):
  return jax.device_get(jax.jit(net.init)(jax.random.key(seed), BATCH))


def refused(match, call, *args, **kwargs):
  with pytest.raises(KdjaxError, match=match) as e:
    call(*args, **kwargs)
  assert '\n' not in str(e.value)


# Pruning.


@pytest.mark.parametrize('density', [0.0, 0.03, 0.5, 0.777, 1.0])
def test_exactly_the_share_asked_for_is_kept(density):
  params = variables()['params']
  kept = prune.apply(params, prune.masks(params, density))
  for k, v in flatten_dict(kept).items():
    whole = flatten_dict(params)[k]
    if k[-1] == 'kernel':
      assert np.count_nonzero(v) == round(density * v.size)
      assert not np.any(np.abs(whole[v == 0]) > np.abs(v[v != 0]).min(initial=np.inf))
    else:
      assert np.array_equal(v, whole)
  together = prune.apply(params, prune.masks(params, density, 'global'))
  kernels = [v for k, v in flatten_dict(together).items() if k[-1] == 'kernel']
  assert sum(map(np.count_nonzero, kernels)) == round(density * sum(v.size for v in kernels))


def test_equal_weights_are_pruned_in_order_and_a_round_brings_none_back():
  params = {'a': {'kernel': np.ones((3, 4), np.float32)}}
  assert prune.masks(params, 0.5)['a']['kernel'].reshape(-1).tolist() == [True] * 6 + [False] * 6
  params, mask = variables()['params'], None
  for density in prune.rounds(0.1, 4):
    new = prune.masks(params, density)
    for k, m in flatten_dict(new).items():
      assert mask is None or not np.any(m & ~flatten_dict(mask)[k])
    params, mask = prune.apply(params, new), new
  assert prune.rounds(0.1, 4)[-1] == pytest.approx(0.1)
  assert prune.density(params)['hidden1/kernel'] == pytest.approx(0.1, abs=1e-3)


def test_densities_by_layer_and_what_is_wrong_with_them():
  params = variables()['params']
  masks = prune.masks(params, {'hidden1/kernel': 0.25})
  assert list(flatten_dict(masks)) == [('hidden1', 'kernel')]
  refused('unknown layer to prune', prune.masks, params, {'hidden/kernel': 0.2})
  refused('density of head', prune.masks, params, 1.5)
  refused('takes one density', prune.masks, params, {'hidden1/kernel': 0.2}, 'global')
  refused("unknown scope of pruning: 'all'", prune.masks, params, 0.5, 'all')
  refused('nothing to prune', prune.masks, {'a': {'bias': np.ones(3)}}, 0.5)
  refused('start', prune.cubic, 0.1, 5, 5)
  refused('rounds', prune.rounds, 0.1, 0)


def test_the_cubic_schedule_is_that_of_the_paper():
  at = prune.cubic(0.1, 10, 110)
  for step in (0, 10, 35, 60, 109, 110, 500):
    x = min(max((step - 10) / 100, 0), 1)
    assert float(at(step)) == pytest.approx(1 - (0.9 + (0 - 0.9) * (1 - x) ** 3), abs=1e-6)


def trained(model, start, tx, n=6, **shared):
  """A state after n steps with KD from another network."""
  teacher, of_teacher = functions(Mlp((9,), num_classes=10), {}), None
  of_teacher = jax.jit(teacher.init)(jax.random.key(5), BATCH)
  t = jax.lax.stop_gradient(teacher.apply(of_teacher, BATCH)[0])
  state = steps.make_init(model, METHOD, tx, ema='ema' in shared)(jnp.uint32(0), t, BATCH)
  params = {**state.params, 'student': start.pop('params')}
  if state.ema:
    state = state.replace(ema={'params': params['student'], **start})
  state = state.replace(params=params, stats={**state.stats, 'student': start}, opt_state=tx.init(params))
  update = jax.jit(steps.make_update(model, classification(), METHOD, tx, **shared))
  states = [state]
  for _ in range(n):
    state, losses = update(state, t, BATCH)
    assert all(np.isfinite(v[0]) for v in losses.values()) and {'kd', 'task'} <= losses.keys()
    states.append(state)
  return states


@pytest.mark.whole
def test_pruned_weights_stay_zero_through_a_distillation():
  tx = optimizers.optimiser({'name': 'adamw', 'lr': 1e-2, 'weight_decay': 0.1}, 10)
  masks = prune.masks(variables()['params'], 0.3)
  *_, last = trained(parametrize.pruned(NET), parametrize.to_pruned(variables(), masks), tx)
  folded = parametrize.folded({'params': last.params['student'], **last.stats['student']})
  assert folded.keys() == {'params'}
  for k, m in flatten_dict(masks).items():
    new, old = flatten_dict(folded['params'])[k], flatten_dict(variables()['params'])[k]
    assert not np.any(new[~m]) and np.all(new[m] != old[m])
  assert jax.tree.all(jax.tree.map(np.array_equal, last.stats['student'][parametrize.MASKS], masks))
  # The same as a network of masked weights that an optimiser of zeros trains, without decay.
  plain = optax.sgd(0.1)
  *_, a = trained(parametrize.pruned(NET), parametrize.to_pruned(variables(), masks), plain)
  start = {'params': prune.apply(variables()['params'], masks)}
  *_, b = trained(NET, start, optax.chain(plain, prune.keep_zero({'student': masks})))
  mine = parametrize.folded({'params': a.params['student'], **a.stats['student']})['params']
  for x, y in zip(*map(jax.tree.leaves, (mine, b.params['student'])), strict=True):
    np.testing.assert_allclose(x, y, atol=1e-7)


def test_gradual_pruning_reaches_its_density_and_only_loses_weights():
  tx = optax.chain(optax.adam(1e-2), prune.gradually(prune.cubic(0.2, 0, 6), every=2))
  states = trained(NET, variables(), tx, 8)
  zeros = [np.asarray(s.params['student']['hidden1']['kernel']) == 0 for s in states]
  assert all(np.all(b[a]) for a, b in zip(zeros, zeros[1:], strict=False))
  assert 1 - zeros[-1].mean() == pytest.approx(0.2, abs=1e-3) and zeros[1].mean() < zeros[4].mean()
  assert np.any(np.asarray(states[-1].params['student']['hidden1']['bias']) != 0)


# Shared weights.


def test_kmeans():
  x = np.concatenate([RNG.normal(m, 0.01, 50) for m in (-1, 0.5, 2)]).astype(np.float32)
  for start in ('linear', 'density'):
    centroids, index = share.kmeans(x, 3, start)
    np.testing.assert_allclose(centroids, x.reshape(3, 50).mean(1), atol=1e-6)
    assert np.array_equal(index, np.repeat([0, 1, 2], 50))
  centroids, index = share.kmeans(x, 16, 'random')
  nearest = np.abs(x[:, None] - centroids).argmin(1)
  np.testing.assert_allclose(np.abs(x - centroids[index]), np.abs(x - centroids[nearest]), atol=1e-6)
  assert np.array_equal(share.kmeans(x, 7, 'linear', 0)[0], np.unique(share.kmeans(x, 7, 'linear', 0)[0]))
  assert [len(v) for v in share.kmeans(np.zeros(0), 4)] == [0, 0]
  assert share.kmeans(np.ones(5), 4)[0].tolist() == [1]
  refused('unknown start of the centroids', share.kmeans, x, 3, 'middle')
  refused('not finite', share.kmeans, np.array([np.nan]), 3)


def test_the_gradient_of_a_centroid_is_the_sum_over_its_weights():
  params = prune.apply(variables()['params'], prune.masks(variables()['params'], 0.4))
  books, index = share.share(params, 4)
  assert flatten_dict(index)['hidden1', 'kernel'].max() <= 15
  weights = share.unshare(books, index)
  for k, w in flatten_dict(weights).items():
    assert np.array_equal(np.asarray(w) == 0, np.asarray(flatten_dict(params)[k]) == 0)

  def loss(params):
    outputs, _ = NET.apply({'params': params}, BATCH, train=False)
    return classification().loss(outputs, BATCH)[0]

  of_weights = jax.grad(loss)(weights)
  of_centroids = jax.grad(lambda books: loss(share.unshare(books, index)))(books)
  for k, i in flatten_dict(index).items():
    g, mine = np.asarray(flatten_dict(of_weights)[k], np.float64), flatten_dict(of_centroids)[k]
    expected = [g[i == c + 1].sum() for c in range(len(mine))]
    np.testing.assert_allclose(mine, expected, rtol=2e-4, atol=1e-5)
  refused('bits of head', share.share, params, 17)
  refused('unknown layer to share', share.share, params, {'conv/kernel': 3})


def test_shared_weights_train_under_distillation_and_stay_shared():
  start = parametrize.to_shared(
    {'params': prune.apply(variables()['params'], prune.masks(variables()['params'], 0.4))}, 3
  )
  begun = parametrize.shared(NET, start).init(jax.random.key(0), BATCH)
  assert jax.tree.all(jax.tree.map(np.array_equal, begun, start))
  first, *_, last = trained(parametrize.shared(NET, start), dict(start), optax.sgd(0.05), ema=0.5)
  assert jax.tree.all(jax.tree.map(np.array_equal, last.ema[parametrize.INDEX], start[parametrize.INDEX]))
  mean, book = (x['hidden1']['kernel'] for x in (last.ema['params'], last.params['student']))
  assert np.all(mean != book) and mean.shape == book.shape
  assert np.all(first.params['student']['hidden1']['kernel'] != last.params['student']['hidden1']['kernel'])
  folded = jax.device_get(parametrize.folded({'params': last.params['student'], **last.stats['student']}))
  for k, v in flatten_dict(folded['params']).items():
    if k[-1] == 'kernel':
      assert len(np.unique(v[v != 0])) <= 7 and np.count_nonzero(v) == round(0.4 * v.size)


# Codes.


def test_huffman_is_within_a_bit_of_the_entropy_and_optimal():
  for size in (2, 3, 17, 64, 300):
    counts = np.floor(RNG.exponential(1, size) ** 2 * 100).astype(np.int64)
    counts[:2] += 1
    bits, p = huffman.lengths(counts), counts[counts > 0] / counts.sum()
    entropy, mean = -np.sum(p * np.log2(p)), np.sum(bits * counts) / counts.sum()
    assert entropy - 1e-9 <= mean < entropy + 1
    assert np.sum(0.5 ** bits[bits > 0].astype(float)) == 1 and not np.any(bits[counts == 0])
    heap, cost = sorted(counts[counts > 0].tolist()), 0
    while len(heap) > 1:  # the optimal cost is the sum of all joined counts
      joined = heap[0] + heap[1]
      heap, cost = sorted([*heap[2:], joined]), cost + joined
    assert np.sum(bits * counts) == cost
  # Sizes of 1/2, 1/4, ...: the entropy itself. And of Fibonacci's numbers, whose code has to be shortened.
  assert huffman.lengths(np.array([32, 16, 8, 4, 2, 1, 1])).tolist() == [1, 2, 3, 4, 5, 6, 6]
  fibonacci = [1, 1]
  while len(fibonacci) < 30:
    fibonacci.append(sum(fibonacci[-2:]))
  bits = huffman.lengths(np.array(fibonacci))
  assert bits.max() <= huffman.LONGEST and np.sum(0.5 ** bits.astype(float)) <= 1


@pytest.mark.parametrize('n', [0, 1, 5, huffman.BLOCK, huffman.BLOCK + 1, 3 * huffman.BLOCK - 1])
def test_huffman_decodes_what_it_encoded(n):
  symbols = np.minimum(RNG.geometric(0.3, n), 40).astype(np.int64)
  bits = huffman.lengths(np.bincount(symbols, minlength=2))
  data, places = huffman.encode(symbols, bits)
  assert np.array_equal(huffman.decode(data, n, bits, places), symbols)
  assert len(data) == -(-int(bits[symbols].sum()) // 8)


@pytest.mark.parametrize('bits', [1, 3, 5, 16])
def test_relative_indices_with_fillers(bits):
  for density in (0.0, 0.01, 0.3, 1.0):
    symbols = (RNG.random(1000) < density) * RNG.integers(1, 9, 1000)
    gaps, values = sparse.entries(symbols, bits)
    assert gaps.max(initial=0) < 2**bits and np.count_nonzero(values) == np.count_nonzero(symbols)
    assert np.array_equal(sparse.dense(gaps, values, 1000), symbols)
  # Figure 2 of the paper: differences 1, 3, and 11 beyond the reach of 3 bits.
  assert sparse.entries(np.eye(1, 16, 15, dtype=int)[0], 3)[0].tolist() == [7, 7]


def test_sizes_are_those_of_the_streams():
  index = (RNG.random((40, 30)) < 0.1) * RNG.integers(1, 8, (40, 30))
  size = sparse.size(index, 3)
  gaps, symbols = sparse.entries(index.T.reshape(-1), 5)
  assert size.kept == np.count_nonzero(index) and size.entries == len(gaps) and size.index_bits == 5
  assert size.bits == 8 * len(gaps) + 32 * 8
  coded = sum(int(huffman.lengths(np.bincount(x))[x].sum()) for x in (gaps, symbols))
  assert size.bits_coded == pytest.approx(coded + 256)
  assert sparse.together({'a': size, 'b': size}).bits == 2 * size.bits
  assert set(size.measures()) >= {'kept', 'P+Q', 'P+Q+H'}
  assert sparse.size(np.zeros((3, 3, 2, 4), int), 2).index_bits == 8


# Files.

ARRAYS = {
  'empty': np.zeros((0, 4), np.float32),
  'scalar': np.float32(3.5),
  'zeros': np.zeros((40, 50), np.float32),
  'one value': np.full((30, 20), -1.5, np.float16),
  'signed zeros and NaN': np.array([[0.0, -0.0, np.nan, np.inf] * 30], np.float32),
  'dense': RNG.normal(size=(20, 30)).astype(np.float32),
  'bool': RNG.random((9, 40)) < 0.1,
  'int64': RNG.integers(-3, 3, (50, 9)),
  'bfloat16': np.asarray(jnp.asarray(RNG.integers(-2, 3, (30, 40)), jnp.bfloat16)),
  'far apart': np.eye(1, 5000, 4999, dtype=np.float32),
}


def same(a, b):
  a, b = np.asarray(a), np.asarray(b)
  return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize('name', ARRAYS)
def test_an_array_is_read_as_it_was(name, tmp_path):
  path = tmp_path / 'a.kdz'
  size = file.write(
    path, {'params': {'a': {'kernel': ARRAYS[name]}, 'b': np.arange(3)}}, meta={'classes': ['é']}
  )
  read, meta = file.read(path)
  assert same(read['params']['a']['kernel'], ARRAYS[name]) and same(read['params']['b'], np.arange(3))
  assert meta == {'classes': ['é']} and path.stat().st_size == size
  assert [p.name for p in tmp_path.iterdir()] == ['a.kdz']


def test_random_arrays_are_read_as_they_were(tmp_path):
  path = tmp_path / 'a.kdz'
  for _ in range(60):
    shape = tuple(RNG.integers(0, 12, RNG.integers(0, 5)))
    x = RNG.normal(size=shape) * (RNG.random(shape) < RNG.random() ** 2)
    x = np.asarray(np.round(x * RNG.integers(1, 9)) if RNG.random() < 0.7 else x).astype(
      RNG.choice(['f2', 'f4', 'f8'])
    )
    file.write(path, {'k': x}, index_bits={'k': int(RNG.integers(1, 17))})
    assert same(file.read(path)[0]['k'], x)


def test_a_compressed_network_is_small_and_exact(tmp_path):
  x = {
    'params': {
      'a': {'kernel': RNG.normal(size=(784, 300)).astype(np.float32), 'bias': np.ones(300, np.float32)}
    }
  }
  masked = {'params': prune.apply(x['params'], prune.masks(x['params'], 0.08))}
  folded = jax.device_get(parametrize.folded(parametrize.to_shared(masked, 5)))
  size = file.write(tmp_path / 'a.kdz', folded)
  index = share.share(masked['params'], 5)[1]['a']['kernel']
  assert size < sparse.size(index, 5).bits_coded / 8 + 4 * 300 + 300 and size < 784 * 300 * 4 / 30
  assert jax.tree.all(jax.tree.map(same, file.read(tmp_path / 'a.kdz')[0], folded))


def sealed(path, header, payload=b''):
  text = zlib.compress(json.dumps(header).encode())
  whole = file.MAGIC + len(text).to_bytes(4, 'little') + text + payload
  path.write_bytes(whole + hashlib.sha256(whole).digest())
  return path


def test_damage_is_one_line(tmp_path):
  path, cut = tmp_path / 'a.kdz', tmp_path / 'b.kdz'
  file.write(path, {'k': ARRAYS['int64']})
  whole = path.read_bytes()
  for n in (0, 3, 20, 40, len(whole) - 1):
    cut.write_bytes(whole[:n])
    refused('cannot read .*b.kdz', file.read, cut)
  for i in range(0, len(whole), 7):
    cut.write_bytes(whole[:i] + bytes([whole[i] ^ 16]) + whole[i + 1 :])
    refused('checksum|begin', file.read, cut)
  refused('No such file', file.read, tmp_path / 'none.kdz')
  refused('is a folder', file.read, tmp_path)
  refused('at most 10', file.read, path, 10)
  refused('cannot be stored', file.write, cut, {'k': np.array(['text'])})
  refused('cannot be stored', file.write, cut, {'a/b': np.ones(2)})


GOOD = ['k', 'float32', [4, 4], 5, 0, 2, [[1, 3, 4, 1, []], [1, 3, 3, 1, []]]]
HOSTILE = {
  'a list': ([], b''),
  'no arrays': ({'meta': {}}, b''),
  'a type of pickles': ([['k', 'object', [2], -1, 0, 0, []]], b''),
  'two names': ([['k', 'int8', [1], -1, 0, 0, []]] * 2, b'ab'),
  'a name within another': ([['k', 'int8', [1], -1, 0, 0, []], ['k/l', 'int8', [1], -1, 0, 0, []]], b'ab'),
  'another within a name': ([['k/l', 'int8', [1], -1, 0, 0, []], ['k', 'int8', [1], -1, 0, 0, []]], b'ab'),
  'too much memory': ([['k', 'float32', [2**20, 2**20], 5, 0, 0, [[0, 0, 1, 0, []]] * 2]], b''),
  'a negative shape': ([['k', 'float32', [-1, -4], -1, 0, 0, []]], b''),
  'short payload': ([['k', 'float32', [4], -1, 0, 0, []]], b'123'),
  'long payload': ([['k', 'int8', [2], -1, 0, 0, []]], b'123'),
  'fields': ([['k', 'float32', [4]]], b''),
  'bool for a number': ([['k', 'float32', [True], -1, 0, 0, []]], b'1234'),
  'streams': ([GOOD[:6] + [[[1, 3, 4, 1, []]]]], b'12345678' + b'ab'),
  'a stream beyond its array': ([GOOD[:6] + [[[1, 30, 4, 1, []], [1, 30, 3, 1, []]]]], b'12345678ab'),
  'streams that differ': ([GOOD[:6] + [[[1, 3, 4, 1, []], [1, 2, 3, 1, []]]]], b'12345678ab'),
  'entries beyond the end': ([GOOD[:6] + [[[0, 9, 32, 0, []], [0, 9, 2, 0, []]]]], b'12345678'),
  'an alphabet beyond the codebook': ([GOOD[:6] + [[[1, 3, 4, 1, []], [1, 3, 9, 2, []]]]], b'12345678abc'),
  'a symbol beyond its alphabet': ([GOOD[:6] + [[[0, 3, 1, 0, []], [1, 3, 3, 1, []]]]], b'12345678\xff'),
  'fixed bits that are too few': ([GOOD[:6] + [[[1, 9, 4, 1, []], [0, 9, 2, 0, []]]]], b'12345678a'),
  'no prefix code': ([GOOD[:6] + [[[2, 3, 4, 3, []], [0, 3, 2, 0, []]]]], b'12345678\x08\x42\x10'),
  'a code of 31 bits': ([GOOD[:6] + [[[2, 3, 4, 3, []], [0, 3, 2, 0, []]]]], b'12345678\xff\xff\xff'),
  'places': ([GOOD[:6] + [[[2, 3, 4, 4, [1]], [0, 3, 2, 0, []]]]], b'12345678\x08\x42\x10a'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_a_header_that_lies_is_one_line(name, tmp_path):
  arrays, payload = HOSTILE[name]
  header = {'arrays': arrays, 'meta': {}} if isinstance(arrays, list) and arrays else arrays
  refused('cannot read .*a.kdz', file.read, sealed(tmp_path / 'a.kdz', header, payload))


def test_a_header_may_not_inflate_without_end(tmp_path, monkeypatch):
  monkeypatch.setattr(file, 'HEADER', 1000)
  path = sealed(tmp_path / 'a.kdz', {'arrays': [], 'meta': {'a': 'a' * 5000}})
  refused('header is cut off, or too long', file.read, path)


# Models.


def test_lenet5_is_that_of_caffe():
  net = functions(Lenet5(num_classes=10), {})
  shapes = jax.eval_shape(net.init, jax.random.key(0), BATCH)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 431_080
  taps = jax.eval_shape(lambda v: net.apply(v, BATCH)[0], shapes)
  sizes = {'conv1': (8, 12, 12, 20), 'conv2': (8, 4, 4, 50), 'embed': (8, 500), 'logits': (8, 10)}
  assert {k: v.shape for k, v in taps.items()} == sizes


@pytest.mark.whole
@pytest.mark.parametrize(
  'config', [{'model': 'mlp', 'hidden': (6, 5)}, {'model': 'lenet5', 'channels': (3, 4), 'hidden': 6}]
)
def test_units_that_do_nothing_are_taken_out_for_free(config):
  def net(config):
    kind = Mlp if config['model'] == 'mlp' else Lenet5
    return functions(kind(**{k: v for k, v in config.items() if k != 'model'}, num_classes=10), {})

  full = variables(net(config))
  chain = (
    ['conv1', 'conv2', 'hidden', 'head/linear']
    if config['model'] == 'lenet5'
    else ['hidden1', 'hidden2', 'head/linear']
  )
  flat = {k: np.array(v) for k, v in flatten_dict(full['params'], sep='/').items()}
  for layer, after in zip(chain, chain[1:], strict=False):  # two units of each lead nowhere
    units = flat[f'{layer}/bias'].size
    kernel = flat[f'{after}/kernel'].reshape(-1, units, flat[f'{after}/bias'].size)
    kernel[:, [0, 2]] = 0
    flat[f'{layer}/bias'] += 1
  full = {'params': {}}
  for k, v in flat.items():
    inner = full['params']
    for part in k.split('/')[:-1]:
      inner = inner.setdefault(part, {})
    inner[k.split('/')[-1]] = v
  density = {layer: (flat[f'{layer}/bias'].size - 2) / flat[f'{layer}/bias'].size for layer in chain[:-1]}
  smaller, cut = structured.slimmed(config, full, density)
  before, _ = net(config).apply(full, BATCH)
  after, _ = net(smaller).apply(cut, BATCH)
  np.testing.assert_allclose(before['logits'], after['logits'], atol=1e-4)
  assert after['embed'].shape[1] == before['embed'].shape[1] - 2
  assert structured.slimmed(config, full, 1.0)[0] == {
    **config,
    **{
      k: tuple(v) if k != 'hidden' or isinstance(v, tuple) else v for k, v in config.items() if k != 'model'
    },
  }
  refused('unknown layer to take units', structured.slimmed, config, full, {'stem': 0.5})
  refused('unknown model', structured.slimmed, {'model': 'vit'}, full, 0.5)


@pytest.mark.whole
def test_channels_of_a_resnet_are_cut():
  config = {'model': 'resnet', 'widths': (4, 8), 'blocks': (1, 1)}
  big, small = (functions(Resnet(w, (1, 1), num_classes=10), {}) for w in ((4, 8), (3, 5)))
  full = variables(big)
  like = jax.eval_shape(small.init, jax.random.key(0), BATCH)
  cut = structured.cut(config, full, {**config, 'widths': (3, 5)}, like)
  assert small.apply(cut, BATCH)[0]['logits'].shape == (8, 10)


# The loop.


@pytest.mark.whole
def test_a_network_is_compressed_and_distilled_end_to_end(tmp_path):
  arrays = {k: jnp.asarray(v) for k, v in BATCH.items()}
  how = {'optimiser': {'name': 'adam', 'lr': 1e-2}, 'epochs': 2, 'batch_size': 4, 'examples': 8}
  dense = retrain.make(NET, classification(), combine({}), **how)
  start = dense.init(0, arrays)
  full = dense.train(start, arrays, 1)
  assert jax.tree.all(jax.tree.map(np.array_equal, full, dense.train(start, arrays, 1)))
  taught = retrain.taught(
    arrays, {'logits': jnp.asarray(dense.taps(full, {'image': arrays['image']})['logits'])}
  )
  fit = retrain.make(parametrize.pruned(NET), classification(), METHOD, **how)
  masks = prune.masks(full['params'], 0.2)
  pruned = parametrize.folded(fit.train(parametrize.to_pruned(full, masks), taught, 2))
  fit = retrain.make(parametrize.shared(NET), classification(), METHOD, **how)
  shared = jax.device_get(
    parametrize.folded(fit.train(parametrize.to_shared(jax.device_get(pruned), 4), taught, 3))
  )
  file.write(tmp_path / 'a.kdz', shared)
  again, _ = file.read(tmp_path / 'a.kdz')
  assert dense.errors(again, arrays) == dense.errors(shared, arrays)
  assert np.count_nonzero(again['params']['hidden1']['kernel']) == round(0.2 * 784 * 6)
  refused('fill no batch', retrain.make, NET, classification(), METHOD, **how | {'batch_size': 9})


def test_the_trainer_of_kdjax_trains_a_pruned_model_with_a_teacher(tmp_path):
  start = parametrize.to_pruned(variables(), prune.masks(variables()['params'], 0.3))
  member = Member(parametrize.pruned(NET), METHOD, optax.adam(1e-2), 1.0, tmp_path, start=start)
  source = InMemorySplit({**BATCH, 'id': np.arange(8, dtype=np.int32)})
  teacher = NET, variables(seed=3)
  setup = Setup(
    *('student', {'student': member}, classification(), lambda batch: batch, *teacher, source, None),
    *(((0, 0),), False, 3, 4),
  )
  how = LoopConfig('last', 'jit', eval_every=3, log_every=3, save_every=3, eval_batch=4, keep=1)
  result = trainer.train(setup, how, tmp_path, 0)['student']['variables']
  one = jax.tree.map(lambda x: x[0], result)
  assert jax.tree.all(jax.tree.map(np.array_equal, one[parametrize.MASKS], start[parametrize.MASKS]))
  assert np.count_nonzero(parametrize.folded(one)['params']['hidden1']['kernel']) == round(0.3 * 784 * 6)
