"""ModernBERT checkpoints in the names of Hugging Face transformers, to models.text.modernbert."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax import options
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import hf_config, sentence
from kdjax.pretrained.rename import rename

NAMES = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'mlp': 'intermediate_size',
  'positions': 'max_position_embeddings',
  'act': 'hidden_activation',
  'eps': 'norm_eps',
}
PLAIN = {  # the only values that models.text.modernbert has
  'attention_bias': False,
  'mlp_bias': False,
  'norm_bias': False,
  'classifier_bias': False,
  'classifier_activation': 'gelu',
}
POOLS = {'cls': 'first_dense', 'mean': 'mean_dense'}  # of a classifier
LAYER = r'layers\.(\d+)\.'
MODULES = {
  r'embeddings\.norm': 'norm_in',
  LAYER + 'attn_norm': r'block<\1>/norm1',
  LAYER + 'mlp_norm': r'block<\1>/norm2',
  LAYER + r'attn\.(query|key|value)': r'block<\1>/\2',
  LAYER + r'attn\.Wo': r'block<\1>/out',
  LAYER + r'mlp\.gate': r'block<\1>/mlp_gate',
  LAYER + r'mlp\.in': r'block<\1>/mlp_in',
  LAYER + r'mlp\.Wo': r'block<\1>/mlp_out',
  'final_norm': 'norm',
  r'head\.dense': 'pooler',
  r'head\.norm': 'pooler_norm',
  'classifier': 'head/linear',
}
WHOLE = {r'embeddings\.tok_embeddings\.weight': 'params/words/embedding'}
FUSED = {
  '.attn.Wqkv.': ('.attn.query.', '.attn.key.', '.attn.value.'),
  '.mlp.Wi.': ('.mlp.gate.', '.mlp.in.'),
}


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.text.modernbert`, with the classifier where the model has one."""
  bare = {}
  for name, x in tensors.items():
    name = name.removeprefix('model.')
    fused = next((f for f in FUSED if f in name and not len(x) % len(FUSED[f])), None)
    parts = FUSED[fused] if fused else ()
    split = zip(parts, np.split(x, len(parts)) if parts else (), strict=True)
    bare |= {name.replace(fused, part): y for part, y in split} if fused else {name: x}
  unread = r'decoder\..*' + ('' if attributes['pool'].endswith('dense') else r'|head\..*')
  return rename(bare, MODULES, WHOLE, unread + ('' if attributes['num_classes'] else r'|classifier\..*'))


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model has the pool that the checkpoint's classifier was trained on.

  Raises:
    KdjaxError: if it has not, or the classifier is not one of whole texts.
  """
  if 'classifier.weight' not in tensors:
    return
  names = hf_config.heads(config_json)
  if names and 'ModernBertForSequenceClassification' not in names:
    raise unknown(
      'architecture with a classifier of texts', names[0], ('ModernBertForSequenceClassification',)
    )
  pool = POOLS.get(config_json.get('classifier_pooling') or 'cls')
  if attributes['pool'] != pool:
    raise KdjaxError(
      f"the checkpoint's classifier reads {pool!r}, and the pool of the model is {attributes['pool']!r}: "
      f'set its pool to {pool!r}.'
    )


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json, and how a sentence encoder's folder pools.

  Raises:
    KdjaxError: for another kind of model, and for what the module has not.
  """
  path = folder / 'config.json'
  hf_config.kind(config_json, 'modernbert', ('modernbert',))
  hf_config.plain(config_json, PLAIN, 'modernbert')
  attributes = hf_config.attributes(config_json, NAMES)
  width = options.check(config_json.get('local_attention', 128), options.Size, f'{path}: local_attention')
  attributes |= {'window': width // 2, 'full_every': _full_every(config_json, path)}
  attributes |= _thetas(config_json, path)
  if 'ModernBertForSequenceClassification' in hf_config.heads(config_json):
    pooling = config_json.get('classifier_pooling') or 'cls'
    if pooling not in POOLS:
      raise unknown(f'classifier_pooling in {path}', str(pooling), POOLS)
    attributes |= {'pool': POOLS[pooling]}
  return attributes | sentence.attributes(folder)


def _full_every(config_json, path):
  """The distance of the blocks that attend to all tokens, of which the first is one."""
  types = config_json.get('layer_types')
  if not isinstance(types, list):
    every = config_json.get('global_attn_every_n_layers', 3)
    return options.check(every, options.Size, f'{path}: global_attn_every_n_layers')
  full = [i for i, name in enumerate(types) if name == 'full_attention']
  every = full[1] if len(full) > 1 else len(types) + 1
  expected = ['sliding_attention' if i % every else 'full_attention' for i in range(len(types))]
  if types != expected:
    raise KdjaxError(
      f'{path} has layer_types in no order of one full_attention, and as many others after it.'
    )
  return every


def _thetas(config_json, path):
  """`theta` and `local_theta`, from either way in which transformers writes them."""
  whole = config_json.get('global_rope_theta', 160_000.0)
  thetas = {'theta': whole, 'local_theta': config_json.get('local_rope_theta', 10_000.0) or whole}
  parameters = config_json.get('rope_parameters')
  if isinstance(parameters, Mapping):
    for ours, theirs in (('theta', 'full_attention'), ('local_theta', 'sliding_attention')):
      rope = parameters.get(theirs) or {}
      if not isinstance(rope, Mapping) or rope.get('rope_type', 'default') != 'default':
        raise KdjaxError(f'{path} has rope_parameters {options.shown(rope)}; modernbert has no scaling.')
      thetas[ours] = rope.get('rope_theta', thetas[ours])
  elif config_json.get('rope_scaling'):
    raise KdjaxError(f'{path} has rope_scaling, and the model modernbert has none.')
  return {k: float(options.check(x, options.Theta, f'{path}: rope_theta')) for k, x in thetas.items()}
