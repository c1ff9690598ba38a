"""When does distillation help? The gain over the baseline against the share of the labels.

  python run.py table configs/tables/when_labels.py --data_dir=~/tensorflow_datasets

The teacher has all labels, student and baseline the share; the student has the teacher's outputs for all
examples. Expect docs/tables/when_labels.md.
"""

from .when import study

SHARES = (0.002, 0.005, 0.02, 0.1, 0.5, 1.0)


def labels(share):
  return lambda config: config.data.update(labels=share)


def get_table(scale):
  values = {f'{100 * share:g} % of the labels': labels(share) for share in SHARES}
  notes = ('The last row is the ceiling of the rows above it: the same student, alone, with all labels.',)
  return study('when_labels', 'When does it help? Labels', scale, values, notes)
