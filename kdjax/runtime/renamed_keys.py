"""Renamed keys and values of a config, for workdirs and recipes of earlier versions."""

from collections.abc import Mapping
from typing import Any

# Path of a key -> its new name, and path -> value -> new value; in a member of a cohort too.
RENAMED: dict[tuple[str, ...], str] = {
  ('senses',): 'modality_robustness',
  ('run', 'together'): 'members_per_program',
  ('run', 'tensorboard'): 'track',
}
RENAMED_VALUES: dict[tuple[str, ...], dict[str | bool, str]] = {
  ('teacher', 'source'): {'past': 'previous_epoch'},
  ('run', 'tensorboard'): {True: 'tensorboard', False: ''},
}


def renamed(config: Any, path: tuple[str, ...] = ()) -> Any:
  """`config` with the new names of its keys and values."""
  if not isinstance(config, Mapping):
    new = RENAMED_VALUES.get(path, {})
    return new.get(config, config) if isinstance(config, str | bool) else config
  if path == ('cohort',):
    return {name: renamed(member) for name, member in config.items()}
  return {RENAMED.get((*path, k), k): renamed(v, (*path, k)) for k, v in config.items()}
