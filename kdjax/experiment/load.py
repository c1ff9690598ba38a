"""Loads the data of a recipe: data set, limits, tokenizer, encoding, splits."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax import pretrained, registry
from kdjax.errors import KdjaxError
from kdjax.experiment.few_labels import few_labels
from kdjax.input import decoded_cache, path_kind, table_file, tokenizer
from kdjax.input import encode as encode_
from kdjax.input import splits as splits_
from kdjax.input.content import content
from kdjax.input.splits import Subset
from kdjax.runtime import progress, trust
from kdjax.runtime.files import fingerprint
from kdjax.runtime.program import program
from kdjax.teacher_store import precomputed
from kdjax.types import DataSet


class Data(NamedTuple):
  """The data of an experiment.

  Attributes:
    train: the training split, with all labels.
    transfer_set: the student's training examples, those of `data.transfer` or of train; labels that student
      and baseline may not use are -1.
    labelled_subset: the examples of `transfer_set` with a label.
    validation: for selection and tuning; None where the data set has none.
    test: for the comparison.
    transfer: the transfer set with all labels.
    also: the further splits of the comparison, by name.
    teacher_tokenizer: of `data.teacher_tokenizer`; None where the teacher reads what the student does.
    ranges: key -> the range that floats had, see `encode.with_ranges`.
  """

  dataset: DataSet
  tokenizer: Any
  encode: Callable
  train: Any
  transfer_set: Any
  labelled_subset: Any
  validation: Any
  test: Any
  transfer: Any = None
  ranges: Mapping[str, str] = {}
  also: Mapping[str, Any] = {}
  teacher_tokenizer: Any = None

  def of(self, stage: str) -> 'Data':
    """The data as a stage's model reads them: those of a teacher with a tokenizer of its own have its ids."""
    if stage != 'teacher' or self.teacher_tokenizer is None:
      return self
    classes = tokenizer.vocabulary(self.teacher_tokenizer)
    return self._replace(
      dataset=self.dataset._replace(classes=classes), tokenizer=self.teacher_tokenizer, teacher_tokenizer=None
    )


def dataset(config: Mapping, data_dir: str | None = None, label: str = 'class') -> DataSet:
  """The data set of `config['name']`: a module of kdjax, a dotted name of the user's, or one of TFDS.

  Without a name, `config['path']` says what it is; `label` is the kind that the task reads, see `types.Task`.
  """
  name, dataset_options = config['name'], dict(config.get('options') or {})
  if registry.is_object(name):
    return registry.python_object(name).value
  path = config.get('path')
  if not name and path:
    name = path_kind.of(path)
  if not name:
    raise KdjaxError(
      'which data set? Set --config.data.path=FILE or FOLDER, or --config.data.name=NAME: '
      f'`{program()} datasets` lists them, and any other name is one of TFDS.'
    )
  if name == 'tfds' and path:
    dataset_options.setdefault('builder', path)
    path = ''
  if name not in registry.names('data') and not trust.dotted(name):
    dataset_options |= {'builder': name}
    name = 'tfds'
  columns = {k: v for k, v in (config.get('columns') or {}).items() if v}
  offered = {'data_dir': data_dir, 'path': path, 'columns': columns}
  accepted = registry.options('data', name)
  if 'label' in accepted:
    dataset_options.setdefault('label', label or 'none')
  for key, value in offered.items():
    if value and key != 'data_dir' and key not in accepted:
      raise KdjaxError(f'data.{key} is set, and the data set {name!r} does not take it.')
  dataset_options |= {
    k: path_kind.whole(v) if k == 'path' else v for k, v in offered.items() if v and k in accepted
  }
  return registry.make('data', name, dataset_options, 'data.options')


def make_tokenizer(config: Mapping, dataset: DataSet, workdir: Path) -> Any:
  """The tokenizer of the workdir, of `config['tokenizer']`, or of the training texts; None without texts."""
  tokenizer_, train = tokenizer.kept(workdir), dataset.splits['train']
  texts = [k for k, v in train[0].items() if isinstance(v, str)]
  if not texts:
    return None
  if tokenizer_ is None and config['tokenizer']:
    tokenizer_ = pretrained.load_tokenizer(config['tokenizer'])
  elif tokenizer_ is None:
    limit = min(len(train), config['vocab_examples'])
    rows = progress.track((train[i] for i in range(limit)), 'making the vocabulary', limit)
    corpus = (row[k] for row in rows for k in texts)
    tokenizer_ = tokenizer.train(corpus, config['vocab_size'], end='response' in texts)
  return tokenizer.cut(tokenizer_, config['text_length'])


def make_teacher_tokenizer(config: Mapping, dataset: DataSet) -> Any:
  """The tokenizer of `config['teacher_tokenizer']`, None without one.

  Raises:
    KdjaxError: where the data set has no responses, of which alone two tokenizers read the same.
  """
  if not config['teacher_tokenizer']:
    return None
  if 'response' not in dataset.splits['train'][0]:
    raise KdjaxError(
      'data.teacher_tokenizer is of responses to prompts, and the data set has none: leave it out.'
    )
  teacher = tokenizer.cut(pretrained.load_tokenizer(config['teacher_tokenizer']), config['text_length'])
  tokenizer.end(teacher)
  return teacher


def limited(dataset: DataSet, limits: Mapping[str, int]) -> DataSet:
  """At most so many examples of each split, evenly spaced; 0 for all."""
  splits = dict(dataset.splits)
  for split, n in limits.items():
    if n and split in splits and len(splits[split]) > n:
      splits[split] = Subset(splits[split], np.linspace(0, len(splits[split]) - 1, n).astype(int))
  return dataset._replace(splits=splits)


def data(
  config: Mapping,
  workdir: Path,
  data_dir: str | None,
  seed: int,
  cache: str = '',
  label: str = 'class',
  outputs: str = '',
  attach: Callable = lambda split: split,
) -> Data:
  """The data of `config.data`, read and encoded for a task that reads such a `label`.

  Decoded splits are cached in `cache`; `outputs` are the `teacher.outputs`, which become keys of examples,
  and `attach` adds more of them to a split.
  """
  precomputed_ = precomputed.load(outputs, workdir / 'teacher' / 'outputs')
  source = dataset(config, data_dir, label)
  splits, content_hash = table_file.canonical(source.splits), source.content or content(source.files)
  source = source._replace(splits=splits, content=content_hash)
  source = limited(source, config['limit'])
  for split in (
    'train',
    config['transfer'] or 'train',
    config['test'],
    *config['also'],
  ):  # a missing one fails early
    splits_.examples_of(source, split)
  source = encode_.with_ids(source)
  vocabulary = make_tokenizer(config, source, workdir)
  source = encode_.with_vocabulary_classes(source, vocabulary, config['prompt_length'])
  if (teacher_tokenizer := make_teacher_tokenizer(config, source)) is not None:
    source = source._replace(fingerprint=fingerprint(source.fingerprint, teacher_tokenizer.to_str()))
  source, ranges = encode_.with_ranges(source, bool(config['image_size']))
  if config['image_size'] and np.ndim(source.splits['train'][0].get('video', 0)) == 4:
    source = source._replace(fingerprint=fingerprint(source.fingerprint, 'videos are resized'))
  encode = encode_.make_encode(
    vocabulary,
    config['image_size'],
    len(source.classes),
    config['prompt_length'],
    ranges,
    label,
    teacher_tokenizer,
  )

  later = ('labels', 'test', 'also', 'transfer', 'memory', 'features')
  relevant = {k: v for k, v in config.items() if k not in later}
  identity = (
    json.dumps(relevant, sort_keys=True),
    source.fingerprint,
    content_hash,
    vocabulary and vocabulary.to_str(),
  )
  if label == 'classes':
    identity += (label,)
  if trust.dotted(config['name']):  # a user's own module may change
    identity += (inspect.getsource(registry.module('data', config['name'])),)
  cache_path = decoded_cache.cache_path(cache, source.files, *identity)

  def read(split):
    examples = attach(splits_.read(source, split, encode, config['memory'], cache_path))
    return (
      precomputed.attached(examples, precomputed_.of(split, examples, ranges)) if precomputed_ else examples
    )

  train = read('train')
  transfer = read(config['transfer']) if config['transfer'] else train
  transfer_set, labelled_subset = few_labels(transfer, config['labels'], seed, label)
  validation = read('validation') if 'validation' in source.splits else None
  own = {'train': train, 'validation': validation, config['test']: read(config['test'])}
  own = {split: examples for split, examples in own.items() if examples is not None}
  if precomputed_:
    source = source._replace(fingerprint=fingerprint(source.fingerprint, precomputed_.fingerprint))
  return Data(
    source,
    vocabulary,
    encode,
    train,
    transfer_set,
    labelled_subset,
    validation,
    own[config['test']],
    transfer,
    ranges,
    {s: own[s] if s in own else read(s) for s in config['also'] if s != config['test']},
    teacher_tokenizer,
  )
