"""BERT, MiniLM and DistilBERT checkpoints in the names of Hugging Face transformers, to models.text.bert."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import unknown
from kdjax.pretrained.rename import rename

NAMES = {
  'vocab_size': 'vocab_size',
  'width': 'hidden_size',
  'depth': 'num_hidden_layers',
  'heads': 'num_attention_heads',
  'mlp': 'intermediate_size',
  'positions': 'max_position_embeddings',
  'types': 'type_vocab_size',
  'act': 'hidden_act',
  'eps': 'layer_norm_eps',
}
DISTIL = {
  'vocab_size': 'vocab_size',
  'width': 'dim',
  'depth': 'n_layers',
  'heads': 'n_heads',
  'mlp': 'hidden_dim',
  'positions': 'max_position_embeddings',
  'act': 'activation',
}
KINDS = ('bert', 'distilbert')
LAYER = r'(?:encoder|transformer)\.layer\.(\d+)\.'
MODULES = {
  r'embeddings\.LayerNorm': 'norm',
  LAYER + r'attention\.self\.(query|key|value)': r'block<\1>/attention/\2',
  LAYER + r'attention\.output\.dense': r'block<\1>/attention/out',
  LAYER + r'attention\.output\.LayerNorm': r'block<\1>/norm1',
  LAYER + r'intermediate\.dense': r'block<\1>/mlp_in',
  LAYER + r'output\.dense': r'block<\1>/mlp_out',
  LAYER + r'output\.LayerNorm': r'block<\1>/norm2',
  LAYER + r'attention\.out_lin': r'block<\1>/attention/out',
  LAYER + r'sa_layer_norm': r'block<\1>/norm1',
  LAYER + r'ffn\.lin1': r'block<\1>/mlp_in',
  LAYER + r'ffn\.lin2': r'block<\1>/mlp_out',
  LAYER + r'output_layer_norm': r'block<\1>/norm2',
  r'pooler\.dense|pre_classifier': 'pooler',
  'classifier': 'head/linear',
} | {LAYER + rf'attention\.{k[0]}_lin': rf'block<\1>/attention/{k}' for k in ('query', 'key', 'value')}
WHOLE = {
  r'embeddings\.word_embeddings\.weight': 'params/words/embedding',
  r'embeddings\.position_embeddings\.weight': 'params/positions/embedding',
  r'embeddings\.token_type_embeddings\.weight': 'params/types/embedding',
}
HEADS = r'embeddings\.position_ids|cls\..*|vocab_(transform|layer_norm|projector)\..*'  # of pretraining


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.text.bert`; the pooler and the classifier only where the model has them."""
  unread = [HEADS]
  if attributes['pool'] not in ('tanh', 'relu'):
    unread.append(r'(pooler|pre_classifier)\..*')
  if not attributes['num_classes']:
    unread.append(r'classifier\..*')
  bare = {re.sub(r'^(bert|distilbert)\.', '', name): x for name, x in tensors.items()}
  return rename(bare, MODULES, WHOLE, '|'.join(unread))


def config(given: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes that a config.json says, and the pooling of a sentence encoder's folder.

  Raises:
    KdjaxError: for another kind of model.
  """
  kind = given.get('model_type', 'bert')
  if kind not in KINDS:
    raise unknown('model_type for the model bert', kind, KINDS)
  if given.get('position_embedding_type', 'absolute') != 'absolute':
    raise unknown('position_embedding_type', given['position_embedding_type'], ('absolute',))
  names = DISTIL if kind == 'distilbert' else NAMES
  found = {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
  if kind == 'distilbert':
    found |= {'types': 0, 'eps': 1e-12}
  return found | _sentence(folder)


def _sentence(folder):
  """What sentence-transformers keeps beside a model: how it pools, and whether it normalises."""
  modules = folder / 'modules.json'
  if not modules.is_file():
    return {}
  parts = {m['type'].rpartition('.')[2]: m['path'] for m in json.loads(modules.read_text(encoding='utf-8'))}
  found = {'normalise': 'Normalize' in parts}
  pooling = folder / parts.get('Pooling', '') / 'config.json'
  if 'Pooling' in parts and pooling.is_file():
    pools = json.loads(pooling.read_text(encoding='utf-8'))
    found['pool'] = 'first' if pools.get('pooling_mode_cls_token') else 'mean'
  return found
