"""What a tokenizer.json from anybody may do with a text: change it, and not make it many times as long."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdjax.errors import KdjaxError

PARTS = 256  # normalizers, splits and special tokens in a row; a slow pattern is given up by the library
GROWTH = 1000  # times as long as it was, of a text
PREPENDED = 1000  # characters


def check(tokenizer: Any) -> None:
  """Raises KdjaxError for a tokenizer that makes texts very much longer, or of very many parts."""
  parts = tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor
  nodes = [one for part in parts if part is not None for one in _dicts(json.loads(part.__getstate__()))]
  growth, prepended, longest = 1.0, 0, len(nodes)
  for one in nodes:
    if one.get('type') == 'Replace':
      pattern = one['pattern'].get('String')  # one of a 'Regex' may match nothing, between all characters
      growth *= max(len(one['content']) / len(pattern), 1) if pattern else len(one['content']) + 1
    prepended += len(one.get('prepend') or '')
    longest = max(longest, len(one.get('ids') or ()))
  if longest > PARTS or growth > GROWTH or prepended > PREPENDED:
    raise KdjaxError(
      f'it has {longest} parts, makes texts {growth:.3g} times as long and puts {prepended} characters '
      f'before them; {PARTS}, {GROWTH} and {PREPENDED} are the most.'
    )


def _dicts(tree) -> Iterator[Mapping]:
  """Every dict within lists and dicts; there are no more levels than the library reads."""
  if isinstance(tree, Mapping):
    yield tree
  for value in tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ():
    yield from _dicts(value)
