"""Configs as plain nested dicts: flattened, and hashed."""

import json

from kdjax.runtime.files import fingerprint


def digest(config) -> str:
  """A short hash of plain dicts."""
  return fingerprint(json.dumps(config, sort_keys=True))[:8]


def flat(tree, prefix=''):
  """A nested dict as one of dotted keys."""
  if not isinstance(tree, dict) or not tree:
    return {prefix: tree}
  return {k: v for key, value in tree.items() for k, v in flat(value, f'{prefix}.{key}'.lstrip('.')).items()}
