"""Explains a config: each key with its value, type, range and meaning."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdjax import options, registry, settings
from kdjax.errors import printable
from kdjax.runtime.config_tree import flat
from kdjax.runtime.program import program
from kdjax.training import optimizers, schedules

ENTRY = re.compile(r'  (\w+): (.*)')


class Row(NamedTuple):
  """One key.

  Attributes:
    key: dotted.
    value: in the config, or the default.
    changed: whether it differs from the default.
    what: its type and range.
    meaning: one line.
  """

  key: str
  value: Any
  changed: bool
  what: str
  meaning: str


def meanings(entry: Callable) -> dict[str, str]:
  """Option -> its line in the docstring, under 'Args:' or 'Attributes:'."""
  lines, by_name, last = (inspect.getdoc(entry) or '').splitlines(), {}, ''
  begin = next((i for i, line in enumerate(lines) if line in ('Args:', 'Attributes:')), len(lines))
  for line in lines[begin + 1 :]:
    if match := ENTRY.fullmatch(line):
      last, by_name[match[1]] = match[1], match[2]
    elif last and line.startswith('    '):
      by_name[last] += f' {line.strip()}'
    else:
      last = ''
  return by_name


def rows(config: Mapping) -> Iterator[Row]:
  """Every key of a valid recipe, in order, with the options of the modules that it names."""
  defaults = flat(dataclasses.asdict(settings.Recipe(config['name'])))
  for key, annotation in settings.leaves():
    value: Any = config
    for part in key.split('.'):
      value = value.get(part)
    changed, what = value != defaults.get(key, value), options.describe(annotation)
    row = Row(key, value, changed, what, settings.meaning(annotation))
    if key == 'methods':
      yield from methods(value, key)
    elif key == 'cohort' and value:
      for name, changes in value.items():
        yield from methods(changes.get('methods', {}), f'{key}.{name}.methods')
        other_changes = flat({k: v for k, v in changes.items() if k != 'methods'})
        yield from (Row(f'{key}.{name}.{k}', v, True, '', '') for k, v in other_changes.items() if k)
    elif key == 'task':
      yield row._replace(key='task.name', value=value['name'], changed=value['name'] != 'classification')
      yield from option_rows(registry.entry('tasks', value['name']), value, key)
    elif key.endswith('.model') and value:
      yield from model(value, key)
    elif key == 'data.options' and config['data']['name'] in registry.names('data'):
      yield from option_rows(registry.entry('data', config['data']['name']), value, key)
    elif key == 'generator' and value:
      yield Row('generator.scheme', value['scheme'], True, 'a string', f'see `{program()} generators`')
      yield from model(value['model'], 'generator.model')
      yield from optimiser(value['optimiser'], 'generator.optimiser', ())
      yield from option_rows(registry.entry('generators', value['scheme']), value, key)
    else:
      yield row
      if key.endswith('optimiser.clip'):  # the last of those that every optimiser has
        optimiser_config = config[key.split('.')[0]]['train']['optimiser']
        yield from optimiser(optimiser_config, key.removesuffix('.clip'), settings.fields(settings.Optimiser))


def methods(config: Mapping, where: str) -> Iterator[Row]:
  for name, entry in config.items():
    yield from method(f'{where}.{name}', name, entry)


def option_rows(entry: Callable, values: Mapping, where: str) -> Iterator[Row]:
  """The options of a function or a module, and of models within them."""
  lines = meanings(entry)
  for name, p in options.parameters(entry).items():
    empty = p.default is inspect.Parameter.empty
    value, what = values.get(name, None if empty else p.default), options.describe(p.annotation)
    if isinstance(value, Mapping) and 'model' in value:
      yield from model(value, f'{where}.{name}')
    elif isinstance(value, Mapping) and any(isinstance(v, Mapping) and 'model' in v for v in value.values()):
      for inner, v in value.items():
        yield from model(v, f'{where}.{name}.{inner}')
    else:
      changed = name in values and (empty or options.tuples(value) != p.default)
      yield Row(f'{where}.{name}', value, changed, what, lines.get(name, ''))


def model(config: Mapping, where: str) -> Iterator[Row]:
  entry = registry.entry('models', config['model'])
  yield Row(f'{where}.model', config['model'], True, 'a string', (entry.__doc__ or '').split('\n')[0])
  for key in ('init', 'frozen'):
    if key in config:
      yield Row(
        f'{where}.{key}',
        config[key],
        True,
        'a checkpoint, or True or False',
        'see kdjax/pretrained/initialize.py',
      )
  yield from option_rows(entry, config, where)


def method(where: str, name: str, config: Mapping) -> Iterator[Row]:
  name = config.get('method', name)
  module, entry = registry.module('methods', name), registry.entry('methods', name)
  weight = getattr(module, 'WEIGHT', None)
  explanation = options.describe(options.Weight), 'of the loss; the default is that of its paper'
  value = config.get('weight', weight)
  yield Row(f'{where}.weight', value, value != weight, *explanation)
  for schedule in (schedules.weight_schedule, entry):
    for row in option_rows(schedule, config, where):
      if not (schedule is schedules.weight_schedule and row.key.endswith('.steps')):
        yield row


def optimiser(config: Mapping, where: str, shown: Container[str]) -> Iterator[Row]:
  """The options of an optimizer, without those `shown` already."""
  for name, annotation in optimizers.known_options(config['name']).items():
    if name in config and name not in shown:
      what = options.describe(annotation)
      yield Row(f'{where}.{name}', config[name], True, what, settings.meaning(annotation))


def show(config: Mapping, console: Console) -> None:
  """Prints the rows, with a star where the value differs from the default."""
  if not console.is_terminal:
    for row in rows(config):
      comment = '; '.join(filter(None, (row.what, row.meaning)))
      console.out(
        f'{"*" if row.changed else " "} {row.key} = {options.shown(row.value)}  # {printable(comment)}',
        highlight=False,
      )
    return
  table = Table(box=None, padding=(0, 1))
  for title in ('', 'key', 'value', 'type', 'meaning'):
    table.add_column(title, overflow='fold')
  for row in rows(config):
    style = 'bold' if row.changed else ''
    cells = ('*' if row.changed else '', row.key, options.shown(row.value), row.what, row.meaning)
    table.add_row(*(Text(printable(cell), style=style) for cell in cells))
  console.print(table)
