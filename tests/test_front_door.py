"""Checkpoints that people bring: a folder is inferred as its own model, every tensor is used or named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import front_door
from front_door import bert, convnext, dense, dinov2, llama, modernbert, wav2vec2
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.input import tokenizer
from kdjax.models.audio import wav2vec2 as wav2vec2_model
from kdjax.models.text.llama import frequencies
from kdjax.models.vision import dinov2 as dinov2_model
from kdjax.nn import generate
from kdjax.pretrained import initialize

IMAGE = {'image': jnp.zeros((1, 16, 24, 3), jnp.uint8)}
TEXT = {'text': jnp.array([[0, 5, 6, 2, 1, 1]]), 'text/mask': jnp.array([[1, 1, 1, 1, 0, 0]])}
HEAD = dense('classifier.dense') | dense('classifier.out_proj', out=3)
SIZES = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12}
BERT = SIZES | {'vocab_size': 20, 'max_position_embeddings': 9, 'layer_norm_eps': 1e-5}
ROBERTA = BERT | {'type_vocab_size': 1, 'pad_token_id': 1}
DINO = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'patch_size': 8, 'image_size': 16}
NEXT = {'depths': [1, 1], 'hidden_sizes': [8, 16]}
CASES = {  # model, tensors, config.json, batch, classes
  'bert': (
    'bert',
    bert('bert', dense('bert.pooler.dense') | dense('classifier', out=3)),
    BERT | {'model_type': 'bert', 'architectures': ['BertForSequenceClassification']},
    TEXT,
    3,
  ),
  'roberta': (
    'bert',
    bert('roberta', HEAD, 1),
    ROBERTA | {'model_type': 'roberta', 'architectures': ['RobertaForSequenceClassification']},
    TEXT,
    3,
  ),
  'xlm-roberta': (
    'bert',
    bert('roberta', HEAD, 1),
    ROBERTA | {'model_type': 'xlm-roberta', 'architectures': ['XLMRobertaForSequenceClassification']},
    TEXT,
    3,
  ),
  'electra': (
    'bert',
    bert('electra', HEAD | dense('electra.embeddings_project', into=6), width=6),
    BERT
    | {'model_type': 'electra', 'architectures': ['ElectraForSequenceClassification'], 'embedding_size': 6},
    TEXT,
    3,
  ),
  'dinov2': (
    'dinov2',
    dinov2('dinov2', gated=True),
    DINO
    | {'model_type': 'dinov2', 'architectures': ['Dinov2ForImageClassification'], 'use_swiglu_ffn': True},
    IMAGE,
    3,
  ),
  'dinov2_with_registers': (
    'dinov2',
    dinov2('dinov2_with_registers', 3),
    DINO
    | {'model_type': 'dinov2_with_registers', 'num_register_tokens': 3}
    | {'architectures': ['Dinov2WithRegistersForImageClassification']},
    IMAGE,
    3,
  ),
  'convnext': ('convnext', convnext(), NEXT | {'model_type': 'convnext'}, IMAGE, 3),
  'convnextv2': ('convnext', convnext(True), NEXT | {'model_type': 'convnextv2'}, IMAGE, 3),
}
DECODER = SIZES | {'vocab_size': 20, 'max_position_embeddings': 12, 'num_key_value_heads': 1}
TIED = DECODER | {'tie_word_embeddings': True}
WINDOW = TIED | {'head_dim': 4, 'query_pre_attn_scalar': 4, 'sliding_window': 3}
for kind, shapes, settings in (
  ('llama', llama(), DECODER),
  ('mistral', llama(), DECODER | {'sliding_window': 3}),
  ('qwen2', llama('qkv', tied=True), TIED),
  ('qwen3', llama(norms_of='qk', head=6), DECODER | {'head_dim': 6}),
  ('gemma', llama(tied=True), TIED | {'head_dim': 4}),
  ('gemma2', llama(tied=True, sandwich=True), WINDOW),
  ('gemma3_text', llama(norms_of='qk', tied=True, sandwich=True), WINDOW),
):
  CASES[kind] = 'llama', shapes, settings | {'model_type': kind}, TEXT, None
SPEECH = SIZES | {'conv_dim': [6, 6], 'conv_kernel': [10, 3], 'conv_stride': [5, 2]}
SPEECH |= {'num_conv_pos_embeddings': 4, 'num_conv_pos_embedding_groups': 2, 'classifier_proj_size': 5}
SOUND = {
  'audio': jnp.sin(jnp.arange(2 * 90.0).reshape(2, 90)),
  'audio/mask': jnp.arange(90) < jnp.array([[90], [50]]),
}
for kind, class_name, shapes, settings in (
  ('wav2vec2', 'Wav2Vec2', wav2vec2('wav2vec2', weighted=True), {'use_weighted_layer_sum': True}),
  ('hubert', 'Hubert', wav2vec2('hubert'), {}),
  ('wavlm', 'WavLM', wav2vec2('wavlm', 8), {'num_buckets': 8, 'max_bucket_distance': 10}),
):
  settings |= {'model_type': kind, 'architectures': [f'{class_name}ForSequenceClassification']}
  CASES[kind] = 'wav2vec2', shapes, SPEECH | settings, SOUND, 3
CASES['modernbert'] = (
  'modernbert',
  modernbert(),
  BERT
  | {'model_type': 'modernbert', 'architectures': ['ModernBertForSequenceClassification']}
  | {'num_hidden_layers': 2, 'local_attention': 4},
  TEXT,
  3,
)
LEFT_OUT = ('mask_token', 'masked_spec_embed')


def saved(folder, name):
  model, shapes, config_json, batch, classes = CASES[name]
  tensors = front_door.write(folder, shapes, config_json)
  return model, tensors, batch, classes


@pytest.mark.parametrize('name', CASES)
def test_a_folder_is_inferred_and_loaded(tmp_path, name):
  model, tensors, batch, classes = saved(tmp_path, name)
  assert pretrained.architecture(str(tmp_path)) == {'model': model}
  config, net, variables = front_door.load(tmp_path, batch, classes)
  taps = jax.jit(net.apply)(variables, batch)
  assert all(np.isfinite(x).all() for x in taps.values())
  assert taps['logits'].shape[-1] == classes or model == 'llama'
  read = {k: x for k, x in tensors.items() if not k.endswith(LEFT_OUT)}
  sizes = [sum(x.size for x in tree) for tree in (jax.tree.leaves(variables), read.values())]
  assert sizes[0] == sizes[1]

  def refuse(match, changed):
    save_file(changed, tmp_path / 'model.safetensors')
    with pytest.raises(KdjaxError, match=match) as error:
      front_door.load(tmp_path, batch, classes)
    assert '\n' not in str(error.value)

  refuse('[1-3] extra .another.weight', tensors | {'another.weight': np.ones(2)})
  for key in list(read)[:: max(len(read) // 6, 1)]:
    refuse('missing', {k: x for k, x in tensors.items() if k != key})


def test_the_positions_of_roberta(tmp_path):
  _, _, batch, classes = saved(tmp_path, 'roberta')
  config, net, variables = front_door.load(tmp_path, batch, classes)
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
  front_door.write(tmp_path, {'x': (1,)}, CASES['roberta'][2] | changes)
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
  like = jax.eval_shape(front_door.build.module(config, {}).init, jax.random.key(0), batch)
  with pytest.raises(KdjaxError, match="reads classifier.dense, and the pool of the model is 'mean'"):
    pretrained.load(str(tmp_path), config, like)


def test_the_positions_of_dinov2():
  """Cubic weights sum to one, and keep a linear ramp away from its ends; the same size is left alone."""
  weights = dinov2_model.cubic(9, 5)
  np.testing.assert_allclose(weights.sum(1), 1, atol=1e-12)
  np.testing.assert_allclose(dinov2_model.cubic(7, 7), np.eye(7), atol=1e-12)
  np.testing.assert_allclose((weights @ np.arange(9))[1:-1], (np.arange(1, 4) + 0.5) * 1.8 - 0.5, atol=0.2)
  table = jnp.arange(9.0).reshape(1, 9, 1)
  assert dinov2_model.resized(table, (3, 3), True) is table
  for antialias in (True, False):
    assert dinov2_model.resized(table, (2, 5), antialias).shape == (1, 10, 1)


@pytest.mark.parametrize(
  'name, changes, match',
  [
    ('dinov2', {'qkv_bias': False}, 'qkv_bias False; the model dinov2 has True only'),
    ('dinov2', {'mlp_ratio': 0}, 'mlp_ratio is 0; it has to be a whole number from 1'),
    ('dinov2', {'model_type': None}, "unknown model_type for the model dinov2: ''"),
    ('convnext', {'num_channels': 1}, 'num_channels 1; the model convnext has 3 only'),
    ('convnext', {'model_type': None}, "unknown model_type for the model convnext: ''"),
    ('convnext', {'architecture': 'convnext_tiny_ols'}, 'unknown architecture for the model convnext'),
    (
      'convnext',
      {'architecture': 'convnext_tiny', 'model_args': {'dims': 3}},
      'dims is 3; it has to be a list',
    ),
    ('convnext', {'architecture': 'convnext_tiny', 'model_args': {'stem_type': 'x'}}, 'stem_type'),
  ],
)
def test_a_config_of_images_that_is_refused(tmp_path, name, changes, match):
  model, _, config_json, _, _ = CASES[name]
  front_door.write(tmp_path, {'x': (1,)}, config_json | changes)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': model})
  assert '\n' not in str(error.value)


def test_a_folder_of_timm_is_inferred(tmp_path):
  files = (
    ('resnet50', 'resnet_imagenet'),
    ('convnextv2_base.fcmae', 'convnext'),
    ('vit_tiny_patch16_224', None),
  )
  for architecture, model in files:
    front_door.write(tmp_path, {'x': (1,)}, {'architecture': architecture})
    assert pretrained.architecture(str(tmp_path)) == {'model': model or 'vit_class_token'}


@pytest.mark.parametrize('name', ['llama', 'mistral', 'gemma3_text'])
def test_a_decoder_goes_on_with_a_text(tmp_path, name):
  """The likeliest tokens by the cache are those of a forward pass of the whole text for each."""
  saved(tmp_path, name)
  _, net, variables = front_door.load(tmp_path, TEXT)
  prompts = {'text': jnp.array([[3, 4, 5, 0], [6, 7, 0, 0]]), 'id': jnp.arange(2)}
  prompts['text/mask'] = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]])
  apply = jax.jit(net.apply)
  write = generate.make_generate(lambda v, batch: (net.apply(v, batch), {}), 19, 6, temperature=0)
  written = jax.jit(write)(variables, prompts, jax.random.key(0))
  for row, length in enumerate((3, 2)):
    text = np.zeros((1, 12), np.int32)
    text[0, :length] = prompts['text'][row, :length]
    for n in range(int(written.mask[row].sum())):
      mask = np.arange(12)[None] < length
      taps = apply(variables, {'text': text, 'text/mask': mask})
      assert taps['best'][0, length - 1] == written.ids[row, n]
      text[0, length], length = written.ids[row, n], length + 1
  assert written.mask.sum() > 4
  with pytest.raises(KdjaxError, match='a text of 13 tokens is longer than the 12 positions'):
    jax.eval_shape(net.apply, variables, {'text': jnp.ones((1, 13), jnp.int32)})


def test_the_scaling_of_positions():
  """Fast turns are kept, slow ones divided by the factor, those between in part."""
  plain, scaled = frequencies(64, 1e4), frequencies(64, 1e4, (8.0, 1.0, 4.0, 8192.0))
  turns = 8192 * plain / (2 * np.pi)
  np.testing.assert_allclose(scaled[turns > 4], plain[turns > 4])
  np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
  between = (turns > 1) & (turns < 4)
  assert between.any() and (scaled[between] < plain[between]).all()
  assert (scaled[between] > plain[between] / 8).all()
  np.testing.assert_allclose(frequencies(64, 1e4, (2.0,)), plain / 2)


ROPE = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}


@pytest.mark.parametrize(
  'name, changes, attributes',
  [
    ('llama', {'rope_theta': 5e5, 'rope_scaling': None}, {'theta': 5e5, 'scaling': ()}),
    ('llama', {'rope_scaling': {'type': 'linear', 'factor': 2.0}}, {'scaling': (2.0,)}),
    (
      'llama',
      {'rope_scaling': ROPE | {'original_max_position_embeddings': 8192}},
      {'scaling': (8.0, 1.0, 4.0, 8192.0)},
    ),
    ('llama', {'attention_bias': True}, {'bias': 'all'}),
    ('mistral', {'sliding_window': None}, {'tied': False}),
    ('mistral', {}, {'window': 3, 'full_every': 0}),
    ('gemma2', {}, {'window': 3, 'full_every': 2, 'cap': 50.0, 'last_cap': 30.0, 'act': 'gelu_pytorch_tanh'}),
    ('gemma3_text', {}, {'full_every': 6, 'theta': 1e6, 'local_theta': 1e4, 'scale': 4}),
    (
      'gemma3_text',
      {'num_hidden_layers': 2, 'layer_types': ['sliding_attention', 'full_attention']},
      {'full_every': 2},
    ),
  ],
)
def test_the_config_of_a_decoder(tmp_path, name, changes, attributes):
  front_door.write(tmp_path, {'x': (1,)}, CASES[name][2] | changes)
  config = pretrained.complete(str(tmp_path), {'model': 'llama'})
  assert config | attributes == config
  assert 'window' in config or 'window' not in attributes


@pytest.mark.parametrize(
  'name, changes, match',
  [
    ('llama', {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}}, "unknown rope_type in .*: 'yarn'"),
    ('llama', {'rope_scaling': {'rope_type': 'llama3', 'factor': 4.0}}, 'low_freq_factor is None'),
    ('llama', {'rope_theta': 'x'}, "rope_theta is 'x'; it has to be a number from 1"),
    ('llama', {'mlp_bias': True}, 'mlp_bias True; the model llama has False only'),
    ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor 0.5; the model llama has 1.0 only'),
    ('qwen2', {'use_sliding_window': True}, 'use_sliding_window True; the model llama has False only'),
    ('gemma3_text', {'layer_types': ['linear_attention']}, 'layer_types in no order'),
    ('llama', {'model_type': 'phi3'}, "unknown model_type for the model llama: 'phi3'"),
    ('llama', {'model_type': None}, "unknown model_type for the model llama: ''"),
  ],
)
def test_a_config_of_a_decoder_that_is_refused(tmp_path, name, changes, match):
  front_door.write(tmp_path, {'x': (1,)}, CASES[name][2] | changes)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': 'llama'})
  assert '\n' not in str(error.value)


def test_the_head_of_a_decoder(tmp_path):
  _, tensors, batch, _ = saved(tmp_path, 'qwen2')
  tied = tensors | {'lm_head.weight': tensors['model.embed_tokens.weight']}
  save_file(tied, tmp_path / 'model.safetensors')
  front_door.load(tmp_path, batch)
  save_file(tensors | {'lm_head.weight': np.ones((20, 8), np.float32)}, tmp_path / 'model.safetensors')
  with pytest.raises(KdjaxError, match='lm_head.weight is not embed_tokens.weight'):
    front_door.load(tmp_path, batch)


def test_the_padding_of_a_sound(tmp_path):
  """Masked, padding changes nothing that is valid; without a mask it is silence, and is read."""
  model, shapes, config_json, batch, _ = CASES['hubert']
  other = batch | {'audio': jnp.where(batch['audio/mask'], batch['audio'], 0.7)}
  for masked in (True, False):
    files = {'preprocessor_config.json': {'return_attention_mask': masked, 'sampling_rate': 8000}}
    front_door.write(tmp_path, shapes, config_json, files)
    config, net, variables = front_door.load(tmp_path, batch, 3)
    assert config['rate'] == 8000 and config['masked'] is masked and config['scaled'] is True
    one, two = (jax.jit(net.apply)(variables, b)['logits'] for b in (batch, other))
    np.testing.assert_allclose(one[0], two[0], atol=1e-5)
    same = np.abs(one[1] - two[1]).max() < 1e-5
    assert same if masked else not same
  with pytest.raises(KdjaxError, match='rate is 8,000 samples a second, and the data have 16,000'):
    initialize.check(config, None, '', 16_000, 'teacher')
  with pytest.raises(KdjaxError, match='is not .B, N. with 20 samples or more'):
    jax.eval_shape(net.apply, variables, {'audio': jnp.zeros((1, 19))})


def test_the_distances_of_wavlm():
  table = wav2vec2_model.buckets(40, 16, 20)
  assert (np.diag(table) == 0).all() and table.max() == 15 and table.min() == 0
  assert table[0, :5].tolist() == [0, 9, 10, 11, 12] and table[:5, 0].tolist() == [0, 1, 2, 3, 4]
  assert (np.diff(table[0, 1:]) >= 0).all() and table[0, 20] == table[0, 39] == 15


@pytest.mark.parametrize(
  'name, changes, files, match',
  [
    ('hubert', {'conv_pos_batch_norm': True}, {}, 'conv_pos_batch_norm True; the model wav2vec2 has False'),
    (
      'hubert',
      {'feat_proj_layer_norm': False},
      {},
      'feat_proj_layer_norm False; the model wav2vec2 has True',
    ),
    ('wav2vec2', {'adapter_attn_dim': 16}, {}, 'adapter_attn_dim; the model wav2vec2 has no adapters'),
    ('wav2vec2', {'add_adapter': True}, {}, 'add_adapter True'),
    ('wav2vec2', {'feat_extract_norm': 'batch'}, {}, "unknown feat_extract_norm: 'batch'"),
    ('wav2vec2', {}, {'sampling_rate': 0}, 'sampling_rate is 0; it has to be a whole number from 1'),
    ('wav2vec2', {}, {'padding_value': 1.0}, 'padding_value 1.0; it has to be 0'),
    ('wav2vec2', {}, {'do_normalize': 'yes'}, "do_normalize is 'yes'; it has to be True or False"),
    ('wav2vec2', {'model_type': 'sew'}, {}, "unknown model_type for the model wav2vec2: 'sew'"),
    ('wav2vec2', {'model_type': None}, {}, "unknown model_type for the model wav2vec2: ''"),
  ],
)
def test_a_config_of_sound_that_is_refused(tmp_path, name, changes, files, match):
  config_json = CASES[name][2] | changes
  front_door.write(tmp_path, {'x': (1,)}, config_json, {'preprocessor_config.json': files})
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': 'wav2vec2'})
  assert '\n' not in str(error.value)


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
  front_door.write(tmp_path, {'x': (1,)}, CASES['modernbert'][2] | changes)
  if match:
    with pytest.raises(KdjaxError, match=match) as error:
      pretrained.complete(str(tmp_path), {'model': 'modernbert'})
    assert '\n' not in str(error.value)
  else:
    config = pretrained.complete(str(tmp_path), {'model': 'modernbert'})
    assert config | attributes == config
