"""Which modules may be imported: those of kdjax, and those that the user names for this run.

A dotted name is imported only if the user wrote it, in the recipe, on the command line, or in `--trust`; not
if a workdir, a store or a checkpoint alone names it.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError
from kdjax.runtime.progress import say

DEEP = 64  # levels of a config
TRUSTED: set[str] = set()  # modules that the user named


def dotted(name: Any) -> bool:
  """Whether `name` is a dotted path, of a module outside kdjax."""
  return isinstance(name, str) and '.' in name and all(part.isidentifier() for part in name.split('.'))


def named(config: Any) -> set[str]:
  """The modules of a user that a config names, as a model, method, task, data set or generator scheme.

  Raises:
    KdjaxError: if it is nested too deeply to be one.
  """
  return {name for name in _names(config) if dotted(name)}


def _names(config) -> Iterator[Any]:
  pending = [('', config, 0)]
  while pending:
    key, value, depth = pending.pop()
    if depth > DEEP:
      raise KdjaxError(f'a config has more than {DEEP} dicts within each other.')
    if key in ('model', 'method', 'scheme'):
      yield value
    if isinstance(value, Mapping):
      if key in ('task', 'data'):
        yield value.get('name')
      if key == 'methods':
        yield from value
      pending += [(k, v, depth + 1) for k, v in value.items()]
    elif isinstance(value, list | tuple):
      pending += [('', v, depth + 1) for v in value]


def trust(names: Iterable[str]) -> None:
  """Allows these modules to be imported from now on; for names that the user wrote."""
  TRUSTED.update(names)


def check(name: str, kind: str) -> None:
  """Raises KdjaxError unless `name` is trusted."""
  if name not in TRUSTED:
    raise KdjaxError(
      f'the {kind} {name!r} is no part of kdjax, and nobody who runs this has named it: its code is not run.'
    )


def source(name: str) -> Path | None:
  """The file of a module, or of the module of a class, without importing it; None where there is none."""
  search_path, parts = None, name.split('.')
  for i in range(len(parts)):
    path = '.'.join(parts[: i + 1])
    finders = (finder for finder in sys.meta_path if hasattr(finder, 'find_spec'))
    spec = next((s for finder in finders if (s := finder.find_spec(path, search_path))), None)
    search_path = spec and spec.submodule_search_locations
    if spec is not None and search_path is None and i == len(parts) - 2:
      break  # 'module.Class'
    if spec is None or (i < len(parts) - 1 and search_path is None):
      return None
  return Path(spec.origin) if spec.has_location and spec.origin else None


def digest(name: str) -> str:
  """SHA-256 of the source of a module, of all its files if it is a package; '' where there is none."""
  path = source(name)
  if path is None:
    return ''
  files = sorted(path.parent.rglob('*.py')) if path.name == '__init__.py' else [path]
  sha = hashlib.sha256()
  for file in files:
    sha.update(f'{file.relative_to(path.parent)}\n'.encode() + file.read_bytes())
  return sha.hexdigest()


def digests(config: Any) -> dict[str, str]:
  """Module -> `digest` of the modules that a config names, to be recorded with a training."""
  return {name: digest(name) for name in sorted(named(config))}


def ask(config: Any, kept: Any, trusted: Iterable[str], where: Path) -> None:
  """Trusts the modules that a config of a file names, if the user names them too.

  Args:
    config: of the file.
    kept: its recorded `digests`; may be absent.
    trusted: the modules of `--trust`.
    where: the file, for the message.

  Raises:
    KdjaxError: for a module that is not trusted; it says if its source has changed since.
  """
  modules, kept = named(config), kept if isinstance(kept, Mapping) else {}
  changed = {name for name in modules if name in kept and kept[name] != digest(name)}
  descriptions = {name: f'{name} (its source differs from the recorded one)' for name in changed}
  if missing := sorted(modules - set(trusted)):
    raise KdjaxError(
      f'{where} names code that is no part of kdjax, {", ".join(descriptions.get(n, n) for n in missing)}: '
      f'to have it run, if you trust it, add {" ".join(f"--trust={name}" for name in missing)}.'
    )
  for name in sorted(changed):
    say(f'{where} names {descriptions[name]}.')
  trust(modules)
