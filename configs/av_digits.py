"""See and hear a digit: MNIST and speech, from few labels, with voices nobody heard before."""

from configs import common
from configs.common import model, training


def get_config(arg=None):
  arg = common.parse_arg(arg, student='image+audio', labels=0.02, seeds=3, drop=0.0)
  senses = arg.student.split('+')
  config = common.base('av_digits')
  config.seeds = arg.seeds
  config.data.update(name='av_digits', labels=arg.labels)
  config.data.options = {'image_noise': 0.5, 'sound_noise': 10.0}
  config.teacher.model = model(
    'fusion',
    width=128,
    join='concat',
    encoders={
      'image': model('resnet', widths=(32, 64), blocks=(1, 1), patch=4),
      'audio': model('mel_cnn', widths=(32, 64, 128), blocks=(1, 1, 1), patch=(4, 4)),
    },
  )
  config.teacher.train = training(600, 128, 2e-3)
  small = {
    'image': model('resnet', widths=(12, 16), blocks=(0, 1), patch=4),
    'audio': model('mel_cnn', widths=(12, 16), blocks=(0, 1), patch=(4, 4)),
  }
  config.student.model = model('fusion', width=32, join='concat', encoders={m: small[m] for m in senses})
  config.student.inputs = {m: m for m in senses}
  config.student.train = training(600, 128, 1e-2, weight_decay=0.1)
  config.methods = {'kd': {'weight': 1.0, 'temperature': 4.0}}
  if arg.drop:
    config.teacher.drop = {'image': arg.drop, 'audio': arg.drop}
    config.student.drop = {m: arg.drop for m in senses if len(senses) > 1}
  config.run.update(eval_every=300, save_every=300)
  return common.smoke(config) if arg.smoke else config
