"""BERT, RoBERTa, ELECTRA and DistilBERT checkpoints in the names of transformers, to models.text.bert."""

import re
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
ROBERTA = ('roberta', 'xlm-roberta', 'camembert')  # of one architecture, with a vocabulary each
KINDS = ('bert', 'distilbert', *ROBERTA, 'electra')
PREFIX = re.compile('^(bert|distilbert|roberta|electra)\\.')
# Layer before a classifier -> the pools that it is; which of them is said by the kind of model.
POOLS = {'pooler.dense': ('tanh',), 'pre_classifier': ('relu',), 'classifier.dense': ('tanh', 'gelu')}
CLASSIFIERS = {
  'BertForSequenceClassification': 'tanh',
  'DistilBertForSequenceClassification': 'relu',
  'RobertaForSequenceClassification': 'tanh',
  'XLMRobertaForSequenceClassification': 'tanh',
  'CamembertForSequenceClassification': 'tanh',
  'ElectraForSequenceClassification': 'gelu',
}
# Of their classes in transformers, where a config.json leaves them out.
DEFAULTS: dict[str, dict[str, Any]] = {
  'roberta': {'vocab_size': 50265, 'hidden_size': 768, 'num_hidden_layers': 12, 'num_attention_heads': 12}
  | {'intermediate_size': 3072, 'layer_norm_eps': 1e-12},
  'electra': {'vocab_size': 30522, 'hidden_size': 256, 'num_hidden_layers': 12, 'num_attention_heads': 4}
  | {'intermediate_size': 1024, 'embedding_size': 128},
}
PLAIN = {'position_embedding_type': 'absolute', 'is_decoder': False, 'add_cross_attention': False}
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
  r'pooler\.dense|pre_classifier|classifier\.dense': 'pooler',
  r'classifier(?:\.out_proj)?': 'head/linear',
  'embeddings_project': 'project',
  r'dense(\d+)\.linear': r'dense\1',
} | {LAYER + rf'attention\.{k[0]}_lin': rf'block<\1>/attention/{k}' for k in ('query', 'key', 'value')}
WHOLE = {
  r'embeddings\.word_embeddings\.weight': 'params/words/embedding',
  r'embeddings\.position_embeddings\.weight': 'params/positions/embedding',
  r'embeddings\.token_type_embeddings\.weight': 'params/types/embedding',
}
HEADS = r'embeddings\.(position_ids|token_type_ids)|cls\..*|qa_outputs\..*|lm_head\..*'
HEADS += r'|(discriminator|generator)_predictions\..*|generator_lm_head\..*'
HEADS += r'|vocab_(transform|layer_norm|projector)\..*'


def convert(tensors: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Flat variables of `models.text.bert`; the layers after its blocks only where the model has them."""
  unread = [HEADS]
  dense = attributes['pool'] in ('tanh', 'relu', 'gelu')
  unread += [] if dense else [r'(pooler|pre_classifier|classifier)\.dense\..*|pre_classifier\..*']
  unread += [] if attributes['num_classes'] else [r'classifier(\.out_proj)?\.(weight|bias)']
  unread += [] if attributes['dense'] else [r'dense\d+\..*']
  return rename(_bare(tensors), MODULES, WHOLE, '|'.join(unread))


def _bare(tensors):
  return {PREFIX.sub('', name): x for name, x in tensors.items()}


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
  architectures = hf_config.heads(config_json)
  classifier = {'classifier.weight', 'classifier.out_proj.weight'} & tensors.keys()
  if architectures and classifier and not any(name in CLASSIFIERS for name in architectures):
    raise unknown('architecture with a classifier of texts', architectures[0], CLASSIFIERS)
  names = _bare(tensors)
  for layer, pools in POOLS.items():
    if f'{layer}.weight' in names and classifier and attributes['pool'] not in pools:
      raise KdjaxError(
        f"the checkpoint's classifier reads {layer}, and the pool of the model is {attributes['pool']!r}: "
        f'set its pool to {pools[0]!r}.'
      )


def beside(folder: Path) -> dict[str, Path]:
  """Prefix -> further files whose tensors belong to the model of a folder."""
  return sentence.weights(folder)


def config(config_json: Mapping[str, Any], folder: Path) -> dict[str, Any]:
  """The module's attributes in a config.json, and the layers that a sentence encoder's folder adds.

  Raises:
    KdjaxError: for another kind of model.
  """
  kind = hf_config.kind(config_json, 'bert', KINDS, 'bert')
  hf_config.plain(config_json, PLAIN, 'bert')
  given = {k: x for k, x in config_json.items() if x is not None}
  config_json = DEFAULTS.get('roberta' if kind in ROBERTA else kind, {}) | given
  attributes = hf_config.attributes(config_json, DISTIL if kind == 'distilbert' else NAMES)
  if kind == 'distilbert':
    attributes |= {'types': 0, 'eps': 1e-12}
  if kind in ROBERTA:
    key = f'{folder / "config.json"}: pad_token_id'
    attributes['offset'] = options.check(config_json.get('pad_token_id', 1), options.NoOrSize, key) + 1
  if kind == 'electra':
    embedding = config_json['embedding_size']
    attributes |= {'embedding': embedding} if embedding != config_json['hidden_size'] else {}
  pools = [CLASSIFIERS[name] for name in hf_config.heads(config_json) if name in CLASSIFIERS]
  return attributes | ({'pool': pools[0]} if pools else {}) | sentence.attributes(folder)
