"""What converters read in a config.json of transformers: the kind of model, attributes, what is refused."""

from collections.abc import Iterable, Mapping
from typing import Any

from kdjax.errors import KdjaxError, unknown

OPEN_CLIP = 'open_clip'  # the kind of an open_clip_config.json


class OtherKind(KdjaxError):
  """A checkpoint of another kind than a converter reads."""


def name(config_json: Mapping[str, Any]) -> Any:
  """The architecture of timm or the model_type of transformers that it names, 'open_clip', or None."""
  named = config_json.get('architecture') or config_json.get('model_type')
  return OPEN_CLIP if named is None and 'model_cfg' in config_json else named


def kind(config_json: Mapping[str, Any], model: str, kinds: Iterable[str], default: str = '') -> str:
  """The model_type, or 'open_clip'.

  Args:
    config_json: of the checkpoint.
    model: ours.
    kinds: those that it reads.
    default: for a config.json without one, '' to refuse it.

  Raises:
    OtherKind: for another one, and for a config.json of timm, which has an architecture.
  """
  found = config_json.get('model_type')
  if found is None and isinstance(config_json.get('architecture'), str):
    raise OtherKind(unknown(f'architecture for the model {model}', config_json['architecture'], kinds))
  found = (name(config_json) or default) if found is None else found
  if not isinstance(found, str) or found not in kinds:
    raise OtherKind(unknown(f'model_type for the model {model}', str(found), kinds))
  return found


def attributes(config_json: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
  """Our name -> value, of the `names` (ours -> theirs) that a config.json has and that are not null."""
  return {ours: config_json[theirs] for ours, theirs in names.items() if config_json.get(theirs) is not None}


def plain(
  config_json: Mapping[str, Any], values: Mapping[str, Any], model: str, file: str = 'config.json'
) -> None:
  """Raises KdjaxError for a key that differs from the only value that a model has; null is for that value."""
  for key, value in values.items():
    found = config_json.get(key)
    if found is not None and found != value:
      raise KdjaxError(f'{file} has {key} {found!r}; the model {model} has {value!r} only.')


def heads(config_json: Mapping[str, Any]) -> tuple[str, ...]:
  """The classes of transformers that a checkpoint was saved from, as its `architectures` has them."""
  names = config_json.get('architectures')
  return tuple(n for n in names if isinstance(n, str)) if isinstance(names, list) else ()
