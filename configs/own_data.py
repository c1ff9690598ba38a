"""Your own data, or any data set of TFDS: a label for an image, a text, or both.

  python run.py --config=configs/own_data.py --config.data.path=rows.jsonl
  python run.py --config=configs/own_data.py:inputs=image --config.data.name=mnist

A manifest is a .jsonl or .csv file with a row an example and the columns image (a file), text,
label and split (train, validation or test); `python run.py datasets manifest` says more. A starting
point, not tuned: what to expect depends on the data. `smoke=1` takes about a minute on 2 cores.
"""

from kdjax.recipes import base, model, parse_arg, smoke, training


def encoder(modality: str, width: int, depth: int) -> dict:
  if modality == 'text':
    return model('transformer', width=width, depth=depth, heads=2)
  return model('resnet', widths=(width // 4, width // 2, width), blocks=(depth, depth, depth), patch=2)


def get_config(arg=None):
  arg = parse_arg(arg, inputs='image+text', steps=1500, image_size=32)
  inputs = arg.inputs.split('+')
  config = base('own_data')
  config.data.update(name='manifest', image_size=arg.image_size)
  config.teacher.model = model('fusion', width=256, encoders={m: encoder(m, 128, 2) for m in inputs})
  config.student.model = model('fusion', width=32, encoders={m: encoder(m, 32, 1) for m in inputs})
  for stage in ('teacher', 'student'):
    config[stage].train = training(arg.steps, 64, 2e-3)
  config.methods = {'kd': {'weight': 1.0, 'temperature': 2.0}}
  return smoke(config) if arg.smoke else config
