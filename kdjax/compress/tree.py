"""Nested dicts of arrays by paths."""

from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict, unflatten_dict

Path = tuple[str, ...]


def flat(tree: Mapping) -> dict[Path, Any]:
  """Path -> array; an empty dict has none."""
  return flatten_dict(tree)


def nested(arrays: Mapping[Path, Any]) -> dict:
  """The inverse of `flat`."""
  return unflatten_dict(arrays)


def replaced(tree: Mapping, arrays: Mapping[Path, Any]) -> dict:
  """The tree with other arrays at some of its paths; an empty dict in it stays."""
  whole: dict = flatten_dict(tree, keep_empty_nodes=True)
  return unflatten_dict(whole | dict(arrays))
