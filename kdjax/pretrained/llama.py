"""Llama, SmolLM, Mistral, Qwen and Gemma checkpoints in the names of transformers, to models.text.llama."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import hf_config
from kdjax.pretrained.rename import rename

NAMES = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'mlp': 'intermediate_size',
  'positions': 'max_position_embeddings',
  'eps': 'rms_norm_eps',
  'tied': 'tie_word_embeddings',
}
GEMMA2 = {'scale': 'query_pre_attn_scalar', 'cap': 'attn_logit_softcapping'}
GEMMA2 |= {'last_cap': 'final_logit_softcapping'}
LARGE: dict[str, Any] = {'hidden_size': 4096, 'num_hidden_layers': 32, 'num_attention_heads': 32}
GEMMA: dict[str, Any] = {'head_dim': 256, 'rope_theta': 1e4, 'tie_word_embeddings': True}
GEMMA |= {'hidden_activation': 'gelu_pytorch_tanh', 'max_position_embeddings': 8192, 'vocab_size': 256000}
SMALL_GEMMA = GEMMA | {'hidden_size': 2304, 'num_hidden_layers': 26, 'num_attention_heads': 8}
SMALL_GEMMA |= {'intermediate_size': 9216, 'num_key_value_heads': 4, 'query_pre_attn_scalar': 256}
SMALL_GEMMA |= {'sliding_window': 4096}
# Of the classes in transformers, where a config.json leaves them out.
DEFAULTS: dict[str, dict[str, Any]] = {
  'llama': LARGE | {'vocab_size': 32000, 'intermediate_size': 11008, 'max_position_embeddings': 2048},
  'mistral': LARGE
  | {'vocab_size': 32000, 'intermediate_size': 14336, 'max_position_embeddings': 131072}
  | {'num_key_value_heads': 8},
  'qwen2': LARGE
  | {'vocab_size': 151936, 'intermediate_size': 22016, 'max_position_embeddings': 32768}
  | {'num_key_value_heads': 32},
  'gemma': GEMMA
  | {'hidden_size': 3072, 'num_hidden_layers': 28, 'num_attention_heads': 16}
  | {'intermediate_size': 24576, 'num_key_value_heads': 16},
  'gemma2': SMALL_GEMMA | {'attn_logit_softcapping': 50.0, 'final_logit_softcapping': 30.0},
  'gemma3_text': SMALL_GEMMA
  | {'vocab_size': 262208, 'max_position_embeddings': 131072, 'rope_theta': 1e6}
  | {'rope_local_base_freq': 1e4},
}
DEFAULTS['qwen3'] = DEFAULTS['qwen2'] | {'head_dim': 128}
NULLS = ('attn_logit_softcapping', 'final_logit_softcapping', 'sliding_window')  # where null is a value
PLAIN = {'mlp_bias': False, 'use_bidirectional_attention': False, 'partial_rotary_factor': 1.0}
PLAIN |= {'use_sliding_window': False}
ROPES = ('default', 'linear', 'llama3')
LLAMA3 = ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')
LAYER = r'layers\.(\d+)\.'
MODULES = {
  LAYER + r'self_attn\.o_proj': r'block<\1>/attention/out',
  LAYER + r'self_attn\.q_norm': r'block<\1>/attention/query_norm',
  LAYER + r'self_attn\.k_norm': r'block<\1>/attention/key_norm',
  LAYER + 'input_layernorm': r'block<\1>/norm1',
  LAYER + r'mlp\.gate_proj': r'block<\1>/mlp_gate',
  LAYER + r'mlp\.up_proj': r'block<\1>/mlp_in',
  LAYER + r'mlp\.down_proj': r'block<\1>/mlp_out',
  'norm': 'norm',
  'lm_head': 'unembed',
} | {LAYER + rf'self_attn\.{k[0]}_proj': rf'block<\1>/attention/{k}' for k in ('query', 'key', 'value')}
PLAIN_NORMS = {LAYER + 'post_attention_layernorm': r'block<\1>/norm2'}
SANDWICH = {
  LAYER + 'post_attention_layernorm': r'block<\1>/after1',
  LAYER + 'pre_feedforward_layernorm': r'block<\1>/norm2',
  LAYER + 'post_feedforward_layernorm': r'block<\1>/after2',
}
WHOLE = {r'embed_tokens\.weight': 'params/words/embedding'}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.text.llama`; Gemma's norms are stored as what is added to one.

  Raises:
    KdjaxError: if the model's head is the word embedding, and the checkpoint's is another.
  """
  bare = {name.removeprefix('model.'): x for name, x in tensors.items()}
  head, words = bare.get('lm_head.weight'), bare.get('embed_tokens.weight')
  if attributes['tied'] and head is not None:
    if words is None or not np.array_equal(head, words):
      raise KdjaxError("lm_head.weight is not embed_tokens.weight: set the model's tied to False.")
    del bare['lm_head.weight']
  norms = SANDWICH if attributes['sandwich'] else PLAIN_NORMS
  variables = rename(bare, MODULES | norms, WHOLE, r'.*rotary_emb\.inv_freq')
  if attributes['scaled_words']:
    one = np.float32(1)
    variables = {k: one + x if k.endswith('/scale') else x for k, x in variables.items()}
  return variables


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json.

  Raises:
    KdjaxError: for another kind of model, and for what the module has not.
  """
  kind, path = hf_config.kind(config_json, 'llama', DEFAULTS), folder / 'config.json'
  hf_config.plain(config_json, PLAIN, 'llama')
  given = {k: x for k, x in config_json.items() if x is not None or k in NULLS}
  config_json, gemma = {'tie_word_embeddings': False} | DEFAULTS[kind] | given, kind.startswith('gemma')
  act = config_json.get('hidden_activation' if gemma else 'hidden_act', 'silu')
  attributes = {'eps': 1e-6, 'act': act} | hf_config.attributes(config_json, NAMES)
  attributes['groups'] = config_json.get('num_key_value_heads', config_json['num_attention_heads'])
  attributes['head_width'] = config_json.get('head_dim')
  if kind == 'qwen2' or config_json.get('attention_bias'):
    attributes['bias'] = 'qkv' if kind == 'qwen2' else 'all'
  attributes |= {'query_norm': kind in ('qwen3', 'gemma3_text'), 'scaled_words': gemma}
  if kind in ('gemma2', 'gemma3_text'):
    attributes |= {'sandwich': True} | hf_config.attributes(config_json, GEMMA2)
  attributes |= _window(config_json, kind, path)
  return attributes | _positions(config_json, kind, path)


def _window(config_json, kind, path):
  """`window` and `full_every`."""
  window = config_json.get('sliding_window')
  if window is None or kind in ('llama', 'qwen2', 'qwen3', 'gemma'):
    return {}
  every = {'gemma2': 2, 'gemma3_text': config_json.get('sliding_window_pattern', 6)}.get(kind, 0)
  every = config_json.get('_sliding_window_pattern', every) if kind == 'gemma3_text' else every
  options.check(every, options.NoOrSize, f'{path}: sliding_window_pattern')
  types, depth = config_json.get('layer_types'), config_json['num_hidden_layers']
  if isinstance(types, list):
    full = [i for i, name in enumerate(types, 1) if name == 'full_attention']
    every = full[0] if full else every if every > depth else 0
    full = [bool(every) and not i % every for i in range(1, depth + 1)]
    if types != ['full_attention' if whole else 'sliding_attention' for whole in full]:
      raise KdjaxError(f'{path} has layer_types in no order of one full_attention among as many others.')
  return {'window': window, 'full_every': every}


def _positions(config_json, kind, path):
  """`theta`, `scaling` and `local_theta`, from either way in which transformers writes them."""
  theta, rope = config_json.get('rope_theta', 1e4), config_json.get('rope_scaling')
  local = config_json.get('rope_local_base_freq') if kind == 'gemma3_text' else None
  parameters = config_json.get('rope_parameters')
  if isinstance(parameters, Mapping):
    rope = parameters
    if isinstance(parameters.get('sliding_attention'), Mapping):
      rope, windowed = parameters.get('full_attention') or {}, parameters['sliding_attention']
      local = windowed.get('rope_theta', local)
      _scaling(windowed, path, ('default',))
    theta = rope.get('rope_theta', theta)
  scaling = _scaling(rope if isinstance(rope, Mapping) else {}, path, ROPES)
  options.check(theta, options.Theta, f'{path}: rope_theta')
  return {'theta': float(theta), 'scaling': scaling} | ({'local_theta': float(local)} if local else {})


def _scaling(rope, path, kinds):
  name = rope.get('rope_type', rope.get('type', 'default'))
  if name not in kinds:
    raise unknown(f'rope_type in {path}', str(name), kinds)
  if rope.get('partial_rotary_factor', 1.0) != 1:
    raise KdjaxError(f'{path} has partial_rotary_factor {rope["partial_rotary_factor"]!r}; llama has 1 only.')
  keys = {'default': (), 'linear': ('factor',), 'llama3': LLAMA3}[name]
  return tuple(float(options.check(rope.get(k), options.Positive, f'{path}: {k}')) for k in keys)
