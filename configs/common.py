"""Helpers of recipes: all keys of `kdjax/settings.py` with their defaults, of which a recipe changes some.

A recipe is a file with `get_config(arg)`. The argument is what follows the colon in
`--config=configs/quickstart.py:smoke=1,seeds=5`.
"""

import dataclasses

from ml_collections import ConfigDict

from kdjax import settings
from kdjax.errors import KdjaxError, unknown

SCALES = ('cpu', 'gpu')


def parse_arg(arg: str | None, **defaults):
  """`'smoke=1,seeds=5'` as a ConfigDict with the keys and types of `defaults`.

  Raises:
    KdjaxError: for a key that the recipe does not know, or a value of another type.
  """
  defaults = {'smoke': False} | defaults
  values = dict(defaults)
  for item in (arg or '').split(',') if arg else ():
    key, _, text = item.partition('=')
    if key not in defaults:
      raise unknown('argument of the recipe', key, defaults)
    kind = type(defaults[key])
    try:
      values[key] = text in ('', '1', 'true', 'True') if kind is bool else kind(text)
    except ValueError as e:
      raise KdjaxError(f'{key}={text!r} is not a {kind.__name__}.') from e
  return ConfigDict(values)


def training(steps: int, batch_size: int, lr: float, **optimiser) -> ConfigDict:
  """The config of a training, `settings.Train`: AdamW with a warm-up and a cosine schedule."""
  train = dataclasses.asdict(settings.Train(steps=steps, batch_size=batch_size))
  train['optimiser'] |= {'lr': lr, **optimiser}
  return ConfigDict(train)


def model(name: str, **attributes) -> dict:
  """A model by the name of its file, with the attributes of its module."""
  return {'model': name, **attributes}


class Recipe(ConfigDict):
  """A ConfigDict whose keys may have dots, for `methods`: 'my_project.my_method'."""

  def __init__(self, values=None, type_safe: bool = True, **_):
    super().__init__(values, type_safe, allow_dotted_keys=True)


def base(name: str) -> ConfigDict:
  """The keys that all recipes share, with their defaults: `kdjax/settings.py` says what each means."""
  return Recipe(dataclasses.asdict(settings.Recipe(name)))


def full(arg: ConfigDict) -> bool:
  """Whether the recipe has its full size, `scale=gpu`.

  Raises:
    KdjaxError: for an unknown scale.
  """
  if arg.scale not in SCALES:
    raise unknown('scale', arg.scale, SCALES)
  return arg.scale == 'gpu'


def finish(config: ConfigDict, arg: ConfigDict, longer: int, larger: int) -> ConfigDict:
  """The recipe; with `smoke=1` a few steps, with `scale=gpu` `longer` times the steps and `larger` times the
  batch size."""
  for stage in ('teacher', 'student') if full(arg) else ():
    config[stage].train.steps *= longer
    config[stage].train.batch_size *= larger
  return smoke(config) if arg.smoke else config


# Of these any depth can be trained; published sizes have the one of their name.
DEEP = ('gpt2', 'mult', 'transformer')


def shallow(model: ConfigDict) -> ConfigDict:
  """The model and those inside it with one block each, which is what compiling takes its time for.

  A model that starts from weights has the depth of these.
  """
  if model.get('init'):
    return model
  if model.get('model') in DEEP and 'depth' in model:
    model.depth = 1
  elif model.get('model') in ('resnet', 'mel_cnn') and 'blocks' in model:
    model.blocks = (0,) * (len(model.blocks) - 1) + (1,)
  for part in model.values():
    if isinstance(part, ConfigDict):
      shallow(part)
  return model


def smoke(config: ConfigDict) -> ConfigDict:
  """The same recipe in seconds: a few steps of a few examples, with shallow models."""
  for stage in ('teacher', 'student'):
    config[stage].train.update(steps=4, batch_size=16)
    shallow(config[stage].model)
  config.seeds = 2
  config.data.limit.update(train=96, validation=32, test=48)
  config.run.update(eval_every=4, log_every=2, save_every=2, eval_batch=32)
  return config
