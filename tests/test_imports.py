"""Who may import whom: the lower layer knows nothing of the higher."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
  {'errors', 'types', 'winograd', 'huge_pages', 'files', 'early_exit'},
  {
    'losses',
    'taps',
    'layers',
    'conv',
    'adapters',
    'dot',
    'progress',
    'tokenizer',
    'tokenizer_bounds',
    'augment',
    'audio',
    'options',
    'finite',
    'settings',
    'renamed_keys',
    'redraw',
    'overrides',
    'catalogue',
    'loss_entry',
    'streams',
    'significance',
    'interrupt',
    'memory',
    'dispatch',
    'narrow',
    'senses',
    'files',
    'trust',
    'cohort',
    'config_tree',
    'described',
    'plain_pickle',
    'array_pickle',
    'sound',
    'images',
    'notices',
    'content',
    'table_file',
    'class_labels',
    'groups',
    'members',
    'rand_augment',
    'views',
  },
  {
    'sources',
    'prepared',
    'checkpoint',
    'optim',
    'parallel',
    'workdir_lock',
    'step',
    'cost',
    'report',
    'decoded',
    'pipeline',
    'encode',
    'ranking',
    'data_free',
    'generate',
    'on_policy',
    'written',
  },
  {'evaluate', 'log'},
  {'methods', 'models', 'tasks', 'data', 'generators', 'pretrained'},
  {'inherit'},
  {'start'},
  {'build'},
  {'experiment', 'setup'},
  {'compiled_step'},
  {'loop'},
  {'train', 'compare', 'predict', 'validate', 'explain', 'workdir'},
  {'store', 'data_checks'},
  {'checks'},
  {'stages'},
  {'tables'},
)
HEIGHT = {name: i for i, layer in enumerate(LAYERS) for name in layer}
FILES = sorted((ROOT / 'kdjax').rglob('*.py'))


def imported(path):
  """Full names of all that a file imports."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers(path):
  own = path.relative_to(ROOT / 'kdjax').parts
  part = own[0].removesuffix('.py')
  if part == '__init__':
    return
  assert part in HEIGHT, f'give {part} a place in the layers'
  for name in imported(path):
    assert not name.startswith('ml_collections') or part == 'build', f'{part} imports ml_collections'
    if not name.startswith('kdjax.') or name == 'kdjax.__name__':
      continue
    other = name.split('.')[1]
    if other == part and part in ('methods', 'tasks', 'data'):
      assert own[-1] == '__init__.py', f'{"/".join(own)} imports its sibling {name}'
    if other != part:
      assert HEIGHT[other] < HEIGHT[part] or {other, part} <= LAYERS[1] | LAYERS[2], f'{part} imports {name}'


def test_what_is_found_has_a_name_of_its_own():
  for kind in ('methods', 'models', 'tasks', 'data'):
    names = [p.stem for p in (ROOT / 'kdjax' / kind).rglob('*.py') if p.stem != '__init__']
    assert len(names) == len(set(names)), kind


def test_files_are_short():
  long = {p.name: n for p in FILES if (n := len(p.read_text().splitlines())) > 320}
  assert not long


def test_the_step_fits_on_one_screen():
  tree = ast.parse((ROOT / 'kdjax' / 'step.py').read_text())
  update = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == 'update')
  assert update.end_lineno - update.lineno < 45
