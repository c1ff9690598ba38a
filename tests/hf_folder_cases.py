"""One tiny checkpoint of each kind: its model, tensors, config.json, batch and classes."""

import jax.numpy as jnp

import hf_folders
import mobile_folders
from hf_folders import bert, convnext, dense, dinov2, eva02, llama, modernbert, swin, wav2vec2

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
CASES['swin'] = (
  'swin',
  swin(),
  {'model_type': 'swin', 'embed_dim': 8, 'depths': [1, 2], 'num_heads': [2, 2], 'window_size': 3},
  {'image': jnp.zeros((1, 36, 32, 3), jnp.uint8)},
  3,
)
EVA = {'embed_dim': 8, 'depth': 1, 'num_heads': 2, 'patch_size': 8, 'img_size': [16, 16]}
EVA = {'architecture': 'eva02_base_patch16_clip_224', 'num_classes': 3, 'model_args': EVA}
CASES['eva02'] = 'eva02', eva02(), EVA, IMAGE, 3
for kind, architecture in (
  ('mobilenet_v3', 'mobilenetv3_small_050'),
  ('mobilenet_v4', 'mobilenetv4_conv_small_035'),
):
  shapes = getattr(mobile_folders, kind)()
  CASES[kind] = kind, shapes, {'architecture': architecture, 'num_classes': 3}, IMAGE, 3
CASES['efficientnet'] = (
  'efficientnet',
  mobile_folders.efficientnet(),
  {'model_type': 'efficientnet', 'width_coefficient': 0.5, 'depth_coefficient': 0.25},
  {'image': jnp.zeros((1, 32, 40, 3), jnp.uint8)},
  3,
)
LEFT_OUT = ('mask_token', 'masked_spec_embed')


def saved(folder, name):
  """(model, tensors, batch, classes) of a case, written as a folder."""
  model, shapes, config_json, batch, classes = CASES[name]
  tensors = hf_folders.write(folder, shapes, config_json)
  return model, tensors, batch, classes
