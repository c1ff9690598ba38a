"""The types that the parts of kdjax exchange.

Shapes: B batch, C classes, L text positions, N audio samples, H W spatial.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from pydantic import InstanceOf, WithJsonSchema

Array = jax.Array

# The arrays of a batch by key. '<modality>/mask' is the validity of positions, '<modality>/present' [B]
# whether an example has the modality at all.
BATCH = {
  'image': 'u8 or f32 [B, H, W, C]',
  'text': 'i32 [B, L], ids of tokens',
  'audio': 'f32 [B, N], samples from -1 to 1',
  'video': 'u8 or f32 [B, T, H, W, C]',
  'label': 'i32 [B], -1 where it is missing; a number: f32, NaN where it is missing; several: i32 [B, C]',
  'mask': "f32 [B], 0 for the padding of an evaluation's last batch",
  'id': 'i32 [B], of the example; with the epoch it seeds the augmentation',
  'epoch': 'i32 [B]',
  'group': 'i32 [B], equal for what belongs together, such as the captions of an image',
  'language': 'i32 [B], of a text, an index of `DataSet.languages`',
  'domain': 'i32 [B], where an example comes from, an index of `DataSet.domains`',
}
NO_INPUT = ('label', 'mask', 'id', 'epoch', 'group', 'language', 'domain')  # keys that no model reads
MODALITIES = ('image', 'text', 'audio', 'video', 'words')  # the usual ones; any other name is one too
# The usual taps of a model; others are named after their module, such as 'image/stage1'.
TAPS = {
  'logits': 'f32 [B, C], or [B, L, C] of a language model',
  'embed': 'f32 [B, D], one vector an example',
  '<modality>/embed': 'f32 [B, D], of one encoder',
  '<modality>/stage<n>': 'f32 [B, H, W, C], from the bottom up',
  '<modality>/block<n>': 'f32 [B, L, D], from the bottom up',
}


def readable(keys: Iterable[str]) -> list[str]:
  """The keys of a batch that a model may read, without those of masks; the usual ones first."""
  bare = [k for k in keys if k not in NO_INPUT and '/' not in k]
  return [k for k in MODALITIES if k in bare] + sorted(k for k in bare if k not in MODALITIES)


def modalities(arrays: Mapping[str, Any]) -> list[str]:
  """The modalities of a batch: the usual ones, and arrays of floats by any name, such as those of a sensor.

  Args:
    arrays: key -> an array, its (shape, dtype), or the key that it is mapped to.
  """

  def of_floats(value):
    kind = value[1] if isinstance(value, tuple | list) else getattr(value, 'dtype', None)
    return kind is None or jnp.issubdtype(kind, jnp.floating)

  return [k for k in readable(arrays) if k in MODALITIES or of_floats(arrays[k])]


def meaning(key: str) -> str:
  """The description of a batch key or tap in brackets, after a space; '' for another name."""
  holds = BATCH.get(key) or TAPS.get(key)
  return f' ({holds})' if holds else ''


Batch = Mapping[str, Array]
Outputs = Mapping[str, Array]  # a flat dict of named arrays, the taps

# Divided at the very end, so that a mean is the same however the batch is split.
SumCount = tuple[Array, Array]
Variables = Mapping[str, Any]  # 'params' and the other collections of Flax


class MethodInit(Protocol):
  """Initialises the parameters of a method."""

  def __call__(self, rng: Array, s: Outputs, t: Outputs, batch: Batch, /) -> tuple[Any, Any]:
    """(params, stats) from one batch's taps of student and teacher, both `{}` where nothing is learned."""
    ...


class MethodLoss(Protocol):
  """The loss of a method, a pure function."""

  def __call__(
    self, params: Any, stats: Any, s: Outputs, t: Outputs, batch: Batch, /, *, step: Array, rng: Array
  ) -> tuple[Any, Any]:
    """((sum, count), new stats); a combined method gives one (sum, count) a name."""
    ...


class ModelInit(Protocol):
  """Initialises a model."""

  def __call__(self, rng: Array, batch: Batch, /) -> dict[str, Any]:
    """Its variables."""
    ...


class ModelApply(Protocol):
  """The forward pass of a model."""

  def __call__(
    self, variables: Any, batch: Batch, /, *, train: bool = False, rng: Array | None = None
  ) -> tuple[dict[str, Array], dict[str, Any]]:
    """(taps, the collections beside 'params': updated in training, else as they came)."""
    ...


class TaskLoss(Protocol):
  """The supervised loss of a task."""

  def __call__(self, outputs: Outputs, batch: Batch, /) -> SumCount: ...


class TaskMetrics(Protocol):
  """Metrics that are means over examples."""

  def __call__(self, outputs: Outputs, batch: Batch, /) -> Mapping[str, SumCount]: ...


class Method(NamedTuple):
  """A distillation method: two pure functions, as an optax transformation is.

  Attributes:
    init: `(rng, s, t, batch) -> (params, stats)`, both `{}` where nothing is learned.
    loss: `(params, stats, s, t, batch, *, step, rng) -> ((sum, count), new_stats)`. A combined
      method returns one `(sum, count)` a name. A relation over the whole batch counts once.
    relational: whether the loss relates the examples of a batch to each other, so that a part
      of the batch does not give a part of the loss; or `(params, stats) -> bool` where that depends on
      its parameters. `loss_weights.related` evaluates it.
    gains: `(stats) -> {submodule of the student: factor}`, of the statistics that the loss returned, by which
      the gradients of the weights of those submodules are multiplied, those from the labels and from other
      methods too; None for a method that scales none. `training.gains` does it.
  """

  init: MethodInit
  loss: MethodLoss
  relational: bool | Callable[[Any, Any], bool] = False
  gains: Callable[[Any], Mapping[str, Array]] | None = None

  def __call__(
    self,
    s: Outputs | Array,
    t: Outputs | Array,
    batch: Batch | None = None,
    *,
    params: Any = None,
    stats: Any = None,
    step: Array | int = 0,
    rng: Array | None = None,
  ) -> Array:
    """The mean loss [], for a training loop of your own.

    Args:
      s: the student's taps, or its logits [B, C] alone.
      t: the teacher's taps, or its logits [B, C] alone; no gradient reaches them.
      batch: what the method reads beside taps, such as 'label' [B]; 'mask' [B] leaves examples out.
      params: what the method learns, the first of `init`'s pair; most learn nothing.
      stats: what it keeps between steps, the second. A method that changes it needs `loss`, which returns it.
      step: of the training, for methods with a schedule of their own.
      rng: a key, for methods that draw.
    """
    s, t = ({'logits': x} if not isinstance(x, Mapping) else x for x in (s, t))
    key = jax.random.key(0) if rng is None else rng
    (total, count), _ = self.loss(
      params or {}, stats or {}, s, t, batch or {}, step=jnp.asarray(step), rng=key
    )
    return total / jnp.maximum(count, 1e-12)


class Task(NamedTuple):
  """A supervised task: loss, metrics and predictions.

  Attributes:
    loss: `(outputs, batch) -> (sum, count)`, the supervised loss.
    metrics: `(outputs, batch) -> {name: (sum, count)}`.
    gather: the taps and batch keys that `finalize` reads, gathered over a split.
    finalize: `(gathered) -> {name: float}`, metrics that are no mean over examples.
    references: `(train, test) -> {name: float}` over two sources, the scores of trivial
      predictors, such as the majority class.
    compare: `(teacher, student) -> {name: float}` over two gathered dicts.
    metric: the name of the primary metric.
    higher_is_better: its direction.
    outputs: `(dataset) -> {tap: size of its last axis, or None for any}`, the taps a model must have.
    whole: whether `metric` is one of `finalize`'s, which only a whole split gives.
    relational: whether the loss relates examples or modalities to each other, so that a part of a batch
      gives no part of the loss, and a prediction needs every input.
    label: the kind of 'label' it reads: 'class' i32 [B], -1 where it is missing, 'number' f32 [B], NaN where
      it is missing, 'classes' i32 [B, C] of 0, 1 and -1 where it is missing, or '' for none or any.
    hides_labels: whether a label of -1 is a missing one, so that `data.labels` can hide labels.
    prompted: whether what a model writes answers a text, and not an image alone.
    cards: `(gathered, examples, classes) -> [card]` for the report's gallery; `gathered` maps a stage to its
      gathered dict, `examples` is the split of the data set. A card has 'truth', a prediction under the
      name of each stage, and where there are any 'image' u8 [H, W, C], 'text' and 'audio' f32 [N]. The truth
      is a str, or a tuple of references, against which nothing is right or wrong. A prediction is a str or,
      in retrieval, [{'image', 'text', 'right'}], the best first.
    answer: `(outputs, classes) -> [(name, score)]`, the predictions for one example's taps [...], the best
      first.
  """

  loss: TaskLoss
  metrics: TaskMetrics
  gather: tuple[str, ...]
  finalize: Callable
  references: Callable
  compare: Callable
  metric: str
  higher_is_better: bool
  outputs: Callable
  cards: Callable
  answer: Callable
  whole: bool = False
  relational: bool = False
  hides_labels: bool = False
  label: str = ''
  prompted: bool = True


class DataSet(NamedTuple):
  """Named splits of examples with random access.

  Attributes:
    splits: at least 'train' and 'test'; an example is a dict of NumPy arrays, ints and str,
      with the keys of a Batch ('image', 'text', 'label', 'id', ...).
    classes: the names of the labels, in order.
    fingerprint: changes when the content does.
    licence: what a user may do with it.
    rate: samples a second of its sounds, 0 without any.
    languages: the names of the values of 'language', in order, where examples have it.
    domains: the names of the values of 'domain', in order, where examples have it, each scored apart.
    files: of the content; where they are named, decoded splits are cached on disk, and a workdir and a store
      record their `content`.
    content: a hash of the content of the files, '' for none.
    heuristics: name -> `(arrays of a split) -> predicted labels [N]`, simple rules that are no models: the
      comparison has their accuracy among its references.
  """

  splits: Mapping[str, Sequence[Mapping[str, Any]]]
  classes: tuple[str, ...]
  fingerprint: str
  licence: str = ''
  rate: int = 0
  languages: tuple[str, ...] = ()
  domains: tuple[str, ...] = ()
  files: tuple[Path, ...] = ()
  content: str = ''
  heuristics: Mapping[str, Callable] = {}


class Model(NamedTuple):
  """A Flax module behind two pure functions.

  Attributes:
    init: `(rng, batch) -> variables`.
    apply: `(variables, batch, *, train=False, rng=None) -> (outputs, stats)`; `stats` are the
      updated mutable collections in training and those passed in otherwise.
    members: names of the whole models within it, each of which is trained on the labels separately.
  """

  init: ModelInit
  apply: ModelApply
  members: tuple[str, ...] = ()


# Options that are models: a Linen submodule, and a model that a method trains.
Module = Annotated[InstanceOf[nn.Module], WithJsonSchema({'title': 'a model'})]
Peer = Annotated[InstanceOf[Model], WithJsonSchema({'title': 'a model'})]


class TrainState(struct.PyTreeNode):
  """Arrays only: exactly what is donated, sharded and checkpointed.

  Randomness is `fold_in(seed, step)`, so no key is stored and a resumed run is reproducible: see `streams`.
  """

  step: Array  # i32 []
  seed: Array  # u32 []
  params: Any  # {'student': ..., 'method': ...}
  stats: Any  # {'student': ..., 'method': ...}
  opt_state: Any
  ema: Any  # the student's variables averaged, or {} without an average


class GeneratorLoss(NamedTuple):
  """The loss of a generator, and the student steps after each of its own.

  Attributes:
    loss: `(s, t, *, step) -> {name: (sum, count)}`, terms with their weights, of the student's and the
      teacher's taps of the generated images, with gradients to the images.
    student_steps: student steps for one generator step.
    images: of the student's steps. 'same': those of the generator's step, from before its update. 'noise':
      its noise through the updated generator. 'fresh': new noise for each step.
  """

  loss: Callable
  student_steps: int
  images: str
