"""Types and ranges of options: values are checked against the annotations of parameters."""

import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, get_type_hints

from annotated_types import Interval, Len
from pydantic import ConfigDict, TypeAdapter, ValidationError

from kdjax.errors import KdjaxError, unknown

# Whole numbers fit 32 bits; real ones leave float32 room for a sum over a batch.
Whole = Annotated[int, Interval(ge=0, le=2**31 - 1)]
Count = Annotated[int, Interval(ge=1, le=2**31 - 1)]
Size = Annotated[int, Interval(ge=1, le=2**20)]  # of an axis of an array
Number = Annotated[float, Interval(ge=-1e6, le=1e6)]
NonNegative = Annotated[float, Interval(ge=0, le=1e6)]
Positive = Annotated[float, Interval(ge=1e-6, le=1e6)]
Weight = Annotated[float, Interval(ge=0, le=1e9)]
Share = Annotated[float, Interval(ge=0, le=1)]
SomeShare = Annotated[float, Interval(gt=0, le=1)]
Rate = Annotated[float, Interval(ge=0, lt=1)]  # of dropout: something is left
Decay = Annotated[float, Interval(ge=0, le=0.999999)]  # of an average: above, float32 has 1
Power = Annotated[int, Interval(ge=1, le=20)]
Order = Annotated[int, Interval(ge=0, le=20)]  # the last power of a series
Multiplier = Annotated[float, Interval(gt=0, le=100)]
Theta = Annotated[float, Interval(ge=1, le=1e9)]  # of rotary positions
Temperature = Annotated[float, Interval(ge=1e-3, le=1e4)]
Eps = Annotated[float, Interval(ge=1e-30, le=1)]
NoOrSize = Annotated[int, Interval(ge=0, le=2**20)]  # 0 for none
Sizes = Annotated[tuple[Size, ...], Len(1)]
Vocabulary = Annotated[int, Interval(ge=1, le=2**24)]
Depth = Annotated[int, Interval(ge=1, le=1000)]  # in blocks
Blocks = Annotated[tuple[Annotated[int, Interval(ge=0, le=1000)], ...], Len(1)]  # of each stage
Steps = Annotated[int, Interval(ge=1, le=1000)]  # that are unrolled into one
Means = Annotated[tuple[Number, ...], Len(1)]  # of the channels
Scales = Annotated[tuple[Annotated[float, Interval(ge=1e-4, le=1e4)], ...], Len(1)]  # of the channels
Name = Annotated[str, Len(1, 200)]
Tap = Name
Taps = Annotated[tuple[Tap, ...], Len(1)]
Stages = Tap | Taps  # one tap, or one of each stage

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
SHOWN = reprlib.Repr()
SHOWN.maxstring = SHOWN.maxother = 80


def tuples(value: Any) -> Any:
  """The value, its lists as tuples."""
  if type(value) is dict:
    return {k: tuples(v) for k, v in value.items()}
  return tuple(map(tuples, value)) if type(value) in (list, tuple) else value


@functools.cache
def adapter(annotation: Any) -> TypeAdapter:
  return TypeAdapter(annotation, config=STRICT)


def check(value: Any, annotation: Any, key: str) -> Any:
  """The value, its lists as tuples.

  Args:
    value: an int is accepted for a float; a bool and a str are no numbers, and a number is finite.
    annotation: a type, with ranges by `Annotated` and choices by `Literal`; `inspect.Parameter.empty` allows
      everything.
    key: of the value, for the message.

  Raises:
    KdjaxError: with the key, the value and what it has to be.
  """
  if annotation is inspect.Parameter.empty:
    return value
  value = tuples(value)
  try:
    adapter(annotation).validate_python(value)
  except ValidationError as e:
    schema, (*above, last) = adapter(annotation).json_schema(), e.errors()[0]['loc'] or [None]
    for name in (*above, last) if last != '[key]' else ():  # the entry of a dict that is wrong
      if isinstance(value, dict) and name in value and isinstance(schema.get('additionalProperties'), dict):
        value, schema, key = value[name], schema['additionalProperties'], f'{key}.{name}'
    choices = _choices(schema)
    if isinstance(value, str) and choices:
      raise unknown(key, value, choices) from e
    raise KdjaxError(f'{key} is {shown(value)}; it has to be {_words(schema)}.') from e
  return value


def shown(value: Any) -> str:
  """The value in one short line."""
  try:
    return ' '.join(SHOWN.repr(value).split())
  except ValueError:  # a number of too many digits
    return f'a {type(value).__name__} that is too long to show'


@functools.cache
def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """The options of a function, or of a Linen module, with its annotations resolved."""
  try:
    hints = get_type_hints(function, include_extras=True)
  except (NameError, AttributeError, TypeError):  # a user's module, with names that cannot be resolved
    hints = {}
  parameters_ = inspect.signature(function).parameters.values()
  return {
    p.name: p.replace(annotation=hints.get(p.name, p.annotation))
    for p in parameters_
    if p.name not in ('parent', 'name') and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
  }


def check_all(function: Callable, values: Mapping[str, Any], where: str, only: Iterable[str] = ()) -> dict:
  """The options for a function, each checked against its annotation.

  Args:
    function: with these parameters.
    values: option -> value.
    where: the prefix of the option in a message: 'methods.kd'.
    only: the parameters that are options; () for all.

  Raises:
    KdjaxError: for an unknown option, or one of another type or out of range.
  """
  known = parameters(function)
  names = tuple(only) or tuple(known)
  for key in values:
    if key not in names:
      raise unknown(f'option in {where}', str(key), names)
  return {k: check(v, known[k].annotation, f'{where}.{k}') for k, v in values.items()}


def describe(annotation: Any) -> str:
  """The values that an annotation allows, in words."""
  if annotation is inspect.Parameter.empty or annotation is Any:
    return 'anything'
  return _words(adapter(annotation).json_schema())


def _choices(schema: Mapping) -> list[str]:
  """The allowed strings, [] where other values are allowed too."""
  if 'anyOf' in schema:
    each = [_choices(s) for s in schema['anyOf']]
    return sum(each, []) if all(each) else []
  choices = schema.get('enum', [])
  return choices if all(isinstance(c, str) for c in choices) else []


def _words(schema: Mapping) -> str:
  if 'anyOf' in schema:
    return ' or '.join(_words(s) for s in schema['anyOf'])
  if 'title' in schema and 'type' not in schema:
    return schema['title']
  if 'enum' in schema or 'const' in schema:
    return ' or '.join(map(repr, schema.get('enum', [schema.get('const')])))
  kind = schema.get('type', '')
  if kind in ('number', 'integer'):
    ranged = {'minimum', 'exclusiveMinimum'} & schema.keys()
    return ('a number' if kind == 'number' else 'a whole number') + (_range(schema) if ranged else '')
  if kind == 'array':
    if 'prefixItems' in schema:
      return f'a list of {", ".join(_words(s) for s in schema["prefixItems"])}'
    lists = 'a list, not empty,' if schema.get('minItems') else 'a list'
    return f'{lists} of {plural(_words(schema.get("items", {})))}'
  if kind == 'object':
    inner = schema.get('additionalProperties')
    return f'a dict of {plural(_words(inner))}' if isinstance(inner, Mapping) else 'a dict'
  return {'string': 'a string', 'boolean': 'True or False', 'null': 'None'}.get(kind, 'anything')


def plural(words: str) -> str:
  """'a number from 0 to 1' -> 'numbers from 0 to 1'."""
  for singular in ('a number', 'a whole number', 'a string', 'a dict'):
    several = f'{singular.removeprefix("a ")}s'
    words = several + words.removeprefix(singular) if words.startswith(singular) else words
  return words


def _range(schema: Mapping) -> str:
  low, above = schema.get('minimum'), schema.get('exclusiveMinimum')
  high, below = schema.get('maximum'), schema.get('exclusiveMaximum')
  if low == high and low is not None:
    return f' that is {low:g}'
  most = _number(high) if below is None else f'below {_number(below)}'
  if low is not None:
    return f' from {_number(low)} to {most}'
  return f' above {_number(above)} and {"up to " if below is None else ""}{most}'


def _number(x: Any) -> str:
  return f'{x:,}' if isinstance(x, int) else f'{x:g}'
