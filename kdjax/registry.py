"""Lookup by name: a name in a config is the name of a module."""

import functools
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn

import kdjax
from kdjax.errors import KdjaxError, unknown
from kdjax.options import check as option_check
from kdjax.options import parameters
from kdjax.runtime import trust
from kdjax.types import DataSet, GeneratorLoss, Method, Task

KINDS = {'methods': 'method', 'models': 'model', 'tasks': 'task', 'data': 'data set'}
KINDS |= {'generators': 'generator scheme', 'pretrained': 'converter'}

MAKES = {'methods': Method, 'tasks': Task, 'data': DataSet, 'generators': GeneratorLoss}

# The folder of a kind, where it is not the kind's name.
FOLDERS = {'data': 'datasets', 'generators': 'training.schemes.generators'}


class PythonObject(NamedTuple):
  """A model, a data set or outputs that a program gives, instead of the name of a module.

  Attributes:
    value: the object.
    variables: of a model that has weights, else None.
  """

  value: Any
  variables: Any = None


OBJECTS: dict[str, PythonObject] = {}  # by name, for this process


def add_object(label: str, digest: str, value: Any, variables: Any = None) -> str:
  """Makes a Python object known, and returns its name in a config, such as '<MyNet 1a2b3c4d>'.

  Args:
    label: what people call it.
    digest: of all that decides its results; it makes a workdir refuse another object.
    value: the object.
    variables: the weights of a model, where it has some.
  """
  name = f'<{label} {digest}>'
  OBJECTS[name] = PythonObject(value, variables)
  return name


def is_object(name: Any) -> bool:
  """Whether `name` is that of a Python object."""
  return isinstance(name, str) and name.startswith('<') and name.endswith('>')


def python_object(name: str) -> PythonObject:
  """The object of a name.

  Raises:
    KdjaxError: if this process has not been given it.
  """
  if name not in OBJECTS:
    raise KdjaxError(
      f'{name} is a Python object that this process does not have: run the program that gave it to kdjax.'
    )
  return OBJECTS[name]


@functools.cache
def names(kind: str) -> dict[str, str]:
  """Name -> module of everything of a kind, sorted by module."""
  package = importlib.import_module(f'{kdjax.__name__}.{FOLDERS.get(kind, kind)}')
  packages = pkgutil.walk_packages(package.__path__, f'{package.__name__}.')
  modules = sorted(m.name for m in packages if not m.ispkg)
  return {module.rpartition('.')[2]: module for module in modules}


def module(kind: str, name: str) -> ModuleType:
  """The module called `name`; a dotted name is a user's own, `package.module` or `module.Class`, see `trust`.

  Raises:
    KdjaxError: if there is none, or it is a user's module that is not trusted.
  """
  known = names(kind)
  if not isinstance(name, str):
    raise KdjaxError(f'a {KINDS[kind]} is named by a text, and not by a {type(name).__name__}.')
  if name not in known:
    if not trust.dotted(name):
      raise unknown(KINDS[kind], name, known)
    trust.check(name, KINDS[kind])
  try:
    return importlib.import_module(known.get(name, name))
  except ModuleNotFoundError as e:
    parent = name.rpartition('.')[0]
    own = sys.modules.get(parent) if name not in known and e.name == name else None
    if own is not None and not hasattr(own, '__path__'):  # 'module.Class'; a package has no such module
      return own
    raise KdjaxError(
      f'the {KINDS[kind]} {name!r} needs the module {e.name!r}, which is not installed.'
    ) from e


def _fits(kind: str, value: Any, where: ModuleType) -> bool:
  """Whether a value is an entry of the kind, and defined in the module, not imported into it."""
  defined = f'{getattr(value, "__module__", "")}.'.startswith(f'{where.__name__}.')
  if kind == 'models':
    nnx = sys.modules.get('flax.nnx')  # a second to import, and imported by who defines such a module
    bases = (nn.Module, nnx.Module) if nnx else nn.Module
    return defined and isinstance(value, type) and issubclass(value, bases)
  return defined and inspect.isfunction(value)


def entry(kind: str, name: str) -> Callable:
  """What makes an entry: the function or class with the name of its module, case and underscores aside."""
  if is_object(name):
    return _constant(python_object(name).value)
  source = module(kind, name)
  bare = name.rpartition('.')[2]
  for key in (bare, *vars(source)):
    value = vars(source).get(key)
    if (
      key.replace('_', '').lower() == bare.replace('_', '').lower()
      and callable(value)
      and _fits(kind, value, source)
    ):
      return _made_by(value) if kind == 'models' else value
  expected = 'Linen or NNX module' if kind == 'models' else 'function'
  raise KdjaxError(f'{source.__name__} defines no {expected} called {bare!r}, which a {KINDS[kind]} takes.')


def _constant(value: Any) -> Callable:
  """A function without parameters that returns `value`."""

  def constant():
    return value

  return constant


@functools.cache
def _made_by(value: Any) -> Callable:
  """What makes a model of attributes: a Linen module itself; of an NNX module, all parameters but `rngs`."""
  if isinstance(value, type) and issubclass(value, nn.Module):
    return value

  def make(**attributes):
    return functools.partial(value, **attributes)

  known = inspect.signature(value.__init__).parameters
  parameters_ = [p for k, p in known.items() if k not in ('self', 'rngs')]
  vars(make)['__signature__'] = inspect.Signature(parameters_)
  make.__annotations__ = {p.name: p.annotation for p in parameters_ if p.annotation is not p.empty}
  return make


def options(kind: str, name: str) -> dict[str, Any]:
  """Option -> default, `inspect.Parameter.empty` where there is none."""
  return {p.name: p.default for p in parameters(entry(kind, name)).values()}


def check(kind: str, name: str, values: Mapping[str, Any], where: str = '') -> dict[str, Any]:
  """The options of a config, each checked against the annotation of its parameter.

  Args:
    kind: of `KINDS`.
    name: of the entry.
    values: option -> value.
    where: the prefix of an option in messages: 'methods.kd'.

  Raises:
    KdjaxError: for an option that the entry does not have, or one of another type or out of range.
  """
  known = parameters(entry(kind, name))
  for key in values:
    if key not in known:
      raise unknown(f'option of the {KINDS[kind]} {name!r}', str(key), known)
  where = where or f'the {KINDS[kind]} {name!r}: '
  dot = '' if where.endswith(' ') else '.'
  return {k: option_check(v, known[k].annotation, f'{where}{dot}{k}') for k, v in values.items()}


def make(kind: str, name: str, values: Mapping[str, Any], where: str = '') -> Any:
  """Calls the entry with the options of a config; the arguments are those of `check`.

  Raises:
    KdjaxError: as `check` does, and for a missing option.
  """
  values = check(kind, name, values, where)
  for key, default in options(kind, name).items():
    if default is inspect.Parameter.empty and key not in values:
      raise KdjaxError(f'the {KINDS[kind]} {name!r} needs the option {key!r}.')
  built = entry(kind, name)(**values)
  if kind in MAKES and not isinstance(built, MAKES[kind]):
    raise KdjaxError(
      f'the {KINDS[kind]} {name!r} returns a {type(built).__name__}, and no {MAKES[kind].__name__}.'
    )
  return built


class Entry(NamedTuple):
  name: str
  family: str
  taps: str  # of the student, by default; empty except for methods
  line: str  # the first line of the module's docstring


def listing(kind: str) -> list[Entry]:
  """Everything of a kind, by family and name."""
  rows, depth = [], 1 + len(FOLDERS.get(kind, kind).split('.'))
  for name, path in names(kind).items():
    taps = options(kind, name).get('student', ()) if kind == 'methods' else ()
    shown = ', '.join([taps] if isinstance(taps, str) else map(str, taps))
    line = (module(kind, name).__doc__ or '').strip().split('\n')[0]
    rows.append(Entry(name, '/'.join(path.split('.')[depth:-1]), shown, line))
  return rows


def markdown(kind: str) -> str:
  """The listing as a table."""
  lines = ['| name | family | taps | what it is |', '|---|---|---|---|']
  lines += [f'| `{e.name}` | {e.family} | {e.taps} | {e.line} |' for e in listing(kind)]
  return '\n'.join(lines) + '\n'
