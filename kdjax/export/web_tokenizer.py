"""Which tokenizers a page can run: those that text.js reads in the same way."""

import json
from collections.abc import Iterator

from tokenizers import Tokenizer

from kdjax.errors import KdjaxError
from kdjax.input import tokenizer as tokenizers

MODELS = 'WordLevel', 'WordPiece'
NORMALIZERS = 'NFC', 'NFD', 'NFKC', 'NFKD', 'Lowercase', 'StripAccents', 'BertNormalizer'
PRE_TOKENIZERS = 'BertPreTokenizer', 'Whitespace', 'WhitespaceSplit', 'Split'
POST_PROCESSORS = 'BertProcessing', 'TemplateProcessing'
SPLIT = {'Regex': rf'[{tokenizers.UNSPACED}]\p{{M}}*'}  # of `tokenizer.train`
FLAGS = 'single_word', 'lstrip', 'rstrip', 'normalized'


def check(tokenizer: Tokenizer | None) -> None:
  """Raises KdjaxError for a tokenizer that a page cannot run."""
  if tokenizer is None:
    raise KdjaxError('web: the model takes texts, and has no tokenizer for them.')
  about = json.loads(tokenizer.to_str())
  for key, known in (
    ('model', MODELS),
    ('normalizer', NORMALIZERS),
    ('pre_tokenizer', PRE_TOKENIZERS),
    ('post_processor', POST_PROCESSORS),
  ):
    for step in _steps(about[key]):
      split = step['type'] == 'Split'
      if step['type'] not in known or (
        split and (step['pattern'] != SPLIT or step['behavior'] != 'Isolated')
      ):
        raise KdjaxError(
          f"web: the tokenizer's {key} is {step['type']}; a page runs {', '.join(known)} alone: train with "
          'data.tokenizer of that kind, or with none.'
        )
  if not about['pre_tokenizer']:
    raise KdjaxError('web: the tokenizer has no pre_tokenizer; a page runs those that split at spaces.')
  for token in about['added_tokens']:
    if any(token[flag] for flag in FLAGS):
      raise KdjaxError(f'web: the added token {token["content"]!r} has flags that a page does not know.')


def _steps(part: dict | None) -> Iterator[dict]:
  """The steps of a part of a tokenizer, in order."""
  lists = 'normalizers', 'pretokenizers', 'processors'
  if part and part['type'] == 'Sequence':
    for step in next(part[k] for k in lists if k in part):
      yield from _steps(step)
  elif part:
    yield part
