"""Who may import whom: `docs/architecture.md` draws the floors, and a room imports from those below it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'kdjax').rglob('*.py'))
SHORT = 320  # lines of a file


def floors() -> list[tuple[str, ...]]:
  """The rooms of each floor, the lowest first, as the drawing has them: `| room  room | what is there`."""
  text = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
  drawing = re.search(r'```\n(.*?)```', text, re.DOTALL)[1]
  rows = [line.split('|')[1] for line in drawing.splitlines() if line.startswith('|')]
  return [tuple(re.findall(r'[a-z_]+', row)) for row in reversed(rows)]


FLOORS = floors()
HEIGHT = {room: i for i, floor in enumerate(FLOORS) for room in floor}


def room(path: Path) -> str:
  """The first folder below kdjax/, or the file that lies there."""
  return path.relative_to(ROOT / 'kdjax').parts[0].removesuffix('.py')


def imported(path: Path):
  """Full names of all that a file imports."""
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path} imports relative to itself'
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_the_drawing_has_every_room_once():
  drawn = [name for floor in FLOORS for name in floor]
  assert len(drawn) == len(set(drawn))
  assert set(drawn) == {room(path) for path in FILES} - {'__init__'}


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_floors(path):
  own, parts = room(path), path.relative_to(ROOT / 'kdjax').parts
  if own == '__init__':
    return
  for name in imported(path):
    alone = own in ('recipes', 'cli')
    assert alone or not name.startswith('ml_collections'), f'{path} imports ml_collections'
    if not name.startswith('kdjax.') or name == 'kdjax.__version__':
      continue
    other = name.split('.')[1]
    if other == own and own in ('methods', 'tasks', 'datasets'):
      assert parts[-1] == '__init__.py', f'{"/".join(parts)} imports its sibling {name}'
    assert other == own or HEIGHT[other] < HEIGHT[own], (
      f'{"/".join(parts)} imports {name}, which is not below it'
    )


def test_no_circle_of_files():
  names = {'.'.join(p.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): p for p in FILES}
  below = {}
  for name, path in names.items():
    result = set()
    for full in imported(path):
      module = full if full in names else full.rpartition('.')[0]
      result |= {module} & names.keys() - {name}
    below[name] = result
  done, way = set(), []

  def visit(name):
    assert name not in way, f'a circle: {" -> ".join([*way[way.index(name) :], name])}'
    if name not in done:
      way.append(name)
      for other in sorted(below[name]):
        visit(other)
      done.add(way.pop())

  for name in sorted(below):
    visit(name)


def test_what_is_found_has_a_name_of_its_own():
  for kind in ('methods', 'models', 'tasks', 'datasets'):
    names = [p.stem for p in (ROOT / 'kdjax' / kind).rglob('*.py') if p.stem != '__init__']
    assert len(names) == len(set(names)), kind


def test_files_are_short():
  long = {p.name: n for p in FILES if (n := len(p.read_text(encoding='utf-8').splitlines())) > SHORT}
  assert not long


def test_the_step_fits_on_one_screen():
  tree = ast.parse((ROOT / 'kdjax' / 'training' / 'step.py').read_text(encoding='utf-8'))
  update = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == 'update')
  assert update.end_lineno - update.lineno < 45


def test_predict_does_without_what_takes_a_second_to_import():
  code = 'import sys, kdjax.experiment.predict_files, kdjax.tasks.classification; print(*sys.modules)'
  run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT)
  heavy = {
    'flax.nnx',
    'grain',
    'orbax.checkpoint',
    'tensorflow_datasets',
    'scipy.special',
    'scipy.io',
    'matplotlib',
  }
  assert not heavy & set(run.stdout.split())
