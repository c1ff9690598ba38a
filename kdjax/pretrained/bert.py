"""BERT, MiniLM and DistilBERT checkpoints in the names of Hugging Face transformers, to models.text.bert."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import sentence
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
POOLS = {'tanh': 'pooler.dense', 'relu': 'pre_classifier'}  # pool that a classifier reads -> its layer
CLASSIFIERS = {'BertForSequenceClassification': 'tanh', 'DistilBertForSequenceClassification': 'relu'}
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
  r'dense(\d+)\.linear': r'dense\1',
} | {LAYER + rf'attention\.{k[0]}_lin': rf'block<\1>/attention/{k}' for k in ('query', 'key', 'value')}
WHOLE = {
  r'embeddings\.word_embeddings\.weight': 'params/words/embedding',
  r'embeddings\.position_embeddings\.weight': 'params/positions/embedding',
  r'embeddings\.token_type_embeddings\.weight': 'params/types/embedding',
}
HEADS = r'embeddings\.position_ids|cls\..*|qa_outputs\..*|vocab_(transform|layer_norm|projector)\..*'


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.text.bert`; the layers after its blocks only where the model has them."""
  unread = [HEADS]
  unread += [] if attributes['pool'] in POOLS else [r'(pooler|pre_classifier)\..*']
  unread += [] if attributes['num_classes'] else [r'classifier\..*']
  unread += [] if attributes['dense'] else [r'dense\d+\..*']
  return rename(_bare(tensors), MODULES, WHOLE, '|'.join(unread))


def _bare(tensors):
  return {re.sub(r'^(bert|distilbert)\.', '', name): x for name, x in tensors.items()}


def check_head(
  config_json: Mapping[str, Any], tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
) -> None:
  """Checks that the model has the pool that the checkpoint's classifier was trained on.

  Args:
    config_json: of the checkpoint.
    tensors: of the checkpoint.
    attributes: of the model, which has a classifier.

  Raises:
    KdjaxError: if it has not, or the classifier is not one of whole texts.
  """
  architectures = config_json.get('architectures') or []
  if (
    architectures
    and 'classifier.weight' in tensors
    and not any(name in CLASSIFIERS for name in architectures)
  ):
    raise unknown('architecture with a classifier of texts', str(architectures[0]), CLASSIFIERS)
  names = _bare(tensors)
  for pool, layer in POOLS.items():
    if f'{layer}.weight' in names and 'classifier.weight' in names and attributes['pool'] != pool:
      raise KdjaxError(
        f"the checkpoint's classifier reads {layer}, and the pool of the model is {attributes['pool']!r}: "
        f'set its pool to {pool!r}.'
      )


def beside(folder: Path) -> dict[str, Path]:
  """Prefix -> further files whose tensors belong to the model of a folder."""
  return sentence.weights(folder)


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json, and the layers that a sentence encoder's folder adds.

  Raises:
    KdjaxError: for another kind of model.
  """
  kind = config_json.get('model_type', 'bert')
  if kind not in KINDS:
    raise unknown('model_type for the model bert', kind, KINDS)
  if config_json.get('position_embedding_type', 'absolute') != 'absolute':
    raise unknown('position_embedding_type', config_json['position_embedding_type'], ('absolute',))
  names = DISTIL if kind == 'distilbert' else NAMES
  attributes = {ours: config_json[theirs] for ours, theirs in names.items() if theirs in config_json}
  if kind == 'distilbert':
    attributes |= {'types': 0, 'eps': 1e-12}
  pools = [CLASSIFIERS[name] for name in config_json.get('architectures') or () if name in CLASSIFIERS]
  return attributes | ({'pool': pools[0]} if pools else {}) | sentence.attributes(folder)
