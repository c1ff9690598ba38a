"""Your own data, or any data set of TFDS: a label for an image, a text, a sound, or several of them.

  python run.py --config=configs/own_data.py --config.data.path=rows.jsonl
  python run.py --config=configs/own_data.py:inputs=image --config.data.path=photos/
  python run.py --config=configs/own_data.py:inputs=audio --config.data.path=sounds/
  python run.py --config=configs/own_data.py:inputs=video --config.data.path=clips.jsonl
  python run.py --config=configs/own_data.py:inputs=sensor --config.data.path=runs.jsonl
  python run.py --config=configs/own_data.py:inputs=text,task=regression --config.data.path=prices.csv
  python run.py --config=configs/own_data.py:inputs=image --config.data.name=mnist

data.path is a folder of class folders, a table with a row an example and the columns image, text, audio,
video, label and split, or of arrays by any name (sensor), arrays (.npz), tars, or a folder of TFDS or of
save_to_disk: docs/data.md says how each is read, `python run.py data` what is in it. A starting point, not
tuned: what to expect depends on the data. `smoke=1` takes about a minute on 2 cores.
"""

from kdjax.errors import unknown
from kdjax.recipes import base, model, parse_arg, smoke, training

RATE = 16_000  # samples a second that sounds are resampled to
METHODS = {
  'classification': {'kd': {'weight': 1.0, 'temperature': 2.0}},
  'regression': {'logit_mse': {'weight': 1.0}},
  'multilabel': {'multi_label': {'weight': 1.0}},
}
FRAMES = 16  # of a video
KNOWN = ('image', 'text', 'audio', 'video')  # other inputs are columns of arrays


def encoder(modality: str, width: int, depth: int) -> dict:
  if modality not in KNOWN:
    return model('temporal_cnn', modality=modality, widths=(width // 2, width))
  if modality == 'text':
    return model('transformer', width=width, depth=depth, heads=2)
  widths, blocks = (width // 4, width // 2, width), (depth, depth, depth)
  if modality == 'audio':
    return model('mel_cnn', mel='whisper', widths=widths, blocks=blocks)
  if modality == 'video':
    return model('r2plus1d', widths=widths, blocks=blocks, difference=True)
  return model('resnet', widths=widths, blocks=blocks, patch=2)


def get_config(arg=None):
  arg = parse_arg(arg, inputs='image+text', task='classification', steps=1500, image_size=32)
  inputs = arg.inputs.split('+')
  if arg.task not in METHODS:
    raise unknown('task of the recipe', arg.task, METHODS)
  config = base('own_data')
  config.task = {'name': arg.task}
  config.data.image_size = arg.image_size
  arrays = tuple(name for name in inputs if name not in KNOWN)
  given = {'audio': {'rate': RATE}, 'video': {'frames': FRAMES}}
  options = [given[m] for m in inputs if m in given] + [{'arrays': arrays}] * bool(arrays)
  config.data.options = {k: v for part in options for k, v in part.items()}
  config.teacher.model = model('fusion', width=256, encoders={m: encoder(m, 128, 2) for m in inputs})
  config.student.model = model('fusion', width=32, encoders={m: encoder(m, 32, 1) for m in inputs})
  for stage in ('teacher', 'student'):
    config[stage].train = training(arg.steps, 64, 2e-3)
  config.methods = METHODS[arg.task]
  return smoke(config) if arg.smoke else config
