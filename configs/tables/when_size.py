"""When does distillation help? The gain over the baseline against the size of the student.

  python run.py table configs/tables/when_size.py --data_dir=~/tensorflow_datasets

All widths of the student times a factor. Expect docs/tables/when_size.md.
"""

from ml_collections import ConfigDict

from .when import study

FACTORS = (0.5, 1, 2, 4)


def wider(model, factor):
  """Multiplies the widths of a model and of those within it, in place; heads of attention keep theirs."""
  for key, value in model.items():
    if key == 'width':
      model[key] = max(int(value * factor), 4)
    elif key == 'widths':
      model[key] = tuple(max(int(w * factor), 4) for w in value)
    elif isinstance(value, ConfigDict):
      wider(value, factor)


def times(factor):
  return lambda config: wider(config.student.model, factor)


def get_table(scale):
  values = {f'{factor:g} × as wide': times(factor) for factor in FACTORS}
  notes = ('Transformers keep two heads, whatever their width.',)
  return study('when_size', 'When does it help? Students', scale, values, notes)
