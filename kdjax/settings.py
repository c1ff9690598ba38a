"""The keys of every recipe: the type, range, default and meaning of each."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Interval

from kdjax import options
from kdjax.errors import KdjaxError, unknown
from kdjax.options import Count, Decay, Name, NonNegative, Rate, Share, Size, SomeShare, Weight, Whole
from kdjax.run_settings import Run, section
from kdjax.runtime.program import program
from kdjax.runtime.renamed_keys import renamed

Dtype = Literal['float32', 'bfloat16']  # float16 would need its loss scaled
Weights = Literal['float32', 'bfloat16', 'int8']
StoreDtype = Literal['float16', 'bfloat16', 'float32']
Taught = Literal['live', 'store', 'auto']  # the trained teacher, its outputs on disk, these where they exist
Itself = Literal['ema', 'previous_epoch']  # the student's weight average, the student an epoch ago
Redrawn = Literal['labels', 'order', 'teacher']  # which labels are kept, the data's order, the teacher
Bits = Literal[0, 2, 3, 4, 8]
Schedule = Literal['constant', 'linear', 'cosine', 'steps']
LearningRate = Annotated[float, Interval(gt=0, le=100)]
Sampling = Annotated[float, Interval(ge=0, le=0)] | options.Temperature
Inputs = Mapping[str, Name]
VocabularySize = Annotated[int, Interval(ge=3, le=2**24)]
Rates = Mapping[str, Rate]
Views = Mapping[str, tuple[Name, ...]]


@dataclasses.dataclass(frozen=True)
class Optimiser:
  """The keys of every optimiser; `kdjax.training.optimizers` has those of each."""

  name: Annotated[Name, 'of optax, or dot'] = 'adamw'
  lr: Annotated[LearningRate, 'the largest learning rate'] = 1e-3
  schedule: Annotated[Schedule, 'of the learning rate after the warm-up'] = 'cosine'
  warmup: Annotated[Share, 'share of the steps over which the rate grows from 0'] = 0.05
  weight_decay: Annotated[NonNegative, 'of arrays of two axes and more'] = 1e-4
  clip: Annotated[NonNegative, "the gradient's largest global norm; 0 for none"] = 1.0


@dataclasses.dataclass(frozen=True)
class Train:
  """How a model is trained."""

  steps: Annotated[Count, 'updates of the weights'] = 1000
  batch_size: Annotated[Size, 'examples a step'] = 128
  optimiser: Optimiser = section(Optimiser)
  augment: Annotated[
    tuple[Name, ...], 'on the device: flip, crop, drop_words, …; see kdjax/input/augment.py'
  ] = ()
  ema: Annotated[Decay, 'decay of a moving average of the weights, which is evaluated instead of them'] = 0.0
  accumulate: Annotated[Count, 'micro-batches of a batch, for less memory; batch norm sees one at a time'] = 1
  remat: Annotated[bool, 'recomputes activations for the gradient, for less memory'] = False


@dataclasses.dataclass(frozen=True)
class Columns:
  """The names of a table's columns, where they have others."""

  image: Annotated[str, 'files of images'] = ''
  text: Annotated[str, 'texts, or prompts'] = ''
  label: Annotated[str, 'names of classes, or numbers'] = ''
  split: Annotated[str, 'train, validation or test'] = ''
  response: Annotated[str, 'the response to a prompt'] = ''
  audio: Annotated[str, 'files of sounds'] = ''
  video: Annotated[str, 'files of frames'] = ''


@dataclasses.dataclass(frozen=True)
class Limit:
  """The most examples of each split; 0 takes all."""

  train: Annotated[Whole, 'examples; 0 takes all'] = 0
  validation: Annotated[Whole, 'examples; 0 takes all'] = 0
  test: Annotated[Whole, 'examples; 0 takes all'] = 0


@dataclasses.dataclass(frozen=True)
class Data:
  """The data set."""

  name: Annotated[
    str, f"see `{program()} datasets`; any other name is one of TFDS; '' is what data.path is"
  ] = ''
  path: Annotated[str, 'a file or folder; without a name, it says which kind of data set it is'] = ''
  columns: Columns = section(Columns)
  options: Annotated[Mapping[str, Any], 'other options of the data set'] = section(dict)
  limit: Limit = section(Limit)
  transfer: Annotated[str, "the split that student and baseline train on, where it is not 'train'"] = ''
  labels: Annotated[SomeShare, 'share of the training labels that student and baseline see'] = 1.0
  test: Annotated[Name, 'the split of the comparison'] = 'test'
  also: Annotated[tuple[Name, ...], 'further splits that the comparison scores every stage on'] = ()
  image_size: Annotated[
    Annotated[int, Interval(ge=0, le=2**14)], 'resizes images and videos to this square; 0 for none'
  ] = 0
  text_length: Annotated[Size, 'tokens of a text'] = 32
  prompt_length: Annotated[Whole, 'of a text with a response: tokens of the longest prompt; 0 for half'] = 0
  vocab_size: Annotated[VocabularySize, 'tokens, where the vocabulary is made of training texts'] = 1000
  vocab_examples: Annotated[Count, 'texts that the vocabulary comes from'] = 50_000
  tokenizer: Annotated[str, 'instead: a tokenizer.json, pip:NAME or hf:org/name'] = ''
  teacher_tokenizer: Annotated[
    str, "of a teacher that reads prompts and responses with another: its inputs are {'text': 'text/teacher'}"
  ] = ''
  features: Annotated[
    bool, "computes what the frozen 'encoder' of teacher and student gives of an image once, in float16"
  ] = False
  memory: Annotated[
    Annotated[float, Interval(gt=0, le=1e15)], 'bytes up to which a split is held in memory'
  ] = 4e9


@dataclasses.dataclass(frozen=True)
class Teacher:
  """The large model."""

  init: Annotated[str, 'its weights instead of training: PATH, pip:NAME or hf:org/name'] = ''
  source: Annotated[
    Taught | Itself, "the student's teacher: 'live', 'store', 'auto'; itself: 'ema', 'previous_epoch'"
  ] = 'live'
  model: Annotated[Mapping[str, Any], f'its name and attributes; see `{program()} models`'] = section(dict)
  writes: Annotated[
    Annotated[int, Interval(ge=0, le=64)],
    'beams by which it writes the responses that data.labels hides, once, for the student; 0: it does not',
  ] = 0
  outputs: Annotated[
    str, 'instead of a model: its outputs, a .npy, .npz, .safetensors or .parquet file, or a store'
  ] = ''
  inputs: Annotated[Inputs, 'model input -> batch key; empty for the batch as it is'] = section(dict)
  dtype: Annotated[Dtype, 'of the computation'] = 'float32'
  weights: Annotated[Weights, 'of the teacher of a student: bfloat16 or int8 take less memory'] = 'float32'
  drop: Annotated[Rates, 'input -> how often a training example lacks it'] = section(dict)
  train: Train = section(Train)


@dataclasses.dataclass(frozen=True)
class Student:
  """The small model, and its baseline."""

  init: Annotated[str, 'weights to go on from: of a workdir the same seed, or a .safetensors file'] = ''
  model: Annotated[Mapping[str, Any], f'its name and attributes; see `{program()} models`'] = section(dict)
  weight_bits: Annotated[Bits, 'rounds the weights in training, for a quantised export; 0 does not'] = 0
  activation_bits: Annotated[Literal[0, 8], 'rounds what enters a layer, likewise'] = 0
  inputs: Annotated[Inputs, 'model input -> batch key; empty for the batch as it is'] = section(dict)
  dtype: Annotated[Dtype, 'of the computation'] = 'float32'
  drop: Annotated[Rates, 'input -> how often a training example lacks it'] = section(dict)
  views: Annotated[
    Views, 'name -> operations: more views of each example, as augment leaves it; their taps are <view>/<tap>'
  ] = section(dict)
  train: Train = section(Train)


@dataclasses.dataclass(frozen=True)
class Store:
  """The teacher's outputs on disk: the command `store build`."""

  folder: Annotated[str, '<workdir>/store where it is not set'] = ''
  taps: Annotated[tuple[Name, ...], 'of the teacher; () takes those that the methods read'] = ()
  top_k: Annotated[Whole, 'classes stored of logits, with the mass of the others; 0 stores all'] = 0
  dtype: Annotated[StoreDtype, 'of the stored arrays'] = 'float16'
  views: Annotated[
    Size, 'of each example: epoch e trains on the view e mod views, where there is augmentation'
  ] = 1
  shard: Annotated[Count, 'examples a file'] = 4096


@dataclasses.dataclass(frozen=True)
class OnPolicy:
  """A language model's student learns on responses written in training."""

  share: Annotated[Share, 'of the batches, λ of GKD'] = 0.0
  length: Annotated[Whole, 'tokens of the longest; 0 for text_length - prompt_length'] = 0
  temperature: Annotated[Sampling, '0 takes the likeliest token'] = 1.0
  writer: Annotated[Literal['student', 'teacher'], 'the model that writes'] = 'student'
  shown: Annotated[bool, "the teacher reads the data's response first, before what the student wrote"] = False
  transition: Annotated[str, 'a text between the two, such as a request to solve it anew'] = ''


@dataclasses.dataclass(frozen=True)
class ModalityRobustness:
  """Further evaluations of the comparison, with modalities missing or noisy."""

  subsets: Annotated[bool, 'every subset of the modalities'] = False
  noise: Annotated[
    tuple[Share, ...], 'shares of one modality at a time replaced by noise, such as (0.0, 0.5, 1.0)'
  ] = ()


@dataclasses.dataclass(frozen=True)
class Generation:
  """The responses of a language model in the comparison, scored with ROUGE-L; captions also with CIDEr-D."""

  seeds: Annotated[tuple[Whole, ...], 'of the sampling, such as (10, 20, 30, 40, 50); () for none'] = ()
  length: Annotated[Whole, 'tokens of the longest response; 0 for text_length - prompt_length'] = 0
  temperature: Annotated[Sampling, '0 takes the likeliest token'] = 1.0
  examples: Annotated[Whole, 'at most so many; 0 takes all'] = 0
  beams: Annotated[Annotated[int, Interval(ge=1, le=64)], 'of a beam search, instead; 1 samples'] = 1


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The whole recipe."""

  name: Annotated[Name, 'of the folder below runs/, and in reports']
  seed: Annotated[Whole, "of the data's order and of the first model"] = 0
  seeds: Annotated[Annotated[int, Interval(ge=1, le=1000)], 'students and baselines, trained together'] = 5
  redraw: Annotated[
    tuple[Redrawn, ...], 'drawn anew for each seed beside its initial weights, so that p covers it too'
  ] = ()
  task: Annotated[Mapping[str, Any], f'its name and options; see `{program()} tasks`'] = section(
    lambda: {'name': 'classification'}
  )
  ceiling: Annotated[bool, 'with few labels, also trains the student on all of them alone'] = False
  task_weight: Annotated[Weight, "of the labels' loss beside the methods', in the student"] = 1.0
  select: Annotated[
    Literal['last', 'best'], "'best': the weights with the best validation score, per seed"
  ] = 'last'
  data: Data = section(Data)
  teacher: Teacher = section(Teacher)
  student: Student = section(Student)
  store: Store = section(Store)
  methods: Annotated[
    Mapping[str, Mapping[str, Any]], f'name -> weight, schedule, taps, options; see `{program()} methods`'
  ] = section(dict)
  generator: Annotated[
    Mapping[str, Any],
    'scheme, model, optimiser, options: a student without data; see kdjax/training/schemes/generators',
  ] = section(dict)
  on_policy: OnPolicy = section(OnPolicy)
  cohort: Annotated[
    Mapping[str, Mapping[str, Any]],
    "name -> methods and other changes: students that share the teacher's forward",
  ] = section(dict)
  modality_robustness: ModalityRobustness = section(ModalityRobustness)
  generation: Generation = section(Generation)
  run: Run = section(Run)


def fields(kind: type) -> dict[str, Any]:
  """Key -> annotation."""
  return get_type_hints(kind, include_extras=True)


def meaning(annotation: Any) -> str:
  """The description in an annotation, '' without one."""
  return next((m for m in getattr(annotation, '__metadata__', ()) if isinstance(m, str)), '')


def leaves(kind: type = Recipe, prefix: str = '') -> Iterator[tuple[str, Any]]:
  """(dotted key, annotation) of every key of a recipe."""
  for name, annotation in fields(kind).items():
    key = f'{prefix}{name}'
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
      yield from leaves(annotation, f'{key}.')
    else:
      yield key, annotation


PRECOMPUTED = {'model': 'precomputed', 'frozen': True}  # the model of `teacher.outputs`


def complete(config: Any, kind: type = Recipe) -> Any:
  """`config` with the default of every missing key; anything but a dict is returned as it is."""
  if not isinstance(config, Mapping):
    return config
  filled, annotations = dict(renamed(config) if kind is Recipe else config), fields(kind)
  for field in dataclasses.fields(kind):
    name, annotation = field.name, annotations[field.name]
    if annotation is Optimiser and name in filled:
      # Its keys depend on its name, and so do their defaults, see `optimizers`; without one it is AdamW.
      if isinstance(filled[name], Mapping) and 'name' not in filled[name]:
        filled[name] = dataclasses.asdict(Optimiser()) | dict(filled[name])
      continue
    if dataclasses.is_dataclass(annotation):
      filled[name] = complete(filled.get(name, {}), annotation)
    elif name not in filled and field.default is not dataclasses.MISSING:
      filled[name] = field.default
    elif name not in filled and field.default_factory is not dataclasses.MISSING:
      filled[name] = field.default_factory()
  if kind is Teacher and filled['outputs'] and not filled['model']:
    filled['model'] = dict(PRECOMPUTED)
  return filled


def check(config: Any, kind: type = Recipe, prefix: str = '') -> None:
  """Checks keys, types and ranges.

  Raises:
    KdjaxError: for the first unknown or missing key, or value of another type or out of range.
  """
  known = fields(kind)
  if not isinstance(config, Mapping):
    name = prefix.removesuffix('.') or 'the recipe'
    raise KdjaxError(f'{name} is {options.shown(config)}; it has to be a dict of {", ".join(known)}.')
  for key in config:
    if key not in known:
      raise unknown('key of the recipe', f'{prefix}{key}', [f'{prefix}{k}' for k in known])
  for name, annotation in known.items():
    if name not in config:
      raise KdjaxError(f'the recipe has no {prefix}{name}: set it.')
    if annotation is Optimiser:  # whose keys depend on its name: `optimizers.check`
      options.check(config[name], Mapping, f'{prefix}{name}')
    elif isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
      check(config[name], annotation, f'{prefix}{name}.')
    else:
      options.check(config[name], annotation, f'{prefix}{name}')
