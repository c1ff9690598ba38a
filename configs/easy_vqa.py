"""Visual question answering without the hurry: all of easy-vqa, more steps, five seeds.

  python run.py --config=configs/easy_vqa.py
  python run.py --config=configs/easy_vqa.py:labels=0.05 --workdir=runs/few_labels

With `labels=0.05` the student and its baseline see 5 % of the labels, and the teacher answers all the
questions. 2 cores: MINUTES min. Expect NUMBERS.
"""

from configs import common, quickstart
from configs.common import training


def get_config(arg=None):
  arg = common.parse_arg(arg, labels=1.0, seeds=5)
  config = quickstart.get_config()
  config.name = 'easy_vqa'
  config.seeds = arg.seeds
  config.data.labels = arg.labels
  config.data.limit.update(train=0, validation=0, test=0)
  config.teacher.train = training(1200, 128, 2e-3)
  config.student.train = training(3000, 128, 1e-2)
  return common.smoke(config) if arg.smoke else config
