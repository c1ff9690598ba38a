"""Configs as plain nested dicts: flattened, and hashed."""

import json

from kdjax.runtime.files import check_local, fingerprint


def digest(config) -> str:
  """A short hash of plain dicts."""
  return fingerprint(json.dumps(config, sort_keys=True))[:8]


def flat(tree, prefix=''):
  """A nested dict as one of dotted keys."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  return {k: v for key, value in tree.items() for k, v in flat(value, f'{prefix}.{key}'.lstrip('.')).items()}


def check_paths(config) -> None:
  """Raises KdjaxError for a key, or an item of a list, that is a path in a bucket."""
  for key, value in flat(config).items():
    for text in value if isinstance(value, (list, tuple)) else [value]:
      if isinstance(text, str):
        check_local(text, key)
