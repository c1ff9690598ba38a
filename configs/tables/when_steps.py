"""When does distillation help? The gain over the baseline against the steps of the training.

  python run.py table configs/tables/when_steps.py --data_dir=~/tensorflow_datasets

Student and baseline have a share of the steps of the recipe, or several times as many. Expect
docs/tables/when_steps.md.
"""

from .when import study

FACTORS = (0.25, 0.5, 1, 2, 4)


def times(factor):
  def change(config):
    train, run = config.student.train, config.run
    train.steps = max(int(train.steps * factor), 1)
    run.update(eval_every=train.steps, save_every=train.steps)

  return change


def get_table(scale):
  values = {f'{factor:g} × the steps': times(factor) for factor in FACTORS}
  return study('when_steps', 'When does it help? Steps', scale, values)
