"""Whose code may be called: kdjax's own, and the modules that a person names for this run.

A name with dots is imported only if it was typed: it stands in the recipe, on the command line, or in
`--trust`. What a workdir, a store or a checkpoint names is of kdjax.
"""

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError
from kdjax.runtime.progress import say

DEEP = 64  # dicts within each other that a config may have
TRUSTED: set[str] = set()  # what was typed


def dotted(name: Any) -> bool:
  """Whether `name` is the path of a module that is no part of kdjax."""
  return isinstance(name, str) and '.' in name and all(part.isidentifier() for part in name.split('.'))


def named(config: Any) -> set[str]:
  """The modules of a user that a config names, as a model, method, task, data set or generator scheme.

  Raises:
    KdjaxError: if it is nested too deeply to be one.
  """
  return {name for name in _names(config) if dotted(name)}


def _names(config) -> Iterator[Any]:
  todo = [('', config, 0)]
  while todo:
    key, value, depth = todo.pop()
    if depth > DEEP:
      raise KdjaxError(f'a config has more than {DEEP} dicts within each other.')
    if key in ('model', 'method', 'scheme'):
      yield value
    if isinstance(value, Mapping):
      if key in ('task', 'data'):
        yield value.get('name')
      if key == 'methods':
        yield from value
      todo += [(k, v, depth + 1) for k, v in value.items()]
    elif isinstance(value, list | tuple):
      todo += [('', v, depth + 1) for v in value]


def trust(names: Iterable[str]) -> None:
  """Lets the modules of these names be imported from now on; for what a person has typed."""
  TRUSTED.update(names)


def check(name: str, kind: str) -> None:
  """Raises KdjaxError unless `name` was typed for this run."""
  if name not in TRUSTED:
    raise KdjaxError(
      f'the {kind} {name!r} is no part of kdjax, and nobody who runs this has named it: its code is not run.'
    )


def source(name: str) -> Path | None:
  """The file of a module, which is not imported, nor is what it lies in; None where there is none."""
  within, parts = None, name.split('.')
  for i in range(len(parts)):
    path = '.'.join(parts[: i + 1])
    finders = (finder for finder in sys.meta_path if hasattr(finder, 'find_spec'))
    spec = next((s for finder in finders if (s := finder.find_spec(path, within))), None)
    within = spec and spec.submodule_search_locations
    if spec is None or (i < len(parts) - 1 and within is None):
      return None
  return Path(spec.origin) if spec.has_location and spec.origin else None


def digest(name: str) -> str:
  """SHA-256 of the source of a module, of all its files if it is a package; '' where there is none."""
  path = source(name)
  if path is None:
    return ''
  files = sorted(path.parent.rglob('*.py')) if path.name == '__init__.py' else [path]
  digest_ = hashlib.sha256()
  for file in files:
    digest_.update(f'{file.relative_to(path.parent)}\n'.encode() + file.read_bytes())
  return digest_.hexdigest()


def digests(config: Any) -> dict[str, str]:
  """Module -> `digest` of those that a config names, to be kept beside what was trained with them."""
  return {name: digest(name) for name in sorted(named(config))}


def ask(config: Any, kept: Any, trusted: Iterable[str], where: Path) -> None:
  """Trusts the modules that a config of a file names, if a person names them too.

  Args:
    config: what was read.
    kept: its `digests`, from when it was written; may be absent.
    trusted: the modules of `--trust`.
    where: the file, for the message.

  Raises:
    KdjaxError: for a module that is not among the given; it says if its source is another now.
  """
  wanted, kept = named(config), kept if isinstance(kept, Mapping) else {}
  changed = {name for name in wanted if name in kept and kept[name] != digest(name)}
  shown = {name: f'{name} (its source differs from the recorded one)' for name in changed}
  if missing := sorted(wanted - set(trusted)):
    raise KdjaxError(
      f'{where} names code that is no part of kdjax, {", ".join(shown.get(n, n) for n in missing)}: '
      f'to have it run, if you trust it, add {" ".join(f"--trust={name}" for name in missing)}.'
    )
  for name in sorted(changed):
    say(f'{where} names {shown[name]}.')
  trust(wanted)
