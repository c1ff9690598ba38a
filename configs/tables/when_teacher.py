"""When does distillation help? The gain over the baseline against how long the teacher was trained.

  python run.py table configs/tables/when_teacher.py --data_dir=~/tensorflow_datasets

The teacher has a share of the steps of the recipe. Expect docs/tables/when_teacher.md.
"""

from .when import study

SHARES = (0.02, 0.05, 0.2, 0.5, 1.0)


def times(share):
  def change(config):
    config.teacher.train.steps = max(round(config.teacher.train.steps * share), 1)

  return change


def get_table(scale):
  values = {f'a teacher of {100 * share:g} % of the steps': times(share) for share in SHARES}
  return study('when_teacher', 'When does it help? Teachers', scale, values, own_teachers=True)
