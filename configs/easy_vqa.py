"""Visual question answering, with more steps than the quickstart and five seeds; all labels or few.

  python run.py --config=configs/easy_vqa.py:labels=0.05
  python run.py --config=configs/easy_vqa.py

`labels` is the share of the training labels that student and baseline have; the student has the
teacher's outputs for all the questions. 2 cores: 5 min with labels=0.05. Expect
there teacher 99.9 %, baseline 97 %, student 99.8 %, p < 0.05. With all the labels it has not been run yet.
"""

from kdjax.recipes import parse_arg, smoke, training

from . import quickstart


def get_config(arg=None):
  arg = parse_arg(arg, labels=1.0, seeds=5)
  config = quickstart.get_config()
  config.name = f'easy_vqa_{arg.labels:g}' if arg.labels < 1 else 'easy_vqa'
  config.seeds = arg.seeds
  config.data.labels = arg.labels
  config.teacher.train = training(1200, 128, 2e-3)
  config.student.train = training(2000, 128, 2e-2, weight_decay=0.1)
  return smoke(config) if arg.smoke else config
