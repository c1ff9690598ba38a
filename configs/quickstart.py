"""Visual question answering in a few minutes on a laptop.

python run.py --config=configs/quickstart.py
"""

from configs import common
from configs.common import model, training


def get_config(arg=None):
  arg = common.parse_arg(arg)
  config = common.base('quickstart')
  config.seeds = 3
  config.data.update(name='easy_vqa', text_length=16, vocab_size=64)
  config.teacher.model = model(
    'fusion',
    width=256,
    encoders={
      'image': model('resnet', widths=(32, 64, 128), blocks=(1, 1, 1), patch=4, pool='max'),
      'text': model('bag_of_words', width=128),
    },
  )
  config.teacher.train = training(1200, 128, 2e-3)
  config.student.model = model(
    'fusion',
    width=32,
    encoders={
      'image': model('resnet', widths=(16, 24), blocks=(0, 1), patch=8, pool='max'),
      'text': model('bag_of_words', width=16),
    },
  )
  config.student.train = training(1200, 128, 4e-3)
  config.methods = {'kd': {'weight': 1.0, 'temperature': 4.0}}
  config.run.update(eval_every=300, save_every=300)
  return common.smoke(config) if arg.smoke else config
