"""From a config to objects; the only place that looks a name up."""

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import (
  augment,
  catalogue,
  data_free,
  decoded,
  loss_entry,
  optim,
  options,
  pipeline,
  pretrained,
  progress,
  start,
  table_file,
  tokenizer,
  trust,
)
from kdjax import encode as encode_
from kdjax import views as views_
from kdjax.content import content
from kdjax.errors import KdjaxError, unknown
from kdjax.files import user_path
from kdjax.layers import COMPUTED, mapped, narrowed, scale_image
from kdjax.methods import combine
from kdjax.sources import Subset
from kdjax.types import DataSet, Method, Model, Task


class Data(NamedTuple):
  """What the stages read.

  Attributes:
    train: every training example with its label.
    few: the transfer set, which is the same where `data.transfer` names no other, with only the labels
      that the student and its baseline may see, -1 elsewhere.
    labelled: the part of `few` that has a label.
    validation: for selection and tuning; None where the data set has none.
    test: for the comparison.
    transfer: the transfer set with every label.
  """

  dataset: DataSet
  words: Any
  encode: Callable
  train: Any
  few: Any
  labelled: Any
  validation: Any
  test: Any
  transfer: Any = None


def dataset(config: Mapping, data_dir: str | None = None) -> DataSet:
  """The data set of `config['name']`: a module of kdjax, a dotted one of the user's, or of TFDS."""
  name, given = config['name'], dict(config.get('options') or {})
  if name not in catalogue.names('data') and not trust.dotted(name):
    given |= {'builder': name}
    name = 'tfds'
  columns = {k: v for k, v in (config.get('columns') or {}).items() if v}
  offered = {'data_dir': data_dir, 'path': config.get('path'), 'columns': columns}
  taken = catalogue.options('data', name)
  for key, value in offered.items():
    if value and key != 'data_dir' and key not in taken:
      raise KdjaxError(f'data.{key} is set, and the data set {name!r} does not take it.')
  given |= {k: str(user_path(v)) if k == 'path' else v for k, v in offered.items() if v and k in taken}
  return catalogue.make('data', name, given, 'data.options')


def words(config: Mapping, found: DataSet, workdir: Path) -> Any:
  """The tokenizer: the one kept in `workdir`, a file's, or one trained on the training texts."""
  made, train = tokenizer.kept(workdir), found.splits['train']
  texts = [k for k, v in train[0].items() if isinstance(v, str)]
  if not texts:
    return None
  if made is None and config['tokenizer']:
    made = pretrained.words(config['tokenizer'])
  elif made is None:
    limit = min(len(train), config['vocab_examples'])
    rows = progress.track((train[i] for i in range(limit)), 'making the vocabulary', limit)
    given = (row[k] for row in rows for k in texts)
    made = tokenizer.train(given, config['vocab_size'], end='response' in texts)
  return tokenizer.cut(made, config['text_length'])


def limited(found: DataSet, limits: Mapping[str, int]) -> DataSet:
  """At most so many examples of each split, spread over the whole of it; 0 takes all."""
  splits = dict(found.splits)
  for split, n in limits.items():
    if n and split in splits and len(splits[split]) > n:
      splits[split] = Subset(splits[split], np.linspace(0, len(splits[split]) - 1, n).astype(int))
  return found._replace(splits=splits)


def few_labels(source: Any, share: float, seed: int) -> tuple[Any, Any]:
  """(the source with all but a share of its labels set to -1, its labelled part).

  The share is drawn within each class, at least one example of each.

  Raises:
    KdjaxError: if the labels cannot be held in memory, or are no classes.
  """
  if share >= 1:
    return source, source
  labels = source.arrays.get('label') if isinstance(source, pipeline.Columns) else None
  if labels is None or labels.ndim != 1:
    raise KdjaxError('data.labels below 1 needs one class label an example and data that fit in memory.')
  rng, kept = np.random.default_rng(seed), []
  if not np.any(labels >= 0):
    raise KdjaxError('data.labels is below 1, and no training example has a label: leave it at 1.')
  for label in np.unique(labels[labels >= 0]):
    rows = np.flatnonzero(labels == label)
    kept.append(rng.choice(rows, max(round(share * len(rows)), 1), replace=False))
  kept = np.sort(np.concatenate(kept))
  masked = np.full_like(labels, -1)
  masked[kept] = labels[kept]
  few = pipeline.Columns(source.arrays | {'label': masked})
  return few, pipeline.Columns(few.take(kept))


def data(config: Mapping, workdir: Path, data_dir: str | None, seed: int, cache: str = '') -> Data:
  """Everything of `config.data`, read and encoded; `cache` is where decoded splits are kept."""
  found = dataset(config, data_dir)
  splits, mark = table_file.canonical(found.splits), found.content or content(found.files)
  found = found._replace(splits=splits, content=mark)
  found = limited(found, config['limit'])
  for split in ('train', config['transfer'] or 'train', config['test']):  # before anything long is read
    pipeline.examples_of(found, split)
  found = encode_.with_ids(found)
  vocabulary = words(config, found, workdir)
  found = pipeline.spoken(found, vocabulary, config['prompt_length'])
  found, ranges = encode_.with_ranges(found, bool(config['image_size']))
  encode = encode_.make_encode(
    vocabulary, config['image_size'], len(found.classes), config['prompt_length'], ranges
  )

  same = {k: v for k, v in config.items() if k not in ('labels', 'test', 'transfer', 'memory')}
  said = json.dumps(same, sort_keys=True), found.fingerprint, mark, vocabulary and vocabulary.to_str()
  if trust.dotted(config['name']):  # a user's own module may change
    said += (inspect.getsource(catalogue.module('data', config['name'])),)
  kept = decoded.place(cache, found.files, *said)

  def read(split):
    return pipeline.read(found, split, encode, config['memory'], kept)

  train = read('train')
  transfer = read(config['transfer']) if config['transfer'] else train
  few, labelled = few_labels(transfer, config['labels'], seed)
  validation = read('validation') if 'validation' in found.splits else None
  return Data(found, vocabulary, encode, train, few, labelled, validation, read(config['test']), transfer)


def task(config: Mapping) -> Task:
  given = dict(config)
  return catalogue.make('tasks', given.pop('name'), given, 'task')


def module(config: Mapping, fill: Mapping[str, Any]) -> Any:
  """The Linen module of a config; dicts with a 'model' become modules themselves.

  Args:
    config: 'model' and the module's attributes.
    fill: attributes that the data decide, for modules that have them and were not given them.
  """
  if not isinstance(config, Mapping) or 'model' not in config:
    raise KdjaxError(f"a model is a dict, {{'model': its name, ...}}, and not {config!r}.")
  given = {k: v for k, v in config.items() if k not in start.KEYS}
  name = given.pop('model')
  known = catalogue.options('models', name)
  within = fill if start.whole(config) else {k: v for k, v in fill.items() if k != 'num_classes'}

  def inner(value):
    if not isinstance(value, Mapping):
      return value
    if 'model' in value:
      return module(value, within)
    return {k: inner(v) for k, v in value.items()}

  given = {k: inner(v) for k, v in given.items()}
  given |= {k: v for k, v in fill.items() if k in known and k not in given}
  made = catalogue.make('models', name, given)
  return start.Frozen(made) if config.get('frozen') else made


def fill(found: Data, wanted: Task) -> dict[str, int]:
  """The attributes of modules that the data decide."""
  classes = wanted.outputs(found.dataset).get('logits')
  size = 0 if found.words is None else tokenizer.size(found.words)
  words = {'vocab_size': size, 'tokens': size} if size else {}
  return words | ({'num_classes': classes} if classes else {})


def model(config: Mapping, found: Data, wanted: Task) -> Model:
  """A Model of `config['model']`, `config['inputs']`, `config['dtype']` and `config['drop']`."""
  net, still = module(config['model'], fill(found, wanted)), start.frozen(config['model'])
  return functions(net, config['inputs'], config['dtype'], config['drop'], still)


def functions(
  net: Any,
  inputs: Mapping[str, str],
  dtype: str = 'float32',
  drop: Mapping[str, float] | None = None,
  frozen: tuple[tuple[str, ...], ...] = (),
) -> Model:
  """A Linen module as two pure functions.

  Args:
    net: maps (inputs, train) to taps.
    inputs: model input -> batch key, with all that is below it ('/mask', '/present'); empty
      for the batch as it is.
    dtype: of the computation; the weights stay in float32.
    drop: input -> how often an example lacks it in training, see `augment.drop_modalities`.
    frozen: paths of the weights that are in the collection 'frozen', see `start.split`.

  Raises:
    KdjaxError: for another dtype, and for inputs that the batch does not have.
  """
  if dtype not in ('float32', 'bfloat16'):  # float16 would need its loss scaled
    raise unknown('dtype', dtype, ('float32', 'bfloat16'))

  def see(batch):
    seen = mapped(batch, inputs)
    if dtype != 'float32' and 'image' in seen:  # bytes would be scaled to float32
      seen['image'] = scale_image(seen['image'])
    sound = {k: seen[k] for k in ('audio',) if k in seen and dtype != 'float32'}
    return narrowed(seen, dtype) | sound | {f'{k}{COMPUTED}': jnp.zeros(1, dtype) for k in sound}

  def init(rng, batch):
    return start.split(net.init({'params': rng}, see(batch), train=False), frozen)

  def apply(variables, batch, *, train=False, rng=None):
    kept = {k: v for k, v in variables.items() if k != 'params'}
    merged = start.merge(variables)
    stats = {k: v for k, v in merged.items() if k != 'params'}
    ready = {'params': narrowed(merged['params'], dtype), **stats}
    rngs = {'dropout': rng} if rng is not None else {}
    seen = see(batch)
    if train and drop:
      for name in set(drop) - set(seen):
        raise KdjaxError(f'drop names {name!r}, and the inputs are {", ".join(sorted(seen))}.')
      hidden = not getattr(net, 'IGNORES_ABSENT', False)
      seen = augment.drop_modalities(jax.random.fold_in(rng, 1), seen, drop, hidden)
    if not train:
      return dict(net.apply(ready, seen, train=False)), kept
    outputs, updated = net.apply(ready, seen, train=True, rngs=rngs, mutable=list(stats))
    return dict(outputs), kept | dict(updated)

  members = tuple(sorted(net.members)) if getattr(net, 'WHOLE', False) else ()
  return views_.in_views(Model(init, apply, members))


def method(
  config: Mapping, steps: int, peer: Callable | None = None, examples: Callable[[], int] | None = None
) -> Method:
  """All losses of `config.methods`, combined: name -> weight, schedule, taps, options.

  Args:
    config: the dict of the recipe.
    steps: of the whole training.
    peer: makes a Model of the dict of one, for methods that train models of their own.
    examples: gives how many training examples there are, for the option that a method calls `EXAMPLES`.

  Raises:
    KdjaxError: for what is wrong with an entry.
  """
  made = {}
  if not isinstance(config, Mapping) or not all(isinstance(v, Mapping) for v in config.values()):
    raise KdjaxError(f'methods is {config!r}; it is a dict: name -> a dict of weight, taps and options.')

  def option(value):
    if not isinstance(value, Mapping):
      return value
    return peer(value) if 'model' in value else {k: option(v) for k, v in value.items()}

  for name, given in config.items():
    entry = loss_entry.read(name, given)
    options.check(entry.weight, options.Weight, f'methods.{name}.weight')
    own = options.check_all(optim.weight_schedule, entry.schedule, f'methods.{name}')
    given = {k: option(v) for k, v in entry.options.items()}
    counts = getattr(catalogue.module('methods', entry.method), 'EXAMPLES', None)
    if examples and counts and given.get(counts) is None:
      given[counts] = examples()
    method_ = catalogue.make('methods', entry.method, given, f'methods.{name}')
    if examples and counts and given[counts] < examples():
      raise KdjaxError(
        f"methods.{name}.{counts} is {given[counts]}, and the largest 'id' of the training data is "
        f'{examples() - 1}: set it to {examples()}, or leave it out.'
      )
    made[name] = (entry.weight, method_, optim.weight_schedule(steps, **own))
  return combine(made)


def maker(config: Mapping, found: Data, steps: int) -> data_free.Maker:
  """The maker of images of `config.generator`: 'scheme', 'model', 'optimiser', and the scheme's options."""
  given = dict(config)
  if missing := {'scheme', 'model', 'optimiser'} - given.keys():
    raise KdjaxError(f'generator has no {sorted(missing)[0]!r}: it needs a scheme, a model and an optimiser.')
  scheme, net, optimiser = (given.pop(k) for k in ('scheme', 'model', 'optimiser'))
  batch = next(pipeline.eval_batches(found.train, jax.process_count()))
  if 'image' not in batch:
    raise KdjaxError(f'a generator makes images, and the data have {", ".join(sorted(batch))}.')
  *size, channels = batch['image'].shape[1:]
  net = module(net, {'size': tuple(size), 'channels': channels})
  if not hasattr(net, 'noise'):
    raise KdjaxError("generator.model makes no images of noise: choose {'model': 'generator', ...}.")
  loss = catalogue.make('generators', scheme, given)
  return data_free.Maker(functions(net, {}), net.noise, loss, optim.optimiser(optimiser, steps))


def view(config: Mapping, seed: int, views: Mapping = {}) -> Callable:
  """What augments the batches of a training, `config` that of its 'train', and adds views of them."""
  return augment.make_view(tuple(config['augment']), seed, {k: tuple(v) for k, v in views.items()})
