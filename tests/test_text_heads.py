"""What a text checkpoint reads off its tokens: classifiers and their poolers, layers of sentence encoders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.pretrained import bert
from test_pretrained import BERT, CONFIG, WORDS, bert_tensors, second_bert, shapes, text_batch

RNG = np.random.default_rng(1)
HEAD = {'classifier.weight': (3, 8), 'classifier.bias': (3,)}


def drawn(wanted):
  return {k: RNG.normal(size=shape).astype(np.float32) for k, shape in wanted.items()}


def saved(folder, tensors, **config):
  folder.mkdir(parents=True, exist_ok=True)
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(CONFIG | config))
  WORDS.save(str(folder / 'tokenizer.json'))
  return str(folder)


def taps(init, **options):
  model = pretrained.complete(init, {'model': 'bert', **options})
  net, like = shapes(model, text_batch())
  return jax.jit(net.apply)(pretrained.load(init, model, like), text_batch())


def refused(call, *parts):
  with pytest.raises(KdjaxError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message and all(p in message for p in parts), message


def tokens():
  batch = text_batch()
  return second_bert(bert_tensors(), np.array(batch['text']), np.array(batch['text/mask']))[1]


def test_the_classifier_of_bert_reads_its_pooler(tmp_path):
  tensors = {f'bert.{k}': x for k, x in bert_tensors().items()} | (head := drawn(HEAD))
  init = saved(tmp_path, tensors, architectures=['BertForSequenceClassification'])
  pooled = np.tanh(
    tokens()[:, 0] @ bert_tensors()['pooler.dense.weight'].T + bert_tensors()['pooler.dense.bias']
  )
  logits = pooled @ head['classifier.weight'].T + head['classifier.bias']
  np.testing.assert_allclose(taps(init, num_classes=3)['logits'], logits, atol=1e-4)
  refused(lambda: taps(init, num_classes=3, pool='mean'), 'pooler.dense', "'mean'", "set its pool to 'tanh'")
  init = saved(tmp_path, tensors)  # where the config.json names no architecture
  refused(lambda: taps(init, num_classes=3), "set its pool to 'tanh'")
  assert 'logits' not in taps(init)  # an encoder may be read as one likes


def test_other_heads_are_no_classifiers_of_texts(tmp_path):
  for kind in ('BertForTokenClassification', 'BertForMultipleChoice'):
    init = saved(tmp_path, bert_tensors() | drawn(HEAD), architectures=[kind])
    refused(lambda init=init: taps(init, num_classes=3), kind, 'BertForSequenceClassification')
  kinds = ({'problem_type': 'multi_label_classification'}, {'problem_type': 'regression'})
  for kind in kinds:
    init = saved(tmp_path, bert_tensors() | drawn(HEAD), **kind)
    refused(lambda init=init: taps(init, num_classes=3, pool='tanh'), *kind.values(), 'config.json')
  init = saved(tmp_path, bert_tensors() | drawn({'qa_outputs.weight': (2, 8), 'qa_outputs.bias': (2,)}))
  refused(lambda: taps(init, num_classes=3, pool='tanh'), 'has no classifier')


def test_the_classifier_of_distilbert(tmp_path):
  names = bert.config(
    {'model_type': 'distilbert', 'architectures': ['DistilBertForSequenceClassification']}, tmp_path
  )
  assert names['pool'] == 'relu'
  tensors = drawn(HEAD | {'pre_classifier.weight': (8, 8)})
  refused(lambda: bert.check_head({}, tensors, {'pool': 'mean'}), 'pre_classifier', "'relu'")


def encoder(folder, *kinds, **configs):
  """A sentence encoder of such layers after its Transformer, whose files lie as the library lays them."""
  init = saved(folder, bert_tensors(), architectures=['BertModel'])
  listed = [{'idx': 0, 'name': '0', 'path': '', 'type': 'sentence_transformers.models.Transformer'}]
  for i, kind in enumerate(kinds, 1):
    place = folder / f'{i}_{kind}'
    place.mkdir(exist_ok=True)
    (place / 'config.json').write_text(json.dumps(configs.get(kind, {})))
    listed.append({'idx': i, 'path': place.name, 'type': f'sentence_transformers.models.{kind}'})
  (folder / 'modules.json').write_text(json.dumps(listed))
  return init


def pooled(mode):
  x, mask = tokens(), np.array(text_batch()['text/mask'])[..., None]
  n = mask.sum(1)
  place = np.arange(1, x.shape[1] + 1)[:, None]
  return {
    'cls': x[:, 0],
    'max': np.where(mask, x, -np.inf).max(1),
    'mean': (x * mask).sum(1) / n,
    'mean_sqrt_len_tokens': (x * mask).sum(1) / np.sqrt(n),
    'weightedmean': (x * mask * place).sum(1) / (mask * place).sum(1),
    'lasttoken': x[np.arange(len(x)), n[:, 0] - 1],
  }[mode]


POOLS = (
  ({'pooling_mode_cls_token': True, 'pooling_mode_mean_tokens': False}, ['cls']),
  ({'pooling_mode_max_tokens': True}, ['max']),
  ({'pooling_mode_mean_tokens': True}, ['mean']),
  ({'pooling_mode_mean_sqrt_len_tokens': True}, ['mean_sqrt_len_tokens']),
  ({'pooling_mode_mean_tokens': True, 'pooling_mode_cls_token': True}, ['cls', 'mean']),
  ({'word_embedding_dimension': 8}, ['mean']),
  ({'pooling_mode': 'weightedmean'}, ['weightedmean']),
  ({'pooling_mode': ['lasttoken', 'max']}, ['lasttoken', 'max']),
)


def test_the_pools_of_a_sentence_encoder(tmp_path):
  x, mask = jnp.asarray(tokens()), text_batch()['text/mask']
  net = shapes(BERT, text_batch())[0]
  for config, modes in POOLS:
    pool = pretrained.complete(encoder(tmp_path, 'Pooling', Pooling=config), {'model': 'bert'})['pool']
    assert isinstance(pool, str) == (len(modes) == 1)
    for mode, name in zip(modes, [pool] if isinstance(pool, str) else pool, strict=True):
      result = net.apply({}, x, mask, name, method='pooled')
      np.testing.assert_allclose(result, pooled(mode), atol=1e-4)
  joined = pooled('lasttoken'), pooled('max')
  np.testing.assert_allclose(taps(str(tmp_path))['embed'], np.concatenate(joined, -1), atol=1e-4)


def test_dense_layers_and_the_norm_after_them(tmp_path):
  settings = {'in_features': 8, 'out_features': 5, 'bias': True}
  settings['activation_function'] = 'torch.nn.modules.activation.Tanh'
  init = encoder(tmp_path, 'Pooling', 'Dense', 'Normalize', Pooling={'pooling_mode': 'max'}, Dense=settings)
  refused(lambda: taps(init), '2_Dense holds no weights')
  dense = drawn({'linear.weight': (5, 8), 'linear.bias': (5,)})
  save_file(dense, tmp_path / '2_Dense' / 'model.safetensors')
  expected = np.tanh(pooled('max') @ dense['linear.weight'].T + dense['linear.bias'])
  expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
  np.testing.assert_allclose(taps(init)['embed'], expected, atol=1e-4)
  np.testing.assert_allclose(taps(init, dense=(), normalise=False)['embed'], pooled('max'), atol=1e-4)
  below = tmp_path / '0_Transformer'  # where earlier versions keep the network
  below.mkdir()
  for name in ('model.safetensors', 'config.json', 'tokenizer.json'):
    (tmp_path / name).rename(below / name)
  listed = json.loads((tmp_path / 'modules.json').read_text())
  listed[0]['path'] = below.name
  (tmp_path / 'modules.json').write_text(json.dumps(listed))
  for path in (init, str(below)):
    np.testing.assert_allclose(taps(path)['embed'], expected, atol=1e-4)


@pytest.mark.parametrize(
  'kinds, configs, parts',
  [
    (('Pooling', 'LSTM'), {}, ('unknown module in', "'LSTM'", 'Dense, Dropout, Normalize')),
    (('Pooling',), {'Pooling': {'pooling_mode': 'median'}}, ('unknown pooling_mode', "'median'")),
    (('Pooling', 'Normalize', 'Dense'), {}, ('in this order',)),
    (('Pooling', 'Dense'), {'Dense': {'out_features': 5, 'activation_function': 'a.Mish'}}, ("'Mish'",)),
    (('Pooling', 'Dense'), {'Dense': {'out_features': 5, 'use_residual': True}}, ('use_residual True',)),
    (
      ('Pooling', 'Dense'),
      {'Dense': {'out_features': 5, 'module_input_name': 'x'}},
      ("module_input_name 'x'",),
    ),
    (('Pooling', 'Dense'), {'Dense': {}}, ('out_features None',)),
    (('Pooling', 'Dense'), {'Dense': []}, ('2_Dense', 'a list')),
  ],
)
def test_layers_that_are_not_known(tmp_path, kinds, configs, parts):
  init = encoder(tmp_path, *kinds, **configs)
  refused(lambda: pretrained.complete(init, {'model': 'bert'}), *parts)


@pytest.mark.parametrize(
  'listed', ['{}', '[]', '[3]', '[{"type": "x.Pooling", "path": ""}]', '[{"type": 3}]']
)
def test_a_list_of_layers_that_is_damaged(tmp_path, listed):
  init = encoder(tmp_path)
  (tmp_path / 'modules.json').write_text(listed)
  refused(lambda: pretrained.complete(init, {'model': 'bert'}), 'modules.json')
