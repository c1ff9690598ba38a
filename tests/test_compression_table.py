"""The runner of the table of Deep Compression: it measures every cell that its table asks for."""

import jax
import numpy as np
import pytest

from kdjax.compress import file
from kdjax.experiment import load
from kdjax.experiment.experiment import Experiment
from kdjax.input import splits
from kdjax.paper_tables import compression
from kdjax.paper_tables.table import load as load_table
from kdjax.paper_tables.units import key
from kdjax.recipes import model
from kdjax.types import DataSet

NET = 'LeNet-300-100'


@pytest.fixture
def experiment(tmp_path):
  """An experiment on noise, with networks of a few units and a teacher that nobody trained."""
  table = load_table('deep_compression', 'smoke')
  config = table.experiments[f'{NET} seed 0'].to_dict()
  config['teacher']['model'], config['student']['model'] = (
    model('mlp', hidden=(7,)),
    model('mlp', hidden=(6, 5)),
  )
  out, rng = Experiment(config, tmp_path), np.random.default_rng(0)
  arrays = {'image': rng.integers(0, 255, (32, 28, 28, 1), np.uint8), 'id': np.arange(32, dtype=np.int32)}
  held = splits.InMemorySplit(arrays | {'label': rng.integers(0, 10, 32).astype(np.int32)})
  dataset = DataSet({'train': [0]}, tuple('0123456789'), 'made up')
  out.__dict__['data'] = load.Data(dataset, None, None, held, held, held, held, held)
  batch = held.take([0])
  out.__dict__['one_teacher'] = lambda i: out.model('teacher').init(jax.random.key(1), batch)
  return table, out


@pytest.mark.whole
def test_every_cell_is_measured_and_the_file_is_what_was_trained(experiment, tmp_path):
  table, exp = experiment
  layers = {k: compression.Layer(0.3, 3) for k in ('hidden1/kernel', 'hidden2/kernel', 'head/linear/kernel')}
  adam = {'name': 'adam', 'lr': 1e-2}
  how = dict(rounds=1, epochs=dict.fromkeys(('dense', 'round', 'last', 'share'), 1), batch_size=16)
  optimisers = dict.fromkeys(('dense', 'prune', 'share'), adam)
  recipe = compression.Recipe(layers, model('mlp', hidden=(2,)), optimisers=optimisers, **how)
  assert recipe.all_epochs == 3
  measured = compression.run(recipe, exp)
  for (panel, *_), cell in table.cells().items():
    if panel.startswith(NET):
      (value,) = measured[key(cell.member, cell.stage)][table.measure(cell)]
      assert np.isfinite(value)
      if cell.stage == 'student' and table.measure(cell) == 'error':
        assert np.isfinite(measured[key(cell.member, 'baseline')]['error']).all()
  weights = file.read(tmp_path / 'coded.kdz')[0]['params']
  for path in layers:
    w = weights
    for part in path.split('/'):
      w = w[part]
    assert np.count_nonzero(w) == round(0.3 * w.size) and len(np.unique(w)) <= 8
  sizes = measured['coded/student']
  assert sizes['kB'][0] * 1000 == (tmp_path / 'coded.kdz').stat().st_size
