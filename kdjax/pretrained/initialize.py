"""Where a model's weights start: parts of it from published checkpoints or cut out of the teacher, and parts
that stay as they are.

Any dict of a model, at any depth of a config, may have 'init' and 'frozen'. An 'init' is a checkpoint, or
{'from': 'teacher', ...} with the options of `inherit` and 'part', the teacher's ('encoders_text'; by default
that of the same place). {'from': 'teacher', 'classifier': True} is that part's classifier alone, which stays
as it is (SimKD: Chen et al., 2203.14001).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from kdjax import pretrained, registry
from kdjax.errors import KdjaxError, unknown
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import log_mel
from kdjax.nn.functional import HEAD, merge, split
from kdjax.pretrained import safetensors_io, texts
from kdjax.pretrained.inherit import inherit
from kdjax.types import TrainState

KEYS = ('init', 'frozen')  # of a model's dict, beside the attributes of its module


class Frozen(nn.Module):
  """A module that always runs as in evaluation, under its own names."""

  model: nn.Module

  def setup(self):
    nn.share_scope(self, self.model)

  def __call__(self, inputs, train: bool = False):
    return self.model(inputs, train=False)


class Part(NamedTuple):
  """A model's dict within a config.

  Attributes:
    path: of its variables in those of the whole model, as Flax names them.
    config: the dict, without `KEYS`.
    init, frozen: what it has of them.
    whole: whether it is a model with a classifier of its own, a member of an ensemble.
  """

  path: tuple[str, ...]
  config: Mapping[str, Any]
  init: str | Mapping[str, Any]
  frozen: bool
  whole: bool = False


def whole(config: Mapping[str, Any]) -> bool:
  """Whether the models within that of a config are whole ones."""
  return 'model' in config and getattr(registry.entry('models', config['model']), 'WHOLE', False)


def parts(config: Mapping[str, Any], path: tuple[str, ...] = (), member: bool = False) -> Iterator[Part]:
  """The model of a config and those within it."""
  own = {k: v for k, v in config.items() if k not in KEYS}
  yield Part(path, own, config.get('init') or '', bool(config.get('frozen')), member)
  members = whole(config)

  def below(tree, name):
    for key, value in tree.items():
      if isinstance(value, Mapping):
        inner = f'{name}_{key}'.lstrip('_')  # Flax joins the name of a dict and its key
        yield from parts(value, (*path, inner), members) if 'model' in value else below(value, inner)

  yield from below(own, '')


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
  """A model's dict, the attributes that it leaves out taken from the checkpoints that it names.

  Raises:
    KdjaxError: as `pretrained.complete` does.
  """

  def inner(value):
    if not isinstance(value, Mapping):
      return value
    model = {k: inner(v) for k, v in value.items()}
    if 'model' not in model or not isinstance(model.get('init') or {}, str):
      return model
    completed = pretrained.complete(model['init'], {k: v for k, v in model.items() if k not in KEYS})
    if 'num_classes' not in model:
      completed.pop('num_classes', None)  # the data's
    return completed | {k: model[k] for k in KEYS if k in model}

  return inner(config)


def check(config: Mapping[str, Any], tokenizer: Any, chosen: str, rate: int, whose: str) -> None:
  """What the data's texts and sounds have to be for a model and its checkpoints, known before any is read.

  Args:
    config: of a model, from `complete`.
    tokenizer: the data's tokenizer, None without texts.
    chosen: `data.tokenizer`.
    rate: samples a second of the data's sounds, 0 where it is not known.
    whose: 'teacher' or 'student'.

  Raises:
    KdjaxError: if the model has fewer tokens than the tokenizer or takes sound at another rate, and as
      `pretrained.texts.check` does.
  """
  for part in parts(config):
    where = '.'.join((whose, 'model', *part.path))
    rows = part.config.get('vocab_size')
    if tokenizer is not None and isinstance(part.init, str) and part.init:
      texts.check(part.init, part.config, tokenizer, chosen, where)
    if tokenizer is not None and isinstance(rows, int) and rows < (tokens := tokenizers.size(tokenizer)):
      raise KdjaxError(
        f"{where}.vocab_size is {rows:,}, and the data's tokenizer has {tokens:,} tokens: leave it out, or "
        'set data.tokenizer to one of no more.'
      )
    mel = registry.options('models', part.config['model']).get('mel') if 'model' in part.config else None
    mel = part.config.get('mel', mel)
    if rate and mel and log_mel.settings(mel).rate != rate:
      raise KdjaxError(
        f'{where}.mel is of sound with {log_mel.settings(mel).rate:,} samples a second, and the data have '
        f'{rate:,}: resample the data.'
      )
    theirs = registry.options('models', part.config['model']).get('rate') if 'model' in part.config else None
    theirs = part.config.get('rate', theirs)
    if rate and isinstance(theirs, int) and theirs != rate:
      raise KdjaxError(
        f'{where}.rate is {theirs:,} samples a second, and the data have {rate:,}: resample the data.'
      )


def _without_head(tree: Mapping) -> dict:
  """A tree of collections, without the classifier in any of them."""
  return {kind: {k: v for k, v in variables.items() if k != HEAD} for kind, variables in tree.items()}


def load(
  config: Mapping[str, Any],
  like: Mapping,
  vocabulary: str = '',
  teacher: Callable[[], tuple[Mapping, Mapping]] | None = None,
  classes: Sequence[str] = (),
) -> dict:
  """The variables that the 'init's of a config give: a part of `like`, without the classifiers of parts that
  are no whole models.

  Args:
    config: of a model, from `complete`.
    like: its variables as shapes.
    vocabulary: a hash of the tokenizer in use, '' for none.
    teacher: gives the config of the teacher's model and its variables, where there is one.
    classes: the names of the data's classes, as `pretrained.load` takes them.

  Raises:
    KdjaxError: as `pretrained.load` and `inherit` do.
  """
  every, merged = flatten_dict(merge(like)), {}
  for part in parts(config):
    if not part.init:
      continue
    template = _below(every, part.path)
    headless = _without_head(template)
    if isinstance(part.init, Mapping):
      loaded = _inherited(part, template if _reuses_classifier(part) else headless, teacher)
    elif part.whole:
      loaded = pretrained.load(part.init, part.config, template, vocabulary, classes=classes)
    else:
      attributes = {k: v for k, v in part.config.items() if k != 'num_classes'}
      loaded = pretrained.load(part.init, attributes, headless, vocabulary, without=HEAD)
    merged |= {(k[0], *part.path, *k[1:]): v for k, v in flatten_dict(loaded).items()}
  return split(unflatten_dict(merged), frozen(config)) if merged else {}


def _below(flat, path):
  """The variables of one part, from those of all with the path of each."""
  at = len(path)
  return unflatten_dict({(k[0], *k[at + 1 :]): v for k, v in flat.items() if k[1 : at + 1] == path})


def _reuses_classifier(part):
  return isinstance(part.init, Mapping) and bool(part.init.get('classifier'))


def _classifier(variables, like):
  """The classifier among variables, of the shapes that it has in `like`."""
  stored, wanted = (
    {kind: {HEAD: tree[HEAD]} for kind, tree in variables_.items() if HEAD in tree}
    for variables_ in (variables, like)
  )
  return safetensors_io.fit(flatten_dict(stored, sep='/'), wanted, "the teacher's classifier")


def _inherited(part, like, teacher):
  options = dict(part.init)
  if options.pop('from', '') != 'teacher' or teacher is None:
    raise KdjaxError(
      f"init is {dict(part.init)!r}; it is a checkpoint, or {{'from': 'teacher', ...}} in a student's model."
    )
  where, alone = options.pop('part', '/'.join(part.path)), options.pop('classifier', False)
  known = () if alone else ('layers', 'width')
  for key in options:
    if key not in known:
      raise unknown('key of init', key, ('from', 'part', 'classifier', *known))
  config, variables = teacher()
  theirs = {'/'.join(p.path): p for p in parts(config)}
  if where not in theirs:
    raise unknown("part of the teacher's model", where, theirs)
  source = _below(flatten_dict(merge(variables)), theirs[where].path)
  if alone:
    return _classifier(source, like)
  return inherit(source, like, teacher=theirs[where].config, student=part.config, **options)


def frozen(config: Mapping[str, Any]) -> tuple[tuple[str, ...], ...]:
  """The paths whose weights are not trained: of a whole model its classifier's too, and reused ones."""
  still = [part for part in parts(config) if part.frozen]
  reused = tuple((*part.path, HEAD) for part in parts(config) if _reuses_classifier(part))
  whole_ones = [p for p in still if p.whole or registry.is_object(p.config['model'])]
  return tuple(p.path for p in still) + tuple((*p.path, HEAD) for p in whole_ones) + reused


def apply_init(place: Any) -> Callable:
  """`begun(state, start) -> TrainState` of stacked seeds, which all start from the variables of `start`."""

  def over(tree, start):
    stacked: dict[tuple, Any] = flatten_dict(tree)
    single: dict[tuple, Any] = flatten_dict(start)
    broadcast = {k: jnp.broadcast_to(v, stacked[k].shape) for k, v in single.items()}
    return unflatten_dict(stacked | broadcast)

  def begun(state: TrainState, start: Mapping) -> TrainState:
    collections = dict(start)
    params = state.params | {'student': over(state.params['student'], collections.pop('params'))}
    stats = state.stats | {'student': over(state.stats['student'], collections)}
    smooth = jax.tree.map(jnp.copy, over(state.ema, start)) if state.ema else {}
    return state.replace(params=params, stats=stats, ema=smooth)

  return jax.jit(begun, out_shardings=place)
