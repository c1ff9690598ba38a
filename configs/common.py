"""The keys of every recipe, with their defaults; a recipe changes what it cares about.

A recipe is a file with `get_config(arg)`. The argument is what follows the colon in
`--config=configs/quickstart.py:smoke=1,seeds=5`.
"""

from ml_collections import ConfigDict

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
  """How a model is trained: AdamW with a warm-up and a cosine."""
  return ConfigDict(
    {
      'steps': steps,
      'batch_size': batch_size,
      'optimiser': {
        'name': 'adamw',
        'lr': lr,
        'schedule': 'cosine',
        'warmup': 0.05,
        'weight_decay': 1e-4,
        'clip': 1.0,
        **optimiser,
      },
      'augment': (),  # of 'flip', 'crop', 'drop_words', on the device
      'ema': 0.0,  # decay of an average of the weights, which is then what is evaluated
      'accumulate': 1,  # parts in which a batch goes through, for less memory; batch norm sees one at a time
      'remat': False,  # makes activations anew for the gradient, for less memory
    }
  )


def model(name: str, **attributes) -> dict:
  """A model by the name of its file, with the attributes of its module."""
  return {'model': name, **attributes}


class Recipe(ConfigDict):
  """A ConfigDict whose keys may have dots, for `methods`: 'my_project.my_method'."""

  def __init__(self, values=None, type_safe: bool = True, **_):
    super().__init__(values, type_safe, allow_dotted_keys=True)


def base(name: str) -> ConfigDict:
  """The keys that all recipes share."""
  return Recipe(
    {
      'name': name,
      'seed': 0,  # of the data's order and of the first model
      'seeds': 3,  # students and baselines, trained together
      'task': {'name': 'classification'},
      'task_weight': 1.0,  # of the labels' loss beside the methods', in the student
      'select': 'last',  # or 'best': the weights with the best validation score, per seed
      'data': {
        'name': '',  # see `python run.py datasets`; any other name is one of TFDS
        'path': '',  # of a manifest: name='manifest'
        # where they have other names
        'columns': {'image': '', 'text': '', 'label': '', 'split': '', 'response': ''},
        'options': {},  # whatever else the data set's function takes
        'limit': {'train': 0, 'validation': 0, 'test': 0},  # at most so many examples; 0 takes all
        'transfer': '',  # the split that student and baseline train on, where it is not 'train'
        'labels': 1.0,  # share of the training labels that student and baseline see
        'test': 'test',  # the split of the comparison
        'image_size': 0,  # resizes images to this square; 0 takes them as they are
        'text_length': 32,
        'prompt_length': 0,  # of a text with a response: tokens of the longest prompt; 0 for half
        'vocab_size': 1000,
        'vocab_examples': 50_000,  # texts that the vocabulary is made from
        'tokenizer': '',  # instead: a tokenizer.json, pip:NAME or hf:org/name
        'memory': 4e9,  # bytes up to which a split is held in memory
      },
      'teacher': {
        'init': '',  # its weights instead of training: PATH, pip:NAME or hf:org/name
        'source': 'live',  # whom the student hears: 'live', 'store', 'auto'; itself: 'ema', 'past' (epoch)
        'model': {},
        'inputs': {},
        'dtype': 'float32',
        'weights': 'float32',  # what the student hears it in: 'bfloat16' or 'int8' take less memory
        'drop': {},
        'train': training(1000, 128, 1e-3),
      },
      'student': {
        'model': {},
        'inputs': {},  # model input -> batch key; empty for the batch as it is
        'dtype': 'float32',
        'drop': {},  # input -> how often a training example lacks it
        'train': training(1000, 128, 1e-3),
      },
      'store': {  # the teacher's answers on disk: `python run.py store build`
        'folder': '',  # <workdir>/store where it is not set
        'taps': (),  # of the teacher; () takes those that the methods read
        'top_k': 0,  # classes kept of logits, with the mass of the others; 0 keeps all
        'dtype': 'float16',  # or 'bfloat16', 'float32'
        'views': 1,  # of each example: epoch e trains on the view e mod views, where there is augmentation
        'shard': 4096,  # examples a file
      },
      'methods': {},  # name -> weight, schedule, taps and options; see `python run.py methods`
      'generator': {},  # scheme, model, optimiser, options: a student without data; see kdjax/generators
      'on_policy': {  # a language model's student learns on responses written in training
        'share': 0.0,  # of the batches, λ of GKD
        'length': 0,  # tokens of the longest; 0 for text_length - prompt_length
        'temperature': 1.0,  # 0 takes the likeliest token
        'writer': 'student',  # or 'teacher'
      },
      'cohort': {},  # name -> methods and other changes: students that share the teacher's forward
      'senses': {  # what the comparison tries on the test data beside them as they are
        'subsets': False,  # every subset of the modalities
        'noise': (),  # shares of one modality at a time replaced by noise, such as (0.0, 0.5, 1.0)
      },
      'generation': {  # what a language model writes in the comparison, scored with ROUGE-L
        'seeds': (),  # of the sampling, such as (10, 20, 30, 40, 50); () for none
        'length': 0,  # tokens of the longest response; 0 for text_length - prompt_length
        'temperature': 1.0,  # 0 takes the likeliest token
        'examples': 0,  # at most so many; 0 takes all
      },
      'run': {  # changes no weights, except 'parallel'
        'parallel': 'jit',  # or 'pmap': batch norm a device
        'eval_every': 500,
        'log_every': 50,
        'save_every': 500,
        'eval_batch': 512,
        'keep': 2,
        'together': 32,  # members of a cohort in one training: their programs and states are in memory
        'tensorboard': False,
        'dispatch': 1,  # steps in one program, for models faster than the host; divides steps and the *_every
        'resident': 'auto',  # whether training data live on the device: 'yes', 'no', or where it is of use
      },
    }
  )


def full(arg: ConfigDict) -> bool:
  """Whether the recipe is asked for at its full size, `scale=gpu`.

  Raises:
    KdjaxError: for a scale that there is not.
  """
  if arg.scale not in SCALES:
    raise unknown('scale', arg.scale, SCALES)
  return arg.scale == 'gpu'


def finish(config: ConfigDict, arg: ConfigDict, longer: int, larger: int) -> ConfigDict:
  """The recipe as it is, in seconds with `smoke=1`, or with `scale=gpu` for so many times as many steps of
  batches that are so many times larger."""
  for stage in ('teacher', 'student') if full(arg) else ():
    config[stage].train.steps *= longer
    config[stage].train.batch_size *= larger
  return smoke(config) if arg.smoke else config


def smoke(config: ConfigDict) -> ConfigDict:
  """The same recipe in seconds: a few steps of a few examples."""
  for stage in ('teacher', 'student'):
    config[stage].train.update(steps=4, batch_size=16)
  config.seeds = 2
  config.data.limit.update(train=96, validation=32, test=48)
  config.run.update(eval_every=2, log_every=2, save_every=2, eval_batch=32)
  return config
