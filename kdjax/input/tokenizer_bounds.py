"""Bounds for a tokenizer.json from anybody: how much longer it may make a text."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kdjax.errors import KdjaxError

PARTS = 256  # normalizers, splits and special tokens in a row; the library gives up slow patterns
GROWTH = 1000  # factor by which a text may grow
PREPENDED = 1000  # characters


def check(tokenizer: Any) -> None:
  """Raises KdjaxError for a tokenizer of too many parts, or one that makes texts too much longer."""
  parts = tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.post_processor
  nodes = [node for part in parts if part is not None for node in _dicts(json.loads(part.__getstate__()))]
  growth, prepended, longest = 1.0, 0, len(nodes)
  for node in nodes:
    if node.get('type') == 'Replace':
      pattern = node['pattern'].get('String')  # one of a 'Regex' may match nothing, between all characters
      growth *= max(len(node['content']) / len(pattern), 1) if pattern else len(node['content']) + 1
    prepended += len(node.get('prepend') or '')
    longest = max(longest, len(node.get('ids') or ()))
  if longest > PARTS or growth > GROWTH or prepended > PREPENDED:
    raise KdjaxError(
      f'it has {longest} parts, makes texts {growth:.3g} times as long and puts {prepended} characters '
      f'before them; {PARTS}, {GROWTH} and {PREPENDED} are the most.'
    )


def _dicts(tree) -> Iterator[Mapping]:
  """Every dict within lists and dicts; the library bounds the depth."""
  if isinstance(tree, Mapping):
    yield tree
  for value in tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list) else ():
    yield from _dicts(value)
