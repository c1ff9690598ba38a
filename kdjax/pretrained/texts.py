"""Text preprocessing of a published checkpoint: tokenizer, padding, case, length, against those in use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers

from kdjax.errors import KdjaxError
from kdjax.input import tokenizer as tokenizers
from kdjax.pretrained import sentence
from kdjax.pretrained.find import CONFIGS, Files, companion, files, read_json

WHOLE = ('siglip_text',)  # models that were trained on texts padded to all their positions
CLIP = 'openai/clip-vit-base-patch32'  # whose tokenizer open_clip has in its code
PROBE = 'The CAT sat, 12 mats & an Élan!'  # shows lower-casing, accents, punctuation and special tokens
VOCABULARIES = ('vocab.txt', 'vocab.json')  # of slow tokenizers: a token a line, or token -> id
GEMMAS = ('Gemma', 'Siglip2')  # tokenizers of SigLIP 2, which was trained on lower case
BERTS = ('Bert', 'DistilBert')  # whose tokenizers in transformers overrule the case of tokenizer.json


def load(path: Path) -> Tokenizer:
  """A tokenizer.json with the padding and the case from the files beside it.

  Raises:
    KdjaxError: if one of them cannot be read.
  """
  tokenizer, folder = tokenizers.load(path), path.parent
  settings = companion(folder, 'tokenizer_config.json')
  tokenizer = _with_case(tokenizer, settings, folder)
  pad_tokens = (x.get('pad_token') for x in (settings, companion(folder, 'special_tokens_map.json')))
  pad_token = next((t.get('content') if isinstance(t, dict) else t for t in pad_tokens if t), None)
  pad_id = tokenizer.token_to_id(pad_token) if isinstance(pad_token, str) else None
  if pad_id is None and not tokenizer.padding:
    config = companion(folder, 'config.json')
    pad_id = (config.get('text_config') or config).get('pad_token_id')
  if isinstance(pad_id, int) and tokenizer.id_to_token(pad_id) is not None:
    tokenizer.enable_padding(pad_id=pad_id, pad_token=tokenizer.id_to_token(pad_id))
  return tokenizer


def named(paths: Files) -> str:
  """The repository that an open_clip checkpoint's tokenizer is in; '' for other checkpoints."""
  text = _open_clip(read_json(paths.config) if paths.config else {})
  return '' if text is None else str(text.get('hf_tokenizer_name') or CLIP)


def _open_clip(config):
  """The text tower in an open_clip_config.json, None in another file."""
  model = config.get('model_cfg')
  text = model.get('text_cfg') if isinstance(model, Mapping) else None
  return text if isinstance(text, Mapping) else None


def _sentence(folder):
  """Text settings of a sentence encoder: max_seq_length, do_lower_case."""
  return companion(folder, 'sentence_bert_config.json') or companion(
    sentence.root(folder) or folder, 'sentence_bert_config.json'
  )


def _lower(folder, kind):
  """What is done to a text before its tokenizer: said by the files beside it, or in its library's code."""
  model_type = companion(folder, CONFIGS[0]).get('model_type')
  steps = (_open_clip(companion(folder, CONFIGS[1])) or {}).get('tokenizer_kwargs')
  if model_type is None and isinstance(steps, Mapping) and steps.get('clean') == 'canonicalize':
    marks = normalizers.Replace(Regex(r'[!-/:-@\[-^`{-~]'), '')  # all of ASCII but _, which becomes a space
    space, spaces = normalizers.Replace('_', ' '), normalizers.Replace(Regex(r'\s+'), ' ')
    return [space, marks, normalizers.Lowercase(), spaces, normalizers.Strip()]
  lower = _sentence(folder).get('do_lower_case') is True
  lower |= kind.startswith(GEMMAS) and model_type in ('siglip', 'siglip2')
  return [normalizers.Lowercase()] if lower else []


def _with_case(tokenizer, settings, folder):
  lower, kind = settings.get('do_lower_case'), str(settings.get('tokenizer_class', ''))
  state = json.loads(tokenizer.to_str())
  config = state['normalizer'] or {}
  berts = [n for n in (config, *config.get('normalizers', ())) if n.get('type') == 'BertNormalizer']
  if kind.startswith(BERTS) and isinstance(lower, bool) and any(n['lowercase'] != lower for n in berts):
    for normalizer in berts:
      normalizer['lowercase'] = lower
    tokenizer = Tokenizer.from_str(json.dumps(state))
  if steps := _lower(folder, kind):
    existing = [tokenizer.normalizer] if tokenizer.normalizer else []
    tokenizer.normalizer = normalizers.Sequence([*steps, *existing])
  return tokenizer


def _vocabulary(paths: Files) -> tuple[Path, dict[str, int]] | None:
  """The file and the token -> id of a checkpoint, None where it has none."""
  folder = paths.weights[0].parent
  if paths.tokenizer:
    return paths.tokenizer, tokenizers.load(paths.tokenizer).get_vocab()
  for path in (folder / name for name in VOCABULARIES):
    if path.is_file() and path.suffix == '.json':
      return path, companion(folder, path.name)
    if path.is_file():
      lines = path.read_text(encoding='utf-8', errors='replace').rstrip('\n').split('\n')
      return path, {line.rstrip('\r'): i for i, line in enumerate(lines)}
  return None


def check(init: str, model: Mapping[str, Any], tokenizer: Tokenizer, chosen: str, where: str) -> None:
  """Checks that a tokenizer gives the ids that a checkpoint's model was trained on.

  Args:
    init: as `pretrained.load` has it.
    model: its config, complete.
    tokenizer: the one in use, cut to the length of the data's texts.
    chosen: `data.tokenizer`, '' where the vocabulary was built from the data.
    where: key of the model, for messages.

  Raises:
    KdjaxError: if it has another vocabulary, case, padding or length, with the setting that fits.
  """
  part = next((p for p in (model, *model.values()) if isinstance(p, Mapping) and 'vocab_size' in p), None)
  if part is None:
    return
  paths, tokens, rows = files(init), tokenizers.size(tokenizer), part['vocab_size']
  vocab = _vocabulary(paths)
  hint = f'set data.tokenizer to {vocab[0] if vocab else "the tokenizer.json that it was trained with"}'
  if rows < tokens:
    raise KdjaxError(f"{where}: the data's tokenizer has {tokens:,} tokens and {init} {rows:,}: {hint}.")
  if vocab and vocab[1] != tokenizer.get_vocab():
    raise KdjaxError(
      f"{where}: {init} was trained with another vocabulary than the data's ({len(vocab[1]):,} and "
      f'{tokens:,} tokens): {hint}.'
    )
  if vocab is None and paths.config and rows != tokens and not chosen:
    raise KdjaxError(f"{where}: the data's tokenizer has {tokens:,} tokens and {init} {rows:,}: {hint}.")
  length, positions = tokenizers.max_length(tokenizer), part.get('positions')
  if part['model'] in WHOLE and length != positions:
    raise KdjaxError(
      f'{where}: {init} reads texts of {positions} tokens, padding and all, and data.text_length is '
      f'{length}: set it to {positions}.'
    )
  max_length = _sentence(paths.weights[0].parent).get('max_seq_length')
  if isinstance(max_length, int) and length > max_length:
    raise KdjaxError(
      f'{where}: {init} reads {max_length} tokens of a text, and data.text_length is {length}: set it to '
      f'{max_length}.'
    )
  if paths.tokenizer:
    _check_encoding(init, load(paths.tokenizer), tokenizer, part['model'] in WHOLE, where, hint)


def _check_encoding(init, theirs, tokenizer, padded, where, hint):
  ours = Tokenizer.from_str(tokenizer.to_str())
  for t in (theirs, ours):
    t.no_truncation()
  pads = [t.padding['pad_id'] if t.padding else None for t in (theirs, ours)]
  if padded and pads[0] != pads[1]:
    names = [repr(theirs.id_to_token(p)) if p is not None else 'nothing' for p in pads]
    raise KdjaxError(
      f'{where}: {init} pads texts with {names[0]}, and the tokenizer with {names[1]}: {hint}.'
    )
  for t in (theirs, ours):
    t.no_padding()
  if theirs.encode(PROBE).ids != ours.encode(PROBE).ids:
    raise KdjaxError(
      f"{where}: {init} tokenizes texts otherwise than the data's tokenizer (lower case, accents or special "
      f'tokens): {hint}.'
    )


def describe(paths: Files) -> str:
  """Case, padding and longest text of a checkpoint, in words; '' without a tokenizer."""
  if paths.tokenizer is None:
    return ''
  tokenizer = load(paths.tokenizer)
  lower = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str('A') == 'a'
  pad = f', padded with {tokenizer.padding["pad_token"]!r}' if tokenizer.padding else ''
  folder = paths.weights[0].parent
  max_length = _sentence(folder).get('max_seq_length')
  config = companion(sentence.root(folder) or folder, 'config_sentence_transformers.json')
  if prompt := (config.get('prompts') or {}).get(config.get('default_prompt_name')):
    pad += f', after {prompt!r}, which the texts of the data have to begin with'
  return f'texts {"in lower case" if lower else "as they are"}{pad}' + (
    f', up to {max_length} tokens' if max_length else ''
  )
