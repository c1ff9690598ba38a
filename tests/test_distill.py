"""`kdjax.distill`, `kdjax.load` and what they return; what cannot be is one line, and claims nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flax import nnx, serialization
from safetensors.numpy import save_file

import kdjax
from kdjax.api.identity import identity
from kdjax.errors import KdjaxError
from kdjax.input.splits import InMemorySplit
from kdjax.pretrained import checkpoints
from kdjax.teacher_store import precomputed

RNG = np.random.default_rng(0)
COLOURS = ('blue', 'green', 'red')


def squares(n):
  labels = np.arange(n) % 3
  images = np.clip(RNG.normal(60, 30, (n, 8, 8, 3)), 0, 255)
  images[np.arange(n), :, :, labels] += 120
  return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int32)


TRAIN, TEST = squares(48), squares(24)


class Net(nn.Module):
  width: int = 4
  outputs: int = 3

  @nn.compact
  def __call__(self, x, train: bool = False):
    x = nn.relu(nn.Dense(self.width, name='hidden')(x.mean((1, 2))))
    return nn.Dense(self.outputs, name='out')(x)


VARIABLES = Net(8).init(jax.random.key(3), jnp.zeros((1, 8, 8, 3)))


def run(tmp_path, teacher=None, student=None, train=TRAIN, test=TEST, **options):
  options = {
    'steps': 2,
    'batch_size': 16,
    'seeds': 2,
    'classes': COLOURS,
    'workdir': tmp_path / 'w',
  } | options
  return kdjax.distill(Net(8) if teacher is None else teacher, student or Net(), train, test, **options)


@pytest.fixture(scope='module')
def result(tmp_path_factory):
  folder = tmp_path_factory.mktemp('distill')
  return run(
    folder, (Net(8), VARIABLES), methods={'fitnet': {'student': '*idden', 'teacher': 'hidden'}, 'kd': {}}
  )


@pytest.mark.whole
def test_the_result(result, monkeypatch):
  stages = result.results['stages']
  assert stages.keys() == {'teacher', 'baseline', 'student'} and len(stages['student']['values']) == 2
  assert result.report.exists() and 'student' in result.table() and repr(result) == result.table()
  monkeypatch.setattr('rich.console._is_jupyter', lambda: True)  # where rich displays all that it prints
  assert 'student' in result.table()
  np.testing.assert_array_equal(
    result.teacher.variables['params']['out']['kernel'], VARIABLES['params']['out']['kernel']
  )
  assert result.experiment.summary('teacher')['steps'] == 0  # it came with weights


def test_the_students_answers(result):
  names = result.student.predict(TEST[0])
  assert len(names) == 24 and set(names) <= set(COLOURS)
  best = result.student.predict(TEST[0], top=2, batch=7)
  assert [answer[0][0] for answer in best] == names and all(len(answer) == 2 for answer in best)
  logits = result.student.outputs({'image': TEST[0]}, batch=5)['logits']
  assert [COLOURS[i] for i in logits.argmax(1)] == names
  expected = Net().apply(result.student.variables, TEST[0] / np.float32(255))
  np.testing.assert_allclose(logits, expected, atol=1e-5)
  accuracy = np.mean([COLOURS[label] == name for label, name in zip(TEST[1], names, strict=True)])
  assert accuracy == pytest.approx(result.results['stages']['student']['values'][0])


class NnxNet(nnx.Module):
  def __init__(self, rngs):
    self.hidden, self.norm = nnx.Linear(3, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
    self.drop, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, x):
    return self.out(self.drop(nnx.relu(self.norm(self.hidden(x.mean((1, 2)))))))


def test_the_module_with_its_weights(result, tmp_path):
  """Of NNX one that is called, split and saved as any other; of Linen it comes beside its variables."""
  images = TEST[0] / np.float32(255)
  net, variables = result.student.module()
  np.testing.assert_allclose(
    net.apply(variables, images), result.student.outputs(TEST[0])['logits'], atol=1e-5
  )
  student = run(tmp_path, (Net(8), VARIABLES), NnxNet, seeds=1).student
  net = student.module()
  logits = student.outputs(TEST[0])['logits']
  np.testing.assert_allclose(net(images), logits, atol=1e-5)
  state = nnx.to_pure_dict(nnx.state(net, nnx.Not(nnx.RngState)))
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'orbax', state)
    checkpointer.wait_until_finished()
    restored = checkpointer.restore(tmp_path / 'orbax')
  fresh = NnxNet(nnx.Rngs(5))
  nnx.update(fresh, restored)
  fresh.eval()
  np.testing.assert_allclose(fresh(images), logits, atol=1e-5)
  teacher = run(tmp_path / 'f', lambda x: {'logits': x.mean((1, 2))}, Net(), seeds=1).teacher
  with pytest.raises(KdjaxError, match='the teacher is a function'):
    teacher.module()


def test_a_student_is_saved_and_loaded(result, tmp_path, monkeypatch):
  folder = result.student.save(tmp_path / 'student')
  monkeypatch.setattr('kdjax.registry.OBJECTS', {})  # as in another program
  with pytest.raises(KdjaxError, match='is a Python object that this process does not have'):
    kdjax.load(folder).predict(TEST[0])
  assert kdjax.load(folder, model=Net()).predict(TEST[0]) == result.student.predict(TEST[0])
  (tmp_path / 'other').mkdir()
  (tmp_path / 'other' / 'file').write_text('mine')
  with pytest.raises(KdjaxError, match='is not empty'):
    result.student.save(tmp_path / 'other')


@pytest.mark.whole
def test_a_saved_student_teaches_the_next(result, tmp_path):
  second = run(tmp_path, result.student, Net(2), seeds=1)
  np.testing.assert_allclose(
    second.teacher.outputs(TEST[0])['logits'], result.student.outputs(TEST[0])['logits'], atol=1e-6
  )


def test_it_goes_on_and_refuses_another_model(result, capsys):
  again = run(
    result.workdir.parent,
    (Net(8), VARIABLES),
    methods={'fitnet': {'student': '*idden', 'teacher': 'hidden'}, 'kd': {}},
  )
  assert 'student: done before' in capsys.readouterr().out
  assert again.results['stages']['student']['values'] == result.results['stages']['student']['values']
  with pytest.raises(KdjaxError, match='belongs to another config .*Net'):
    run(result.workdir.parent, (Net(8), VARIABLES), Net(5))


@pytest.mark.whole
def test_outputs_of_a_teacher_are_those_of_its_model(tmp_path):
  """A teacher, a function of it, a host function and its stored outputs give the same student."""

  def forward(x):
    return Net(8).apply(VARIABLES, x)

  stored = {
    f'{k}/logits': np.asarray(forward(x / np.float32(255)))
    for k, (x, _) in (('train', TRAIN), ('test', TEST))
  }
  shuffled = RNG.permutation(48)
  by_id = {'train/logits': stored['train/logits'][shuffled], 'train/id': shuffled}
  teachers = {
    'model': (Net(8), VARIABLES),
    'function': forward,
    'host': kdjax.host(lambda x: np.asarray(forward(x))),
  }
  teachers |= {'outputs': stored, 'id': by_id}
  results = {k: run(tmp_path / k, t, seeds=1) for k, t in teachers.items()}
  first = results['model'].student.variables['params']['out']['kernel']
  for kind, result in results.items():
    kernel = result.student.variables['params']['out']['kernel']
    np.testing.assert_allclose(kernel, first, atol=1e-5, err_msg=kind)
    assert result.experiment.summary('teacher')['steps'] == 0
    scores = {k: s['values'] for k, s in result.results['stages'].items()}
    assert ('teacher' in scores) == (kind != 'id')  # no outputs of the test examples
    if kind != 'id':
      assert scores['teacher'] == results['model'].results['stages']['teacher']['values']
  assert results['outputs'].results['stages']['teacher']['params'] is None  # nobody knows


@pytest.mark.whole
def test_outputs_in_files_and_in_a_store(tmp_path):
  logits = np.asarray(Net(8).apply(VARIABLES, TRAIN[0] / np.float32(255)))
  ids = np.arange(48)
  np.save(tmp_path / 'a.npy', logits)
  np.savez(tmp_path / 'a.npz', logits=logits[::-1], id=ids[::-1])
  save_file({'train/logits': logits, 'train/id': ids}, tmp_path / 'a.safetensors')
  pq.write_table(pa.table({'logits': logits.tolist(), 'id': ids}), tmp_path / 'a.parquet')
  for name in ('a.npy', 'a.npz', 'a.safetensors', 'a.parquet'):
    read = precomputed.load(str(tmp_path / name), tmp_path).of('train', InMemorySplit({'id': ids}), {})
    np.testing.assert_array_equal(read['logits'], logits, err_msg=name)
    assert read['logits'].shape == (48, 3)
  kept = run(
    tmp_path / 'live',
    (Net(8), VARIABLES),
    seeds=1,
    config={'teacher': {'source': 'store'}, 'store': {'dtype': 'float32'}},
  )
  second = run(tmp_path / 'stored', kept.workdir / 'store', seeds=1)
  kernels = [r.student.variables['params']['out']['kernel'] for r in (kept, second)]
  np.testing.assert_allclose(*kernels, atol=1e-6)
  for path, match in (('none', 'no finished teacher store'), ('a.txt', 'it takes a .npy')):
    (tmp_path / 'none').mkdir(exist_ok=True)
    with pytest.raises(KdjaxError, match=match):
      precomputed.read(tmp_path / path)


BAD = {
  'a number': (dict(teacher=7), 'the teacher is a int; it has to be a Linen module'),
  'no file': (dict(teacher='no/such/model'), 'cannot read the model no/such/model'),
  'a class': (dict(teacher=Net), 'Net is a class: give an instance'),
  'too few rows': (dict(teacher=np.zeros((47, 3))), "47 rows, and the split 'train' has 48 examples"),
  'NaN': (dict(teacher=np.full((48, 3), np.nan, np.float32)), 'it takes finite numbers'),
  'ids that are missing': (
    dict(teacher={'logits': np.zeros((2, 3)), 'id': np.arange(2)}),
    'lack the example 2',
  ),
  'other classes': (dict(teacher=np.zeros((48, 4), np.float32)), "has 4 values in 'logits', and the data"),
  'a function of other classes': (dict(teacher=lambda x: x.mean((1, 2))[:, :2]), "has 2 values in 'logits'"),
  'a function outside JAX': (
    dict(teacher=lambda x: np.asarray(x).mean((1, 2))),
    'TracerArrayConversionError.* give kdjax.host',
  ),
  'a host function that fails': (
    dict(teacher=kdjax.host(lambda x: 1 / 0)),
    'function raises ZeroDivisionError',
  ),
  'a host function of other rows': (
    dict(teacher=kdjax.host(lambda x: x[:1].mean((1, 2)))),
    r'\[1, 3\] for 48',
  ),
  'weights of another width': (dict(teacher=(Net(9), VARIABLES)), '4 of another shape|of another shape'),
  'weights of nothing': (dict(teacher=(Net(8), {})), 'not of this architecture: 4 missing'),
  'a missing checkpoint': (dict(teacher=(Net(8), 'no/such.npz')), 'there is no checkpoint'),
  'an unknown name': (dict(teacher={'model': 'resnett'}), "unknown model: 'resnett'; did you mean 'resnet'"),
  'a student that is a function': (dict(student=lambda x: x), 'has no weights to train'),
  'a student that is a number': (dict(student=3), 'the student is a int'),
  'a student of other classes': (dict(student=Net(outputs=4)), "has 4 values in 'logits', and the data"),
  'a student that cannot read it': (dict(student=nn.Embed(3, 3)), 'Embed cannot be called with the data'),
  'no data': (dict(train=None), 'distill needs train'),
  'no such file': (dict(train='no/such/folder', test=None), 'no/such/folder'),
  'other lengths': (dict(train=(TRAIN[0], TRAIN[1][:5])), 'different lengths'),
  'a tap that is not there': (
    dict(methods={'fitnet': {'student': 'hiden'}}),
    "'hiden'; did you mean 'hidden'",
  ),
  'a pattern of nothing': (
    dict(methods={'fitnet': {'student': '**/attention'}}),
    r'unknown tap of the student',
  ),
  'a method that is not there': (dict(methods={'kdd': {}}), "unknown method: 'kdd'; did you mean 'kd'"),
  'a temperature of nothing': (dict(methods={'kd': {'temperature': 0}}), 'methods.kd.temperature is 0'),
  'no labels': (dict(labels=0.0), 'data.labels is 0'),
  'no steps': (dict(steps=0), 'steps is 0'),
  'outputs and a generator': (
    dict(teacher=np.zeros((48, 3)), config={'on_policy': {'share': 0.5}}),
    'on_policy.share makes examples of its own',
  ),
  'outputs and a model': (
    dict(teacher=np.zeros((48, 3)), config={'teacher': {'model': {'model': 'mlp'}}}),
    'teacher.outputs takes the place of a model',
  ),
  'an unknown key': (dict(config={'runn': {}}), "unknown key of the recipe: 'runn'"),
  'an unknown task': (dict(task='clasification'), "unknown task: 'clasification'"),
}


@pytest.mark.parametrize('what', BAD)
def test_what_cannot_be_is_one_line(tmp_path, what):
  options, match = BAD[what]
  with pytest.raises(KdjaxError, match=match) as e:
    run(tmp_path, **options)
  assert '\n' not in str(e.value)
  assert not (tmp_path / 'w' / 'config.json').exists()  # nothing is claimed before it is known to work


def test_a_torch_module_is_said(tmp_path):
  module = type('Linear', (), {'__module__': 'torch.nn.modules.linear'})()
  with pytest.raises(
    KdjaxError, match='Linear is a torch module, which JAX cannot run: give the file of its'
  ):
    run(tmp_path, module)


def test_checkpoints_of_every_kind(tmp_path):
  flat = {f'{m}.{k}': np.asarray(x) for m, p in VARIABLES['params'].items() for k, x in p.items()}
  np.savez(tmp_path / 'a.npz', **flat)
  save_file(flat, tmp_path / 'a.safetensors')
  (tmp_path / 'a.msgpack').write_bytes(serialization.to_bytes(VARIABLES))
  state = {'params': VARIABLES['params'], 'opt_state': {'mu': np.zeros(3)}, 'step': np.array(7)}
  (tmp_path / 'state.msgpack').write_bytes(serialization.to_bytes(state))
  ocp.PyTreeCheckpointer().save(tmp_path / 'orbax', state)
  with ocp.CheckpointManager(tmp_path / 'steps') as manager:
    for step in (1, 20, 3):
      manager.save(step, args=ocp.args.StandardSave(state), force=True)
  for name in ('a.npz', 'a.safetensors', 'a.msgpack', 'state.msgpack', 'orbax', 'steps'):
    read = checkpoints.read(tmp_path / name)
    assert read.keys() == {'params'}, name
    jax.tree.map(np.testing.assert_array_equal, read, dict(VARIABLES))
  torch_names = {'net.0.weight': np.ones((8, 3)), 'net.0.bias': np.ones(8)}
  save_file(torch_names, tmp_path / 'torch.safetensors')
  keys = {r'net/0/weight': 'params/hidden/kernel', r'net/(\d)/bias': r'params/hidden/bias'}
  read = kdjax.weights(tmp_path / 'torch.safetensors', keys)
  assert read['params']['hidden']['kernel'].shape == (3, 8)
  for path, keys, match in (
    ('torch.safetensors', {'nett/.*': 'x'}, "no tensor of .* is called 'nett/"),
    ('torch.safetensors', {'net/0/.*': 'x'}, 'both become'),
    ('torch.safetensors', {'(': 'x'}, 'no pattern'),
    ('nothing.npz', {}, 'there is no checkpoint'),
    ('empty', {}, 'no checkpoint of Orbax'),
    ('bad.msgpack', {}, 'cannot read the checkpoint'),
  ):
    (tmp_path / 'empty').mkdir(exist_ok=True)
    (tmp_path / 'bad.msgpack').write_bytes(b'\xc1\x00')
    with pytest.raises(KdjaxError, match=match):
      kdjax.weights(tmp_path / path, keys)


def test_an_identity_is_of_what_a_model_computes():
  def scaled(by):
    return lambda x: x * by

  class Layer(nnx.Module):
    def __init__(self, width, *, rngs):
      self.layer = nnx.Linear(3, width, rngs=rngs)

  import functools

  same = [Net(4), Net(4)], [scaled(2), scaled(2)], [functools.partial(Layer, 4)] * 2
  same += ([Layer(4, rngs=nnx.Rngs(0)), Layer(4, rngs=nnx.Rngs(1))],)
  for a, b in same:
    assert identity(a) == identity(b)
  different = [Net(4), Net(5), scaled(2), scaled(3), functools.partial(Layer, 4), functools.partial(Layer, 5)]
  different += [Layer(4, rngs=nnx.Rngs(0)), Layer(5, rngs=nnx.Rngs(0)), lambda x: x, lambda x: x + 1]
  assert len({identity(x) for x in different}) == len(different)


def test_a_method_is_a_loss_of_logits():
  s, t, labels = jnp.asarray(RNG.normal(size=(4, 5))), jnp.asarray(RNG.normal(size=(4, 5))), jnp.arange(4)
  kd = kdjax.methods.kd(temperature=2.0)
  p, q = (jax.nn.log_softmax(x / 2) for x in (t, s))
  np.testing.assert_allclose(kd(s, t), 4 * (jnp.exp(p) * (p - q)).sum(-1).mean(), rtol=1e-5)
  assert kd({'logits': s}, {'logits': t}) == kd(s, t)
  halves = [kd(s, t, {'mask': jnp.array(m)}) for m in ([1.0, 1, 0, 0], [0.0, 0, 1, 1])]
  np.testing.assert_allclose(sum(halves) / 2, kd(s, t), rtol=1e-5)
  assert jnp.isfinite(kdjax.methods.dkd()(s, t, {'label': labels}))
  assert not jax.grad(lambda t: kd(s, t))(t).any()
  assert 'kd' in dir(kdjax.methods) and {'distill', 'load', 'methods'} <= set(dir(kdjax))
  with pytest.raises(AttributeError, match='no attribute'):
    _ = kdjax.methods.kdd
  with pytest.raises(AttributeError, match='no attribute'):
    _ = kdjax.distil
