"""Overrides of a recipe's keys on the command line: --config.KEY=VALUE."""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from kdjax import options, settings
from kdjax.errors import KdjaxError, unknown
from kdjax.runtime.renamed_keys import RENAMED, RENAMED_VALUES

FLAG = re.compile(r'--?(no)?config\.([^=]+)(?:=(.*))?', re.DOTALL)
# Under these prefixes new keys may be added, and None deletes one.
OPEN = re.compile(
  r'(methods|cohort|task|generator|data\.options|(teacher|student)\.(model|inputs|drop|train\.optimiser))\..+'
)
BOOLS = {'true': True, 't': True, '1': True, 'false': False, 'f': False, '0': False}


def split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
  """(the other arguments, (key, text) of each that sets a key of the recipe).

  The forms are those of absl: --config.KEY=TEXT, --config.KEY TEXT, and --config.KEY or --noconfig.KEY for a
  key that is True or False.
  """
  remaining, overrides, kinds, waiting = [], [], _kinds(), list(argv)
  while waiting:
    arg = waiting.pop(0)
    match = FLAG.fullmatch(arg)
    if not match:
      remaining.append(arg)
      continue
    no, key, text = match.groups()
    if text is None:
      switch = no or kinds.get(key) is bool or not waiting or waiting[0].startswith('--')
      text = str(not no) if switch else waiting.pop(0)
    overrides.append((key, text))
  return remaining, overrides


def _kinds() -> dict[str, Any]:
  """Key -> its type, without ranges: bool, int, float, str, tuple, Mapping or Literal, of words."""
  kinds = {}
  for key, annotation in [*settings.leaves(), *settings.leaves(settings.Optimiser)]:
    while hasattr(annotation, '__metadata__'):
      annotation = annotation.__origin__
    kinds[key] = get_origin(annotation) or annotation
    if kinds[key] is Literal and all(isinstance(choice, int) for choice in get_args(annotation)):
      kinds[key] = int
  return kinds


def value(text: str, kind: Any) -> Any:
  """Parses the value of a key of this type; the text itself where it cannot be parsed."""
  if kind in (str, Literal):
    return text
  if kind is bool:
    return BOOLS.get(text.lower(), text)
  try:
    parsed = ast.literal_eval(text.strip())
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    parsed = text
  if kind is tuple and isinstance(parsed, str):
    return tuple(parsed.split(',')) if parsed else ()
  if kind is tuple and not isinstance(parsed, list | tuple):
    return (parsed,)
  if kind is float and type(parsed) is int and abs(parsed) < 2**53:
    return float(parsed)
  return parsed


def apply(config: Any, overrides: Sequence[tuple[str, str]]) -> None:
  """Sets keys of a recipe, a ConfigDict without locks, or a dict.

  Raises:
    KdjaxError: for a key that there is not, or a value of another type or out of range.
  """
  annotations, kinds = dict(settings.leaves()), _kinds()
  for path, text in overrides:
    flag = f'--config.{path}={text}'
    path, text = _renamed(path, text)
    may_grow = OPEN.fullmatch(path)
    tree, (*above, last) = config, keys_of(config, path)
    for key in above:
      if key not in tree and may_grow:
        tree[key] = {}
      tree = _below(tree, key, flag)
    if not hasattr(tree, 'keys') or last not in tree and not (may_grow and text != 'None'):
      _below(tree, last, flag)
    if may_grow and text == 'None':  # deletes a loss or an attribute
      del tree[last]
      continue
    parsed = value(text, kinds.get(path))
    if path in annotations:
      parsed = options.check(parsed, annotations[path], f'--config.{path}')
    try:
      tree[last] = parsed
    except (TypeError, ValueError, AttributeError) as e:
      raise KdjaxError(f'{flag}: {" ".join(str(e).split())}') from e


def _below(tree, key, flag):
  if not (isinstance(tree, Mapping) or hasattr(tree, 'keys')) or key not in tree:
    raise unknown(f'key of the recipe in {flag[:200]}', key, getattr(tree, 'keys', list)())
  return tree[key]


def _renamed(path, text):
  """The key and value of an override that has the names of an earlier version."""
  keys = tuple(path.split('.'))
  if keys not in RENAMED:
    return path, text
  values = {str(old): new for old, new in RENAMED_VALUES.get(keys, {}).items()}
  old = str(BOOLS[text.lower()]) if text.lower() in BOOLS else text
  return '.'.join((*keys[:-1], RENAMED[keys])), values.get(old, text)


def keys_of(tree, path):
  """The keys of a path such as 'methods.kd.weight'; an existing key may have dots itself."""
  parts, keys = path.split('.'), []
  while parts:
    known = getattr(tree, 'keys', list)()
    n = next((n for n in range(len(parts), 0, -1) if '.'.join(parts[:n]) in known), 1)
    keys.append('.'.join(parts[:n]))
    tree, parts = tree[keys[-1]] if keys[-1] in known else {}, parts[n:]
  return keys
