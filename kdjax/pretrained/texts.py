"""How a published checkpoint reads texts: tokenizer, padding, case and length, against those in use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers

from kdjax import tokenizer as tokenizers
from kdjax.errors import KdjaxError
from kdjax.pretrained import sentence
from kdjax.pretrained.find import Files, companion, files

WHOLE = ('siglip_text',)  # models that were trained on texts padded to all their positions
PROBE = 'The CAT sat, 12 mats & an Élan!'  # shows lower-casing, accents, punctuation and what is put around
VOCABULARIES = ('vocab.txt', 'vocab.json')  # of slow tokenizers: a token a line, or token -> id
BERTS = ('Bert', 'DistilBert')  # whose tokenizers in transformers overrule the case of tokenizer.json


def load(path: Path) -> Tokenizer:
  """A tokenizer.json with the padding and the case that the files beside it say.

  Raises:
    KdjaxError: if one of them cannot be read.
  """
  words, folder = tokenizers.load(path), path.parent
  said = companion(folder, 'tokenizer_config.json')
  words = _cased(words, said, _sentence(folder))
  tokens = (x.get('pad_token') for x in (said, companion(folder, 'special_tokens_map.json')))
  token = next((t.get('content') if isinstance(t, dict) else t for t in tokens if t), None)
  number = words.token_to_id(token) if isinstance(token, str) else None
  if number is None and not words.padding:
    config = companion(folder, 'config.json')
    number = (config.get('text_config') or config).get('pad_token_id')
  if isinstance(number, int) and words.id_to_token(number) is not None:
    words.enable_padding(pad_id=number, pad_token=words.id_to_token(number))
  return words


def _sentence(folder):
  """What a sentence encoder says of its texts: max_seq_length, do_lower_case."""
  return companion(folder, 'sentence_bert_config.json') or companion(
    sentence.root(folder) or folder, 'sentence_bert_config.json'
  )


def _cased(words, said, encoder):
  lower, kind = said.get('do_lower_case'), str(said.get('tokenizer_class', ''))
  state = json.loads(words.to_str())
  own = state['normalizer'] or {}
  of_bert = [n for n in (own, *own.get('normalizers', ())) if n.get('type') == 'BertNormalizer']
  if kind.startswith(BERTS) and isinstance(lower, bool) and any(n['lowercase'] != lower for n in of_bert):
    for normalizer in of_bert:
      normalizer['lowercase'] = lower
    words = Tokenizer.from_str(json.dumps(state))
  if encoder.get('do_lower_case') is True:
    before = [words.normalizer] if words.normalizer else []
    words.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
  return words


def _vocabulary(found: Files) -> tuple[Path, dict[str, int]] | None:
  """The file and the token -> id of a checkpoint, None where it has none."""
  folder = found.weights[0].parent
  if found.tokenizer:
    return found.tokenizer, tokenizers.load(found.tokenizer).get_vocab()
  for path in (folder / name for name in VOCABULARIES):
    if path.is_file() and path.suffix == '.json':
      return path, companion(folder, path.name)
    if path.is_file():
      lines = path.read_text(encoding='utf-8', errors='replace').rstrip('\n').split('\n')
      return path, {line.rstrip('\r'): i for i, line in enumerate(lines)}
  return None


def check(init: str, model: Mapping[str, Any], words: Tokenizer, chosen: str, where: str) -> None:
  """That a checkpoint's model reads the ids of a tokenizer as those of its own.

  Args:
    init: as `pretrained.load` has it.
    model: its config, complete.
    words: the tokenizer in use, cut to the length of the data's texts.
    chosen: `data.tokenizer`, '' where the vocabulary was made from the data.
    where: key of the model, for messages.

  Raises:
    KdjaxError: if it has another vocabulary, case, padding or length; it says what to set.
  """
  part = next((p for p in (model, *model.values()) if isinstance(p, Mapping) and 'vocab_size' in p), None)
  if part is None:
    return
  found, tokens, rows = files(init), tokenizers.size(words), part['vocab_size']
  known = _vocabulary(found)
  own = f'set data.tokenizer to {known[0] if known else "the tokenizer.json that it was trained with"}'
  if rows < tokens:
    raise KdjaxError(f"{where}: the data's tokenizer has {tokens:,} tokens and {init} {rows:,}: {own}.")
  if known and known[1] != words.get_vocab():
    raise KdjaxError(
      f"{where}: {init} was trained with another vocabulary than the data's ({len(known[1]):,} and "
      f'{tokens:,} tokens): {own}.'
    )
  if known is None and found.config and rows != tokens and not chosen:
    raise KdjaxError(f"{where}: the data's tokenizer has {tokens:,} tokens and {init} {rows:,}: {own}.")
  length, positions = words.truncation['max_length'], part.get('positions')
  if part['model'] in WHOLE and length != positions:
    raise KdjaxError(
      f'{where}: {init} reads texts of {positions} tokens, padding and all, and data.text_length is '
      f'{length}: set it to {positions}.'
    )
  most = _sentence(found.weights[0].parent).get('max_seq_length')
  if isinstance(most, int) and length > most:
    raise KdjaxError(
      f'{where}: {init} reads {most} tokens of a text, and data.text_length is {length}: set it to {most}.'
    )
  if found.tokenizer:
    _check_reading(init, load(found.tokenizer), words, part['model'] in WHOLE, where, own)


def _check_reading(init, theirs, words, padded, where, own):
  mine = Tokenizer.from_str(words.to_str())
  for one in (theirs, mine):
    one.no_truncation()
  pads = [one.padding['pad_id'] if one.padding else None for one in (theirs, mine)]
  if padded and pads[0] != pads[1]:
    names = [repr(theirs.id_to_token(p)) if p is not None else 'nothing' for p in pads]
    raise KdjaxError(f'{where}: {init} pads texts with {names[0]}, and the tokenizer with {names[1]}: {own}.')
  for one in (theirs, mine):
    one.no_padding()
  if theirs.encode(PROBE).ids != mine.encode(PROBE).ids:
    raise KdjaxError(
      f"{where}: {init} reads texts in another way than the data's tokenizer (lower case, accents or what "
      f'is put around them): {own}.'
    )


def describe(found: Files) -> str:
  """Case, padding and longest text of a checkpoint, in words; '' without a tokenizer."""
  if found.tokenizer is None:
    return ''
  words = load(found.tokenizer)
  lower = words.normalizer is not None and words.normalizer.normalize_str('A') == 'a'
  pad = f', padded with {words.padding["pad_token"]!r}' if words.padding else ''
  folder = found.weights[0].parent
  most = _sentence(folder).get('max_seq_length')
  said = companion(sentence.root(folder) or folder, 'config_sentence_transformers.json')
  if prompt := (said.get('prompts') or {}).get(said.get('default_prompt_name')):
    pad += f', after {prompt!r}, which the texts of the data have to begin with'
  return f'texts {"in lower case" if lower else "as they are"}{pad}' + (
    f', up to {most} tokens' if most else ''
  )
