"""A damaged file is healed, stepped over, or one line that names it: no other number, and no traceback."""

import itertools
import json
import os
import shutil
import stat
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.experiment import predict, stages
from kdjax.experiment.experiment import Experiment
from kdjax.input import decoded_cache, tokenizer
from kdjax.pretrained import safetensors_io
from kdjax.recipes import model
from kdjax.runtime import files
from kdjax.training import checkpoint, metrics_log

MADE_ANEW = ('report.html', 'report.md', 'results.json', 'ranking.html', 'ranking.md', 'ranking.json')
BESIDE = {'batches': {'next': 1}, 'wall_time_s': 1.5, 'failed': {}}


def flipped(content, share):
  at = min(int(share * len(content)), len(content) - 1)
  return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]


DAMAGES = {f'flip at {share}': lambda c, s=share: flipped(c, s) for share in (0.0, 0.2, 0.5, 0.8, 0.999)}
DAMAGES |= {
  'cut': lambda c: c[: len(c) // 2],
  'empty': lambda c: b'',
  'list': lambda c: b'[]',
  'dict': lambda c: b'{}',
  'deep': lambda c: b'[' * 100_000,
  'failed_at': lambda c: b'{"failed_at": 3}',
  'not text': lambda c: b'\xff\xfe\x00',
}

# Not in white space, nor in the key of the checksum itself, where nothing is lost.
CERTAIN = ('flip at 0.2', 'cut', 'empty', 'list', 'dict', 'deep', 'failed_at', 'not text')


def damaged(path, names=tuple(DAMAGES)):
  """Goes through the damages of a file, and puts it right in the end."""
  content = path.read_bytes()
  for name in names:
    if content and DAMAGES[name](content) != content:
      path.write_bytes(DAMAGES[name](content))
      yield name
  path.write_bytes(content)


def outcome(call, whole, where, fits=lambda a, b: a == b):
  """'same' or 'line'."""
  try:
    inputs = call()
  except KdjaxError as e:
    assert '\n' not in str(e) and len(str(e)) > 20, where
    return 'line'
  assert fits(inputs, whole), f'{where}: {inputs} for {whole}'
  return 'same'


@pytest.fixture(scope='module')
def trees():
  rng = np.random.default_rng(0)
  return [
    {
      'state': {'w': jnp.asarray(rng.normal(size=(40, 30)), jnp.float32), 'step': jnp.asarray(step)},
      'half': jnp.asarray(rng.normal(size=7), jnp.bfloat16),
    }
    for step in (1, 2)
  ]


def equal(a, b):
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((np.asarray(x) == np.asarray(y)).all()), a, b)))


def test_a_damaged_checkpoint_is_stepped_over(trees, tmp_path, capsys):
  keeper = checkpoint.Checkpoints(tmp_path / 'c')
  for step, tree in enumerate(trees, 1):
    keeper.save(step, tree, BESIDE)
    keeper.wait()
  keeper.close()
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees[0])
  counts, seen = Counter(), 0
  shutil.copytree(tmp_path / 'c', tmp_path / 'good')
  some = [f for f in sorted((tmp_path / 'c' / '2').rglob('*')) if f.is_file()]
  for file, damage in itertools.product(some, ('flip at 0.2', 'flip at 0.5', 'flip at 0.8', 'cut', 'dict')):
    content = file.read_bytes()
    if DAMAGES[damage](content) == content:
      continue
    file.write_bytes(DAMAGES[damage](content))
    keeper = checkpoint.Checkpoints(tmp_path / 'c')
    loaded = keeper.restore(like)
    keeper.close()
    assert equal(loaded.tree, trees[loaded.step - 1]) and loaded.data == BESIDE, (file, damage)
    counts[loaded.step] += 1
    seen += 'cannot be read' in capsys.readouterr().out
    if loaded.step == 1:  # the damaged one was deleted
      shutil.copytree(tmp_path / 'good' / '2', tmp_path / 'c' / '2', dirs_exist_ok=True)
    file.write_bytes(content)
  assert counts[1] > 20 and seen == counts[1]


def test_a_checkpoint_of_before_is_read(trees, tmp_path, monkeypatch):
  keeper = checkpoint.Checkpoints(tmp_path)
  with monkeypatch.context() as patched:
    patched.setattr(files, 'sealed', lambda value: value['data'])
    keeper.save(1, trees[0], BESIDE)
    keeper.wait()
  like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), trees[0])
  assert equal(keeper.restore(like).tree, trees[0])
  keeper.close()


def test_no_byte_of_an_exported_model_may_flip(tmp_path):
  path, tree = tmp_path / 'w.safetensors', {'params': {'a': np.arange(6.0), 'b': np.ones((2, 3), np.float32)}}
  safetensors_io.export(path, tree, 'words')
  safetensors_io.export(tmp_path / 'again.safetensors', tree, 'words')
  content = path.read_bytes()
  assert (tmp_path / 'again.safetensors').read_bytes() == content
  whole, counts = safetensors_io.read(path), Counter()

  def same(inputs, whole):
    return all(np.array_equal(inputs[0][k], v) for k, v in whole[0].items())

  for at in range(len(content)):
    for bit in (1, 32):
      path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
      counts[outcome(lambda: safetensors_io.read(path), whole, f'byte {at}', same)] += 1
  assert counts['line'] > 0.9 * counts.total()  # else white space, or a name of the header


def test_a_damaged_line_of_the_log_is_left_out(tmp_path, capsys):
  result = metrics_log.Log(tmp_path, 0)
  for step in (1, 2, 3):
    result.write(step, {'loss/kd': [0.5, float('nan')]})
  path, text = tmp_path / 'metrics.jsonl', (tmp_path / 'metrics.jsonl').read_text()
  assert [json.loads(line)['step'] for line in text.splitlines()] == [1, 2, 3]
  several = (
    text.replace('2, "loss', '7, "loss'),
    text.replace('{"step": 2', '[]'),
    text.replace('2', '\udcff'),
  )
  for bad in several:
    path.write_bytes(bad.encode(errors='surrogateescape'))
    assert 2 not in [r['step'] for r in metrics_log.read_log(path)] and len(metrics_log.read_log(path)) in (
      1,
      2,
    )
    assert 'damaged line' in capsys.readouterr().out
  path.write_text(text[:-20])  # a crash cut it off
  assert len(metrics_log.read_log(path)) == 2 and not capsys.readouterr().out


def test_a_cache_heals_itself(tmp_path, capsys):
  arrays = {'image': np.arange(2400, dtype=np.uint8).reshape(100, 24), 'label': np.arange(100)}
  folder = tmp_path / 'cache' / 'decoded' / 'x' / 'train'
  decoded_cache.save(folder, arrays, {'text': 3})
  for file in sorted(folder.iterdir()):
    for name in DAMAGES:
      content = (folder / file.name).read_bytes()
      (folder / file.name).write_bytes(DAMAGES[name](content))
      result = decoded_cache.load(folder)
      if result:  # white space of the JSON
        assert all(np.array_equal(result[0][k], v) for k, v in arrays.items()), (file, name)
        (folder / file.name).write_bytes(content)
        continue
      assert 'read again' in capsys.readouterr().out and not folder.exists()
      decoded_cache.save(folder, arrays, {'text': 3})
      assert decoded_cache.load(folder)[1] == {'text': 3}


@pytest.mark.parametrize(
  ('content', 'why'),
  [
    (b'', 'it is empty'),
    (b'{"a": 1', 'Expecting'),
    (b'[]', 'it is a list of 0, and not a dict'),
    (b'[' * 100_000, 'nested too deeply'),
    (b'{}', "it has no 'a'"),
    (b'{"a": true}', "'a' is True, and not int"),
    (b'{"a": 1, "b": [1, "x"]}', "an item of 'b' is 'x', and not int"),
    (b'{"a": 1, "c": {"k": {}}}', "'k' is a dict of 0, and not str or float"),
    (b'\x80abc', "can't decode"),
  ],
)
def test_a_json_file_is_what_the_schema_says(tmp_path, content, why):
  path = tmp_path / 'x.json'
  path.write_bytes(content)
  with pytest.raises(KdjaxError, match='cannot read .*x.json') as caught:
    files.read_json(path, {'a': int, 'b?': [int], 'c?': {str: (str, float)}}, 'do this')
  assert why in str(caught.value) and str(caught.value).endswith('): do this.')


def test_no_json_is_read_from_what_is_no_file(tmp_path):
  os.mkfifo(tmp_path / 'fifo')
  assert stat.S_ISFIFO((tmp_path / 'fifo').stat().st_mode)
  for path in (tmp_path / 'fifo', tmp_path, tmp_path / 'none'):
    with pytest.raises(KdjaxError, match='is a pipe|is a folder|No such file'):
      files.read_json(path, dict, 'x')


@pytest.fixture
def small(config):
  """Texts alone, a step or two."""
  with config.unlocked():
    for stage in ('teacher', 'student'):
      config[stage].model = model('bag_of_words', width=4)
      config[stage].train.steps = 2
      config[stage].inputs = {'text': 'text'}
  config.run.update(eval_every=2, save_every=1)
  return config


@pytest.fixture
def finished(small, tmp_path):
  """`finished(kind)`: the workdir of a whole experiment, and its config."""

  def make(kind):
    if kind == 'cohort':
      with small.unlocked():
        small.cohort = {'kd': {'methods': {'kd': {}}}, 'dkd': {'methods': {'dkd': {}}}}
    small.teacher.source = 'store' if kind == 'store' else 'live'
    folder = tmp_path / 'w'
    stages.run(Experiment(small.to_dict(), folder))
    return folder, small.to_dict()

  return make


def numbers(results):
  """What a person reads: of one comparison, or of a ranking."""
  record = json.loads(json.dumps(results, default=str))
  if 'stages' not in record:
    return {k: (v['mean'], v['p_value']) for k, v in record['members'].items()}
  return {s: (v['values'], v['ece']) for s, v in record['stages'].items()}


def commands(folder, config, member=''):
  """What a person does with a finished workdir."""

  def compared():
    return numbers(stages.run(Experiment(config, folder), ('compare',)))

  def answered():
    return predict.load(folder / member).predict({'text': ['is it red?', 'what colour']})

  def resumed():
    kept = folder / member / 'student' / 'stage.json'
    if kept.exists():
      kept.unlink()
    return numbers(stages.run(Experiment(config, folder)))

  return {'compare': compared, 'predict': answered, 'resume': resumed}


def matrix(finished, tmp_path, kind, chosen, wanted, damages, share=1):
  """command -> how often it was 'same' or a 'line', over damages of the files that are `chosen`.

  With a `share` of n each file has every n-th damage, the next file the others.
  """
  folder, config = finished(kind)
  member = 'kd' if kind == 'cohort' else ''
  calls = {k: v for k, v in commands(folder, config, member).items() if k in wanted}
  good = tmp_path / 'good'
  shutil.copytree(folder, good)
  whole, counts = {}, {k: Counter() for k in calls}
  for name, call in calls.items():
    whole[name] = call()
  files = [f for f in sorted(good.rglob('*')) if f.is_file() and f.name not in MADE_ANEW and chosen(f)]
  for i, file in enumerate(files):
    for j, (name, call) in enumerate(calls.items()):
      for damage in damages[(i + j) % share :: share]:
        shutil.rmtree(folder)
        shutil.copytree(good, folder)
        path = folder / file.relative_to(good)
        content = path.read_bytes()
        if not content or DAMAGES[damage](content) == content:
          continue
        path.write_bytes(DAMAGES[damage](content))
        where = f'{file.relative_to(good)}, {damage}, {name}'
        counts[name][outcome(call, whole[name], where)] += 1
  return counts


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['plain', 'store', 'cohort'])
def test_damages_of_a_workdir(finished, tmp_path, kind):
  def chosen(file):
    parts = file.relative_to(tmp_path / 'good').parts
    return 'checkpoints' not in parts or 'student' in parts or 'cohort' in parts

  counts = matrix(finished, tmp_path, kind, chosen, ('compare', 'predict', 'resume'), tuple(DAMAGES), 5)
  print(kind, counts)
  assert all(c['line'] and c['same'] for c in counts.values())


def test_a_line_says_how_a_file_is_made_anew_and_that_is_right(small, tmp_path):
  folder, config = tmp_path / 'w', small.to_dict()
  stages.run(Experiment(config, folder), ('teacher',))
  weights, lines = (folder / 'teacher' / 'seed_0.safetensors').read_bytes(), 0
  kinds = 'config.json', 'data.json', 'tokenizer.json', 'teacher/stage.json', 'teacher/seed_0.safetensors'
  for name in kinds:
    for damage in damaged(folder / name, CERTAIN):
      with pytest.raises(KdjaxError) as caught:
        predict.load(folder, 'teacher')
        stages.run(Experiment(config, folder), ('student',))
      assert name in str(caught.value) and 'delete' in str(caught.value), damage
      lines += 1
    if name.endswith('.json'):
      (folder / name).unlink()
      stages.run(Experiment(config, folder), ('teacher',))
      assert (folder / 'teacher' / 'seed_0.safetensors').read_bytes() == weights
  assert lines > 30
  other = tokenizer.train(['quite other words than those'], 32)
  (folder / 'data.json').unlink()
  (folder / tokenizer.FILE).write_text(other.to_str())
  with pytest.raises(KdjaxError, match='another vocabulary'):
    predict.load(folder, 'teacher')


@pytest.mark.parametrize('damage', ['list', 'cut', 'empty', 'not text', 'dict'])
def test_damaged_metadata_of_a_checkpoint_are_one_line(trees, tmp_path, damage):
  """Orbax reads them when it opens the folder, before anything of ours."""
  folder = tmp_path / 'checkpoints'
  checkpoints = checkpoint.Checkpoints(folder)
  for step, tree in enumerate(trees, 1):
    checkpoints.save(step, tree, BESIDE)
    checkpoints.wait()
  checkpoints.close()
  path = folder / '2' / checkpoint.METADATA
  path.write_bytes(DAMAGES[damage](path.read_bytes()))

  def restored():
    again = checkpoint.Checkpoints(folder)
    step = again.restore(trees[0]).step
    again.close()
    return step

  if damage == 'list':
    with pytest.raises(KdjaxError, match='/2 is damaged') as caught:
      restored()
    assert '\n' not in str(caught.value)
    shutil.rmtree(folder / '2')
  assert restored() in (1, 2)
