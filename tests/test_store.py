"""The teacher store: what is read is what was said, and nothing else is ever trained on."""

import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from filelock import FileLock
from safetensors.numpy import load_file, save_file

from kdjax import teacher_store
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages, validate
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.workdir import claim_workdir
from kdjax.pretrained import safetensors_io
from kdjax.runtime.files import write_json
from kdjax.teacher_store import live_teacher, manifest, read, record
from kdjax.teacher_store import write as store_write

METHODS = {
  'kd': {'weight': 1.0, 'temperature': 2.0},
  'rkd': {'weight': 1.0, 'student': 'image/embed', 'teacher': 'image/embed'},
}


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
  return tmp_path_factory.mktemp('kept')


@pytest.fixture
def begun(config, experiment, tmp_path, kept):
  """`begun(folder)`: the made config in a folder that has a teacher already, if not a trained one."""
  config.seeds, config.methods = 1, METHODS
  config.student.train.steps = 4
  config.run.update(eval_every=100, save_every=100)
  config.store.shard = 20
  init = kept / 'init.safetensors'
  if not init.exists():
    first = Experiment(config.to_dict(), kept / 'first')
    batch = first.data.train.take(np.arange(1))
    safetensors_io.export(init, jax.jit(first.model('teacher').init)(jax.random.key(0), batch))
  config.teacher.init = str(init)
  if not (kept / 'teacher').exists():
    stages.run(Experiment(config.to_dict(), kept), ('teacher',))

  def make(folder='w'):
    target = tmp_path / folder
    shutil.copytree(kept / 'teacher', target / 'teacher', dirs_exist_ok=True)
    shutil.copy(kept / 'tokenizer.json', target)
    return experiment(folder)

  return make


@pytest.fixture
def built(begun, kept):
  """`begun`, with the store of the config in its default form built once for all tests."""

  def make(folder='w'):
    exp = begun(folder)
    if not (kept / 'store').exists():
      stages.store_command(exp, 'build')
      shutil.copytree(teacher_store.folder(exp), kept / 'store')
    shutil.copytree(kept / 'store', teacher_store.folder(exp), dirs_exist_ok=True)
    return exp

  return make


def spec_of(result):
  return manifest.spec(result, stages.setup(result, 'student'))


def files(folder):
  return {f.name: f.read_bytes() for f in sorted(folder.glob('0*'))}


def weights(result):
  return load_file(result.folder('student') / 'seed_0.safetensors')


def said(error):
  text = str(error.value)
  assert '\n' not in text and len(text) < 600
  return text


@pytest.mark.parametrize(('dtype', 'eps'), [('float32', 0), ('float16', 2**-11), ('bfloat16', 2**-8)])
def test_taps_come_back(dtype, eps):
  rng = np.random.default_rng(0)
  t = {
    'logits': rng.normal(0, 5, (6, 11)),
    'image/stage1': rng.normal(0, 1, (6, 3, 3, 2)),
    'text/logits': rng.normal(0, 3, (6, 4, 3)),
    'scale': np.array(14.3),
    'audio/embed': rng.normal(0, 1, (6, 5)).astype(jnp.bfloat16),
  }
  t = {k: jnp.asarray(v, jnp.bfloat16 if v.dtype == jnp.bfloat16 else jnp.float32) for k, v in t.items()}
  t |= {'text/mask': jnp.arange(24).reshape(6, 4) % 3 > 0, 'text/tokens': jnp.arange(24).reshape(6, 4)}
  taps = record.plan(t, 6, dtype, 0)
  arrays, checks = record.encode(taps, t)
  records = record.pack(taps, np.arange(6), 1, jax.device_get(arrays))
  again = np.frombuffer(records.tobytes(), record.record(taps))
  result = record.decode(taps, record.unpack(again))
  assert result.keys() == t.keys() and all(fits for fits, _ in checks.values())
  for name, x in t.items():
    assert result[name].shape == x.shape
    if name in ('text/mask', 'text/tokens'):
      assert result[name].dtype == x.dtype
    assert result[name].dtype == (jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else x.dtype)
    np.testing.assert_allclose(np.float64(result[name]), np.float64(x), rtol=eps, atol=eps * 1e-3)


@pytest.mark.parametrize(('dtype', 'eps'), [('float32', 1e-5), ('float16', 5e-3), ('bfloat16', 4e-2)])
def test_top_k_keeps_the_probabilities_and_the_tail(dtype, eps):
  rng = np.random.default_rng(1)
  x = rng.normal(0, 3, (5, 2, 1000)).astype(np.float32) + 40  # the level is kept too
  t = {'text/logits': jnp.asarray(x)}
  taps = record.plan(t, 5, dtype, 16)
  arrays, _ = record.encode(taps, t)
  batch = record.unpack(record.pack(taps, np.arange(5), 0, jax.device_get(arrays)))
  dense = np.float64(record.decode(taps, batch)['text/logits'])
  p, q = (np.exp(y - y.max(-1, keepdims=True)) for y in (np.float64(x), dense))
  p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
  top = np.argsort(-p, -1)[..., :16]
  np.testing.assert_allclose(np.take_along_axis(q, top, -1), np.take_along_axis(p, top, -1), rtol=eps)
  np.put_along_axis(p, top, 0, -1)
  np.put_along_axis(q, top, 0, -1)
  np.testing.assert_allclose(q.sum(-1), p.sum(-1), rtol=eps)
  remaining = np.sort(q, -1)[..., 16:]
  assert (np.ptp(remaining, axis=-1) < 1e-9).all()  # an even spread
  np.testing.assert_allclose(dense.max(-1), x.max(-1), rtol=1e-3)


def test_a_record_of_imagenet_is_small():
  shapes = {'logits': (8, 1000), 'embed': (8, 512)}
  shapes = {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()}
  assert record.record(record.plan(shapes, 8, 'float16', 16)).itemsize + store_write.OVERHEAD <= 1200
  assert record.plan(shapes, 8, 'float16', 1000)[1].k == 0


@pytest.mark.whole
@pytest.mark.optimised
def test_a_student_of_a_full_store_is_the_live_teachers_to_the_bit(begun, config):
  config.student.train.augment = ('flip', 'crop')
  config.student.train.steps = 6  # into the second epoch
  live = begun('live')
  stages.run(live, ('student',))
  config.teacher.source = 'store'
  config.store.update(dtype='float32', views=2)
  stored = begun('stored')
  stages.store_command(stored, 'build')
  stages.run(stored, ('student',))
  one, two = weights(live), weights(stored)
  assert one.keys() == two.keys() and all(np.array_equal(one[k], two[k]) for k in one)
  assert not (live.folder('student') / 'teacher_outputs.json').exists()
  errors = teacher_store.verify(stored, stages.setup(stored, 'student'), 64)
  assert errors == {'image/embed': 0.0, 'logits': 0.0}
  # The third epoch shows the first one's views, to the teacher and to the student.
  setup, reader = stages.setup(stored, 'student'), teacher_store.open_reader(spec_of(stored))
  batch = setup.source.take(np.arange(16))
  joined = reader.join(batch | {'epoch': np.arange(16, dtype=np.int32)})
  assert joined['epoch'].tolist() == [0, 1] * 8
  t = record.decode(reader.taps, joined)
  ask = live_teacher.make(setup, reader.taps, batch | {'epoch': np.zeros(16, np.int32)})
  for view in (0, 1):
    mine = ask.teacher_forward(batch, view)
    np.testing.assert_array_equal(t['logits'][view::2], mine['logits'][view::2])
  assert not np.array_equal(ask.teacher_forward(batch, 0)['logits'], ask.teacher_forward(batch, 1)['logits'])


def test_a_baseline_sees_the_views_of_a_stored_teachers_student(begun, config):
  config.student.train.augment, config.store.views = ('flip', 'crop'), 2
  config.teacher.source = 'store'
  claim_workdir(exp := begun())
  batch = exp.data.train.take(np.arange(8))
  baseline, live = (stages.setup(exp, 'baseline').augment, build.make_augment(config.student.train, 0))
  epochs = [np.full(8, e, np.int32) for e in range(3)]
  a, b, again = (baseline(batch | {'epoch': e})['image'] for e in epochs)
  np.testing.assert_array_equal(a, again)
  np.testing.assert_array_equal(b, live(batch | {'epoch': epochs[1]})['image'])
  assert (a != b).any()
  config.store.views = 1
  with pytest.raises(KdjaxError, match='store.views'):  # the views of the baseline are part of the workdir
    validate.check(Experiment(config.to_dict(), exp.workdir))
  config.store.views, config.teacher.source = 2, 'auto'
  with pytest.raises(KdjaxError, match="teacher.source is 'auto' and student.train.augment is not empty"):
    validate.check(Experiment(config.to_dict(), exp.workdir / 'other'))


@pytest.mark.whole
def test_a_build_that_was_killed_goes_on(built, begun, monkeypatch, capsys):
  whole = files(teacher_store.folder(built('whole')))
  assert len(whole) == 6
  exp, wrote = begun(), write_json

  def killed(path, value, **how):
    if path.name == '00001.json':
      raise KeyboardInterrupt
    wrote(path, value, **how)

  with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
    patched.setattr('kdjax.runtime.files.write_json', killed)
    stages.store_command(exp, 'build')
  with pytest.raises(KdjaxError, match='is not finished: run `kdjax store build`'):
    teacher_store.open_reader(spec_of(exp))
  first = (teacher_store.folder(exp) / '00000.array_record').stat().st_mtime_ns
  (teacher_store.folder(exp) / '.00002.array_record.7').write_text('half')
  stages.store_command(exp, 'info')
  assert '1 of 3 shards, not finished' in capsys.readouterr().out
  stages.store_command(exp, 'build')
  assert 'going on, 1 of 3 shards are whole' in capsys.readouterr().out
  assert files(teacher_store.folder(exp)) == whole
  assert (teacher_store.folder(exp) / '00000.array_record').stat().st_mtime_ns == first
  assert not list(teacher_store.folder(exp).glob('.0*'))
  stages.store_command(exp, 'build')
  assert 'done before' in capsys.readouterr().out


def test_a_byte_that_flips_is_never_trained_on(built, monkeypatch):
  exp = built()
  spec, path = spec_of(exp), teacher_store.folder(exp) / '00001.array_record'
  good = path.read_bytes()
  reader = teacher_store.open_reader(spec)
  ids, views = reader.ids, np.zeros(len(reader.ids), np.int64)
  true = reader.take(ids, views)
  path.write_bytes(good[:70_000] + bytes([good[70_000] ^ 1]) + good[70_001:])
  with pytest.raises(KdjaxError, match='00001.array_record is damaged: run `kdjax store build`'):
    teacher_store.open_reader(spec)
  monkeypatch.setattr(read, 'HELD', 0)  # as with a store too large to be held in memory
  caught = []
  for name in ('00001.array_record', '00001.json', 'manifest.json'):
    file = path.with_name(name)
    whole = good if file == path else file.read_bytes()
    places = np.random.default_rng(0).permutation(np.flatnonzero(list(whole)))[:60].tolist()
    for at in places + [0, len(whole) - 1]:
      file.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
      try:
        result = teacher_store.open_reader(spec).take(ids, views)
      except KdjaxError as e:
        assert '\n' not in str(e)
        caught.append(name)
      else:  # a byte of the padding, or of what nobody reads
        assert all(np.array_equal(result[k], true[k]) for k in true)
    file.write_bytes(whole)
  assert len(set(caught)) == 3
  path.write_bytes(good[:70_000] + bytes([good[70_000] ^ 1]) + good[70_001:])
  with pytest.raises(KdjaxError, match='damaged'):
    teacher_store.verify(exp, stages.setup(exp, 'student'))
  stages.store_command(exp, 'build')  # writes that shard again
  assert path.read_bytes() == good


def test_a_store_that_is_cut_off_is_refused(built):
  exp = built()
  spec, folder = spec_of(exp), teacher_store.folder(exp)
  with pytest.raises(KdjaxError, match='nothing of the example with the id 4321'):
    teacher_store.open_reader(spec).take(np.array([4321]), np.array([0]))
  path = folder / '00002.array_record'
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(KdjaxError, match='00002.array_record is cut off'):
    teacher_store.open_reader(spec)
  path.unlink()
  with pytest.raises(KdjaxError, match='00002.array_record is missing'):
    teacher_store.open_reader(spec)
  (folder / 'manifest.json').write_text('{')
  with pytest.raises(KdjaxError, match='manifest'):
    teacher_store.open_reader(spec)


@pytest.mark.parametrize(
  ('change', 'named'),
  [
    ({'teacher': {'dtype': 'bfloat16'}}, "teacher.dtype: 'float32' there, 'bfloat16' here"),
    ({'student': {'train': {'augment': ('flip',)}}}, "student.train.augment: [] there, ['flip'] here"),
    ({'data': {'limit': {'train': 48}}}, 'data.examples: 54 there, 48 here'),
    ({'data': {'text_length': 6}}, 'data.text_length: 8 there, 6 here'),
    ({'store': {'dtype': 'float32'}}, "store.dtype: 'float16' there, 'float32' here"),
    ({'store': {'top_k': 2}}, 'store.top_k: 0 there, 2 here'),
    ({'methods': {'fitnet': {'student': 'text/embed', 'teacher': 'text/embed'}}}, 'text/embed here'),
    (None, 'teacher.weights:'),
  ],
)
def test_another_store_is_refused_by_name(built, config, tmp_path, change, named):
  built()
  with config.unlocked():
    config.update(change or {})
  exp = built()
  if not change:
    path = exp.folder('teacher') / 'seed_0.safetensors'
    tensors = load_file(path)
    first = sorted(tensors)[0]
    save_file(tensors | {first: tensors[first] + 1e-6}, path)
  spec = spec_of(exp)
  with pytest.raises(KdjaxError) as error:
    teacher_store.open_reader(spec)
  assert named in said(error)
  with pytest.raises(KdjaxError, match='holds another store .*there'):
    stages.store_command(exp, 'build')


@pytest.mark.whole
def test_auto_takes_what_is_there_and_stays_with_it(built, begun, config, capsys):
  def hears(result, source='auto'):
    capsys.readouterr()
    setup = teacher_store.use_store(
      result, stages.setup(result, 'student'), {source}, result.folder('student')
    )
    return setup.reader is not None, ' '.join(capsys.readouterr().out.split())

  fallen = begun('live')
  teacher_used, message = hears(fallen)
  assert not teacher_used and 'uses the live teacher (there is no store' in message
  stages.store_command(fallen, 'build')
  assert not hears(fallen)[0]  # a training that was begun with the live teacher
  exp = built('stored')
  teacher_used, message = hears(exp)
  assert teacher_used and 'uses the store' in message
  shutil.rmtree(teacher_store.folder(exp))
  with pytest.raises(KdjaxError, match='there is no store'):
    hears(exp)
  config.store.dtype = 'float32'
  again = begun('stored')
  stages.store_command(again, 'build')
  for source in ('auto', 'store'):
    with pytest.raises(KdjaxError, match="begun with another store .*'float16' there, 'float32' here"):
      hears(again, source)


def test_a_cohort_shares_a_store_and_hears_one_teacher(built, config):
  with config.unlocked():
    config.cohort = {'kd': {'methods': {'kd': METHODS['kd']}}, 'rkd': {'methods': {'rkd': METHODS['rkd']}}}
  exp = built()
  setup = teacher_store.use_store(exp, stages.setup(exp, 'student'), {'store', 'ema'}, exp.workdir)
  assert setup.wanted == {'logits', 'image/embed'} and setup.teacher_variables == {}
  with pytest.raises(KdjaxError, match="'live' or 'store', not both"):
    teacher_store.use_store(exp, setup, {'store', 'live'}, exp.workdir)


def test_two_builders_and_a_full_disk(begun, built, monkeypatch):
  exp = begun()
  teacher_store.folder(exp).mkdir()
  with FileLock(teacher_store.folder(exp) / '.lock'), pytest.raises(KdjaxError) as error:
    stages.store_command(exp, 'build')
  assert 'another builder' in said(error)

  class Full(store_write.ArrayRecordWriter):
    def write(self, record):
      if '00001' in self.path:
        raise OSError(errno.ENOSPC, 'No space left on device')
      super().write(record)

    def __init__(self, path, options):
      self.path = path
      super().__init__(path, options)

  with monkeypatch.context() as patched, pytest.raises(KdjaxError) as error:
    patched.setattr(store_write, 'ArrayRecordWriter', Full)
    stages.store_command(exp, 'build')
  assert 'the disk is full' in said(error) and '1 shards that are whole are kept' in said(error)
  stages.store_command(exp, 'build')
  assert files(teacher_store.folder(exp)) == files(teacher_store.folder(built('other')))


def test_a_mistake_is_one_line(begun, config, experiment):
  with pytest.raises(KdjaxError, match='no finished teacher'):
    stages.store_command(experiment('empty'), 'build')
  with pytest.raises(KdjaxError, match='there is no store in .*store build'):
    stages.store_command(begun(), 'info')
  for key, value, match in (
    ('views', 3, 'store.views is 3, and student.train.augment is empty'),
    ('taps', ('logitz',), "unknown tap of the teacher in store.taps: 'logitz'"),
    ('dtype', 'float8', "unknown store.dtype: 'float8'"),
    ('shard', 0, 'store.shard is 0'),
  ):
    before = config.store[key]
    config.store[key] = value
    with pytest.raises(KdjaxError, match=match):
      stages.store_command(begun(), 'build')
    config.store[key] = before
  config.teacher.source = 'previous_epoch'
  with pytest.raises(KdjaxError, match='nothing to store'):
    stages.store_command(begun('past'), 'build')


@pytest.mark.parametrize(('value', 'match'), [(1e5, 'beyond float16'), (np.nan, 'not finite')])
def test_values_that_do_not_fit_are_not_stored(begun, value, match):
  exp = begun()
  path = exp.folder('teacher') / 'seed_0.safetensors'
  tensors = load_file(path)
  save_file({k: np.full_like(v, value) if v.ndim == 1 else v for k, v in tensors.items()}, path)
  with pytest.raises(KdjaxError, match=match):
    stages.store_command(exp, 'build')
  assert not files(teacher_store.folder(exp))


def test_eight_devices_store_the_same(eight_devices, begun, kept, config):
  exp = begun()
  stages.store_command(exp, 'build')
  reader = teacher_store.open_reader(spec_of(exp))
  batch = stages.setup(exp, 'student').source.take(np.arange(16))
  assert reader.join(batch | {'epoch': np.full(16, 7, np.int32)})['epoch'].tolist() == [0] * 16
  errors = teacher_store.verify(exp, stages.setup(exp, 'student'), 16)
  assert max(errors.values()) < 5e-3
  assert json.loads((teacher_store.folder(exp) / 'manifest.json').read_text())['complete']
