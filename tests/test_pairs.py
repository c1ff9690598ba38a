"""Pairs of one's own with a zero-shot test: what is read, what is said where it cannot be, what is measured.

And the towers with masked patches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from kdjax.datasets import image_text as module
from kdjax.datasets.image_text import Lines, Pairs, image_text
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.models.vision import vit_class_token
from kdjax.models.vision.vit_class_token import VitClassToken, unmasked
from kdjax.recipes import model, training
from kdjax.tasks import retrieval as task
from test_audio import png, write

PAIRS, SHOWN = 24, {'train': 3, 'validation': 30}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Pairs in three kinds of file, and thirty grey images of three classes as TFDS leaves them."""
  result, rng = tmp_path_factory.mktemp('pairs'), np.random.default_rng(0)
  rows = []
  for i in range(PAIRS):
    Image.fromarray(rng.integers(0, 255, (20 + i % 3, 30, 3), dtype=np.uint8)).save(result / f'{i}.png')
    rows.append({'image': f'{i}.png', 'text': f'thing {i}, "of {i % 3}"'})
  (result / 'a.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  (result / 'a.tsv').write_text('file\ttitle\n' + ''.join(f'{r["image"]}\t{r["text"]}\n' for r in rows))
  quoted = [(r['image'], r['text'].replace('"', '""')) for r in rows]
  (result / 'a.csv').write_text('image,text\r\n' + ''.join(f'{a},"{b}"\r\n\r\n' for a, b in quoted))
  (result / 'names.txt').write_text('tench\ngoldfish\ngreat white shark\n')
  for name, classes in (('wordnet', ['n01440764', 'n01443537', 'n01484850']), ('plain', ['a_b', 'c', 'd'])):
    image = tfds.features.Image(shape=(28, 28, 1), encoding_format='png')
    features = {'image': image, 'label': tfds.features.ClassLabel(names=classes)}
    shown = {s: [{'image': png(i), 'label': i % 3} for i in range(n)] for s, n in SHOWN.items()}
    write(result, name, '1.0.0', features, shown)
  return result


def given(folder, **more):
  result = {'path': 'a.jsonl', 'data_dir': str(folder), 'zero_shot': 'wordnet', 'class_names': 'names.txt'}
  return result | more


def test_lines_are_those_of_the_file(tmp_path, monkeypatch):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n\r\n{"b": "\xc3\xa4"}\r\n{"c": 3}')
  for chunk in (module.CHUNK, 5):
    monkeypatch.setattr(module, 'CHUNK', chunk)
    lines = Lines(path)
    assert [json.loads(lines[i]) for i in range(len(lines))] == [{'a': 1}, {'b': 'ä'}, {'c': 3}]
    assert [lines.number(i) for i in range(3)] == [1, 4, 5]
  digest = lines.digest
  path.write_bytes(path.read_bytes() + b'\n')
  assert Lines(path).digest != digest and len(Lines(path)) == 3


def test_a_row_takes_eight_bytes(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"image": "folder/0123456789.jpg", "text": "a caption of some words"}\n' * 1000)
  lines = Lines(path)
  assert len(lines) == 1000 and lines._full is None and lines._starts.nbytes == 8 * 1001


def test_pairs_of_every_kind_of_file(folder):
  columns = {'image': 'file', 'text': 'title'}
  result = [Pairs(folder / f'a.{kind}', columns if kind == 'tsv' else {}) for kind in ('jsonl', 'csv', 'tsv')]
  for pairs in result:
    assert len(pairs) == PAIRS
    assert pairs[7]['text'] == 'thing 7, "of 1"' and pairs[7]['id'] == 7
    np.testing.assert_array_equal(pairs[7]['image'], result[0][7]['image'])
    assert pairs[-1]['text'].startswith('thing 23')
    with pytest.raises(IndexError):
      pairs[PAIRS]


def test_the_test_is_images_and_prompts(folder):
  templates = ('a {}.', 'the {}')
  result = image_text(**given(folder, templates=templates))
  assert result.splits.keys() == {'train', 'test'} and len(result.splits['train']) == PAIRS
  assert result.classes == ('tench', 'goldfish', 'great white shark')
  test = result.splits['test']
  assert len(test) == 36 and [e['id'] for e in list(test)] == list(range(36))
  image, prompt = test[4], test[-1]
  assert image['image'].shape == (28, 28, 3) and np.ptp(image['image']) == 0
  assert (image['group'], image['text']) == (4, '')
  assert all(int(test[i]['image'][0, 0, 0]) // 5 % 3 == test[i]['label'] for i in range(30))
  assert (prompt['text'], prompt['label'], prompt['group']) == ('the great white shark', 2, -3)
  assert not prompt['image'].any() and prompt.keys() == image.keys()
  assert image_text(**given(folder, templates=templates)).fingerprint == result.fingerprint
  others = [image_text(**given(folder)), image_text(**given(folder, path='a.csv', templates=templates))]
  assert len({result.fingerprint, *(o.fingerprint for o in others)}) == 3
  assert len(others[0].splits['test']) == 30 + 3 * len(module.TEMPLATES)
  plain = image_text(**given(folder, zero_shot='plain', class_names=''))
  assert plain.classes == ('a b', 'c', 'd')  # they can be read as they are


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'path': ''}, 'which pairs'),
    ({'path': 'nothing.jsonl'}, 'cannot read the pairs of .*nothing.jsonl'),
    ({'path': 'names.txt'}, "unknown kind of file of pairs: 'names.txt'"),
    ({'columns': {'text': 'title'}}, "unknown column for 'text'"),
    ({'columns': {'label': 'x'}}, "unknown column of image_text: 'label'"),
    ({'class_names': ''}, 'calls its classes n01440764 .*set data.options.class_names'),
    ({'class_names': 'a.jsonl'}, 'names 24 classes, and wordnet has 3'),
    ({'class_names': 'nothing.txt'}, 'cannot read data.options.class_names'),
    ({'templates': ('a photo',)}, "'a photo', which lacks the {}"),
    ({'split': 'test'}, "no split 'test'; it has train, validation"),
  ],
)
def test_mistakes_are_one_line(folder, changes, words):
  with pytest.raises(KdjaxError, match=words) as raised:
    image_text(**given(folder, **changes))
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
  ('name', 'content', 'words'),
  [
    ('a.jsonl', '{"image": "x.png", "text": "a"}\n{"image": "x.png"\n', 'line 2: not a JSON object'),
    ('a.jsonl', '{"image": "x.png", "text": "a"}\n\n{"image": "x.png"}\n', "line 3: the column 'text'"),
    ('a.jsonl', '{"image": "x.png", "text": "a"}\n' * 2, 'line 2: there is no image'),
    ('a.csv', 'image,text\nx.png,a\nx.png,"b\nc"\n', 'line 3: a quoted text goes on in the next line'),
  ],
)
def test_a_bad_row_is_named(tmp_path, name, content, words):
  (tmp_path / name).write_text(content)
  with pytest.raises(KdjaxError, match=words):
    Pairs(tmp_path / name, {})[1]
  (tmp_path / name).write_text('\n\n')
  with pytest.raises(KdjaxError, match='holds no pairs'):
    Pairs(tmp_path / name, {})


def gathered(seed=0, n=40, classes=5):
  """Images near the direction of their class, then two prompts a class, and whose label is not known."""
  rng = np.random.default_rng(seed)
  centre = rng.normal(size=(classes, 6))
  label = np.arange(n) % classes
  image = centre[label] + rng.normal(size=(n, 6))
  prompts = centre[np.repeat(np.arange(classes), 2)] + 0.1 * rng.normal(size=(2 * classes, 6))
  of = np.repeat(np.arange(classes), 2)
  return {
    'image/embed': np.concatenate([image, 0 * prompts]),
    'text/embed': np.concatenate([0 * image, prompts]),
    'group': np.concatenate([np.arange(n), -1 - of]),
    'label': np.concatenate([np.where(np.arange(n) == 3, -1, label), of]),
  }


def by_hand(result, n=40, classes=5):
  prompts = result['text/embed'][n:]
  prompts = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
  means = prompts.reshape(classes, 2, -1).mean(1)
  means /= np.linalg.norm(means, axis=1, keepdims=True)
  return np.argmax(result['image/embed'][:n] @ means.T, 1)


def test_zero_shot_alone_is_measured(monkeypatch):
  result, other = gathered(), gathered(1)
  wanted = task.retrieval(metric='zero_shot')
  message, known = by_hand(result), result['label'][:40] >= 0
  right = np.mean((message == result['label'][:40])[known])
  for block in (task.BLOCK, 7):
    monkeypatch.setattr(task, 'BLOCK', block)
    assert wanted.finalize(result) == {'zero_shot/accuracy': pytest.approx(right)} and 0.4 < right < 1
  monkeypatch.setattr(task, 'ranks', lambda _: pytest.fail('nothing is searched for'))
  assert wanted.metric == 'zero_shot/accuracy'
  assert wanted.compare(result, other) == {'agreement': np.mean(message == by_hand(other))}
  guessed = wanted.references({}, result)
  assert guessed == {'chance': 0.2, 'most frequent': pytest.approx(8 / 39)}
  examples = [{'image': np.zeros((2, 2, 3), np.uint8), 'label': max(c, 0)} for c in result['label']]
  cards = wanted.cards({'student': result}, examples, 'abcde')
  assert len(cards) == 12 and all(card['student'] in 'abcde' and 'image' in card for card in cards)
  small = {k: jnp.asarray(v, jnp.bfloat16) if 'embed' in k else v for k, v in result.items()}
  assert wanted.finalize(jax.device_get(small))['zero_shot/accuracy'] == pytest.approx(right, abs=0.06)


def test_zero_shot_wants_prompts_and_labels():
  result, wanted = gathered(), task.retrieval(metric='zero_shot')
  with pytest.raises(KdjaxError, match='the split has no prompts'):
    wanted.finalize({k: v[:40] for k, v in result.items()})
  with pytest.raises(KdjaxError, match='or no labels'):
    wanted.finalize({k: v for k, v in result.items() if k != 'label'})
  with pytest.raises(KdjaxError, match="unknown metric of the task retrieval: 'f1'"):
    task.retrieval(metric='f1')


def test_masked_patches_are_a_function_of_epoch_and_example():
  x = jnp.arange(4 * 17.0).reshape(4, 17, 1)
  batch = {'id': jnp.array([5, 9, 2, 5]), 'epoch': jnp.array([0, 0, 0, 1])}
  kept = np.asarray(unmasked(x, 0.75, batch))[..., 0] - 17 * np.arange(4)[:, None]
  assert kept.shape == (4, 5) and (kept[:, 0] == 0).all()
  rows = [tuple(sorted(row[1:])) for row in kept]
  assert all(len(set(row)) == 4 and min(row) >= 1 and max(row) <= 16 for row in rows)
  assert len(set(rows)) == 4  # other patches for another example, and for another epoch
  turned = unmasked(x[::-1], 0.75, {k: v[::-1] for k, v in batch.items()})
  np.testing.assert_array_equal(turned[::-1], unmasked(x, 0.75, batch))
  assert unmasked(x, 0.75, {}).shape == (4, 5, 1)


@pytest.mark.whole
def test_a_masked_tower_has_the_same_weights_and_one_tap_more():
  rng = np.random.default_rng(0)
  batch = {'image': rng.integers(0, 255, (2, 16, 16, 3), dtype=np.uint8), 'id': jnp.arange(2)}
  sizes = {'width': 8, 'depth': 2, 'heads': 2, 'mlp': 16, 'patch': 4}
  plain, masked = VitClassToken(**sizes), VitClassToken(**sizes, masked=0.75)
  variables = jax.jit(plain.init)(jax.random.key(0), batch)
  same = jax.tree.map(np.array_equal, variables, jax.jit(masked.init)(jax.random.key(0), batch))
  assert all(jax.tree.leaves(same))
  look = jax.jit(masked.apply)
  taps, more = jax.jit(plain.apply)(variables, batch), look(variables, batch)
  assert more.keys() - taps.keys() == {'masked_embed'} and more['masked_embed'].shape == (2, 8)
  for name, tap in taps.items():
    np.testing.assert_allclose(more[name], tap, atol=1e-6, err_msg=name)
  assert not np.allclose(more['masked_embed'], taps['embed'])
  few = look(variables, batch | {'id': jnp.arange(2) + 7})
  assert not np.allclose(few['masked_embed'], more['masked_embed'])
  np.testing.assert_array_equal(few['embed'], more['embed'])


def test_the_masked_look_is_that_of_the_patches_that_are_left(monkeypatch):
  """An image of nothing but those patches, each with the position that it had."""
  rng = np.random.default_rng(0)
  batch = {'image': rng.integers(0, 255, (1, 16, 16, 3), dtype=np.uint8)}
  sizes = {'width': 8, 'depth': 2, 'heads': 2, 'mlp': 16, 'patch': 4}
  net = VitClassToken(**sizes, masked=0.75)
  variables = jax.jit(net.init)(jax.random.key(0), batch)
  left = [0, 3, 6, 9, 12]  # of the class token and 16 patches
  monkeypatch.setattr(vit_class_token, 'unmasked', lambda x, share, inputs, first: x[:, np.array(left)])
  result = jax.jit(net.apply)(variables, batch)
  image = batch['image'].reshape(4, 4, 4, 4, 3).transpose(0, 2, 1, 3, 4).reshape(16, 4, 4, 3)
  strip = image[np.array(left[1:]) - 1].transpose(1, 0, 2, 3).reshape(1, 4, 16, 3)
  params = variables['params'] | {'position': variables['params']['position'][:, np.array(left)]}
  alone = jax.jit(VitClassToken(**sizes).apply)({'params': params}, {'image': strip})['embed']
  np.testing.assert_allclose(result['masked_embed'], alone, atol=1e-5)
  assert not np.allclose(result['embed'], alone, atol=1e-3)


@pytest.fixture
def towers(config, folder):
  """Two small CLIPs on the made pairs, named without training on the made test."""
  config.task = {'name': 'retrieval', 'metric': 'zero_shot'}
  config.data.update(name='image_text', path=str(folder / 'a.jsonl'), image_size=16, text_length=8)
  config.data.columns.update(text='text')
  config.data.options = {'zero_shot': str(folder / 'wordnet' / '1.0.0'), 'templates': ('a {}',)}
  config.data.options['class_names'] = str(folder / 'names.txt')

  def clip(width, depth, **image):
    sizes = {'width': width, 'depth': depth, 'heads': width // 4, 'mlp': width}
    towers = {
      'image': model('vit_class_token', patch=8, clip=True, **sizes, **image),
      'text': model('clip_text', **sizes),
    }
    return model('clip', width=8, scale_limit=50.0, **towers)

  config.teacher.model, config.student.model = clip(16, 2), clip(8, 1, masked=0.75)
  config.student.model['init'] = {'from': 'teacher', 'layers': 'first', 'width': 'first'}
  config.teacher.train = config.student.train = training(3, 8, 1e-3)
  config.student.train.augment = ('slight_crop',)
  masked = {'method': 'clip_fd', 'student': ('image/masked_embed', 'text/embed'), 'weight': 1.0}
  config.methods = {'masked': masked, 'tinyclip': {}}
  return config


@pytest.mark.whole
def test_a_whole_experiment(towers, experiment):
  results = stages.run(experiment())
  assert results['metric'] == 'zero_shot/accuracy' and results['n_examples'] == 33
  assert results['references'] == {'chance': pytest.approx(1 / 3), 'most frequent': pytest.approx(1 / 3)}
  assert all(0 <= s['mean'] <= 1 for s in results['stages'].values())
  assert 'kd' not in results['config']['methods'] and results['stages']['student']['agreement'] is not None


@pytest.mark.whole
def test_the_limit_of_the_scale():
  sizes = {'width': 8, 'depth': 1, 'heads': 2, 'mlp': 8}
  parts = {'image': model('vit_class_token', patch=8, clip=True, **sizes)}
  parts['text'] = model('clip_text', vocab_size=9, **sizes)
  batch = {'image': np.zeros((1, 16, 16, 3), np.uint8), 'text': np.ones((1, 4), np.int32)}
  for limit, factor in ((50.0, 1 / 0.07), (10.0, 10)):
    net = build.module(model('clip', width=8, scale_limit=limit, **parts), {})
    taps, _ = jax.jit(net.init_with_output)(jax.random.key(0), batch)
    assert float(jnp.exp(taps['logit_scale'])) == pytest.approx(factor, rel=1e-5)


def test_captions_of_one_image_are_one_group(folder):
  rows = [{'image': f'{i % 2}.png', 'text': f'a text {i}'} for i in range(4)]
  (folder / 'groups.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  pairs = Pairs(folder / 'groups.jsonl', {})
  assert pairs.group.tolist() == [0, 1, 0, 1]
