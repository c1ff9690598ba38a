"""RoBERTa, ELECTRA and ModernBERT: positions, tokenizers, pools, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import hf_folders
from hf_folder_cases import CASES, saved
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.input import tokenizer


def test_the_positions_of_roberta(tmp_path):
  _, _, batch, classes = saved(tmp_path, 'roberta')
  config, net, variables = hf_folders.load(tmp_path, batch, classes)
  assert config['offset'] == 2 and config['pool'] == 'tanh' and config['types'] == 1
  table = variables['params']['positions']['embedding']
  again = jax.tree.map(np.copy, variables)
  again['params']['positions']['embedding'] = np.where(np.arange(9)[:, None] < 2, np.arange(8), table)
  apply = jax.jit(net.apply)
  one, two = (apply(v, batch)['block1'] for v in (variables, again))
  np.testing.assert_allclose(one[:, :4], two[:, :4], atol=1e-5)  # padding has the rows below 2
  assert np.abs(one[:, 4:] - two[:, 4:]).max() > 0.03
  unmasked = apply(variables, {'text': batch['text']})  # padding is the id 1 without a mask
  np.testing.assert_allclose(unmasked['logits'], apply(variables, batch)['logits'], atol=1e-6)
  with pytest.raises(KdjaxError, match='a text of 8 tokens is longer than the 7 positions'):
    jax.eval_shape(net.apply, variables, {'text': jnp.ones((1, 8), jnp.int32)})


@pytest.mark.parametrize(
  'changes, match',
  [
    (
      {'position_embedding_type': 'relative_key'},
      "position_embedding_type 'relative_key'; the",
    ),
    ({'is_decoder': True}, 'is_decoder True; the model bert has False only'),
    ({'pad_token_id': -1}, 'pad_token_id is -1; it has to be a whole number from 0'),
    ({'model_type': 'xlm-roberta-xl'}, "unknown model_type for the model bert: 'xlm-roberta-xl'"),
    ({'model_type': None, 'architecture': 'vit_base'}, "unknown architecture for the model bert: 'vit_base'"),
    ({'model_type': ['bert']}, 'unknown model_type for the model bert'),
  ],
)
def test_a_config_that_bert_refuses(tmp_path, changes, match):
  saved(tmp_path, 'roberta')
  hf_folders.write(tmp_path, {'x': (1,)}, CASES['roberta'][2] | changes)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': 'bert'})
  assert '\n' not in str(error.value)


def byte_level():
  """A tokenizer as RoBERTa has it."""
  bpe = Tokenizer(models.BPE(unk_token='<unk>'))
  bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
  trainer = trainers.BpeTrainer(vocab_size=40, special_tokens=special, show_progress=False)
  bpe.train_from_iterator(['the cat sat', 'a dog ran'], trainer)
  bpe.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0), add_prefix_space=False)
  return bpe


def unigram():
  """A tokenizer as XLM-RoBERTa has it."""
  pieces = [('<s>', 0.0), ('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0), ('▁the', -1.0), ('▁', -2.0)]
  tokenizer = Tokenizer(models.Unigram([*pieces, *((x, -3.0) for x in 'catsdogrn')], unk_id=3))
  collapse = normalizers.Replace(Regex(' {2,}'), ' ')
  tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), collapse])
  tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
  ends = [('<s>', 0), ('</s>', 2)]
  tokenizer.post_processor = processors.TemplateProcessing(single='<s> $A </s>', special_tokens=ends)
  return tokenizer


@pytest.mark.parametrize('make', [byte_level, unigram])
def test_a_tokenizer_of_roberta(tmp_path, make):
  saved(tmp_path, 'roberta')
  make().save(str(tmp_path / 'tokenizer.json'))
  cut = tokenizer.cut(pretrained.load_tokenizer(str(tmp_path)), 7)
  ids, mask, _ = tokenizer.encode(cut, ['the', 'a dog ran'])
  assert ids[0, 0] == ids[1, 0] == 0 and (ids[~mask] == 1).all() and not mask[0, -1]
  assert ids[0, mask[0].sum() - 1] == 2


def test_a_classifier_over_another_pool(tmp_path):
  _, _, batch, _ = saved(tmp_path, 'electra')
  config = pretrained.complete(str(tmp_path), {'model': 'bert', 'pool': 'mean', 'num_classes': 3})
  like = jax.eval_shape(hf_folders.build.module(config, {}).init, jax.random.key(0), batch)
  with pytest.raises(KdjaxError, match="reads classifier.dense, and the pool of the model is 'mean'"):
    pretrained.load(str(tmp_path), config, like)


@pytest.mark.parametrize(
  'changes, attributes, match',
  [
    ({}, {'pool': 'first_dense', 'window': 2, 'full_every': 3, 'theta': 160_000.0}, ''),
    ({'classifier_pooling': 'mean', 'global_rope_theta': 5e5}, {'pool': 'mean_dense', 'theta': 5e5}, ''),
    ({'layer_types': ['full_attention', 'sliding_attention']}, {'full_every': 3}, ''),
    ({'local_rope_theta': None}, {'local_theta': 160_000.0}, ''),
    ({'layer_types': ['sliding_attention', 'full_attention']}, {}, 'layer_types in no order'),
    ({'norm_bias': True}, {}, 'norm_bias True; the model modernbert has False only'),
    ({'classifier_pooling': 'max'}, {}, "unknown classifier_pooling in .*: 'max'"),
    ({'rope_parameters': {'full_attention': {'rope_type': 'yarn'}}}, {}, 'modernbert has no scaling'),
    ({'model_type': None}, {}, "unknown model_type for the model modernbert: ''"),
  ],
)
def test_the_config_of_modernbert(tmp_path, changes, attributes, match):
  hf_folders.write(tmp_path, {'x': (1,)}, CASES['modernbert'][2] | changes)
  if match:
    with pytest.raises(KdjaxError, match=match) as error:
      pretrained.complete(str(tmp_path), {'model': 'modernbert'})
    assert '\n' not in str(error.value)
  else:
    config = pretrained.complete(str(tmp_path), {'model': 'modernbert'})
    assert config | attributes == config
