"""The notebook runs from top to bottom in its smoke form."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.mark.whole
@pytest.mark.parametrize('path', sorted((ROOT / 'colab').glob('*.ipynb')), ids=lambda p: p.stem)
def test_it_runs(path, tmp_path, shared_folder, monkeypatch):
  monkeypatch.setenv('KDJAX_ARG', 'smoke=1')
  monkeypatch.setenv('KDJAX_WORKDIR', str(tmp_path))
  monkeypatch.setenv('KDJAX_DATA_DIR', str(shared_folder / 'tfds'))
  monkeypatch.setenv('XLA_FLAGS', '')
  notebook = nbformat.read(path, as_version=4)
  NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(ROOT / 'colab')}}).execute()
  shown = [o for cell in notebook.cells for o in cell.get('outputs', [])]
  kinds = {kind for o in shown for kind in o.get('data', {})}
  assert {'image/png', 'image/svg+xml', 'text/html'} <= kinds
  assert any(' -> ' in o.get('text', '') for o in shown)
  assert all(not cell.get('outputs') for cell in nbformat.read(path, as_version=4).cells), 'clear the outputs'
