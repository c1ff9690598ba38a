"""Every type that the parts of kdjax hand to each other.

Shapes: B batch, C classes, L text positions, N audio samples, H W spatial.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import flax.linen as nn
import jax
from flax import struct
from pydantic import InstanceOf, WithJsonSchema

Array = jax.Array

# What the keys of a batch hold. '<modality>/mask' is the validity of positions, '<modality>/present' [B]
# whether an example has the modality at all.
BATCH = {
  'image': 'u8 or f32 [B, H, W, C]',
  'text': 'i32 [B, L], ids of tokens',
  'audio': 'f32 [B, N], samples from -1 to 1',
  'video': 'u8 or f32 [B, T, H, W, C]',
  'label': 'i32 [B], -1 where it is not known; f32 for a number, NaN where it is not known',
  'mask': "f32 [B], 0 for the padding of an evaluation's last batch",
  'id': 'i32 [B], of the example: names, with the epoch, the view that augmentation draws',
  'epoch': 'i32 [B]',
  'group': 'i32 [B], equal for what belongs together, such as the captions of an image',
}
# What the usual taps of a model hold; the rest are named after their place, such as 'image/stage1'.
TAPS = {
  'logits': 'f32 [B, C], or [B, L, C] of a language model',
  'embed': 'f32 [B, D], one vector an example',
  '<modality>/embed': 'f32 [B, D], of one encoder',
  '<modality>/stage<n>': 'f32 [B, H, W, C], from the bottom up',
  '<modality>/block<n>': 'f32 [B, L, D], from the bottom up',
}


def meaning(key: str) -> str:
  """What a batch key or tap of that name holds, in brackets after a space; '' for another name."""
  holds = BATCH.get(key) or TAPS.get(key)
  return f' ({holds})' if holds else ''


Batch = Mapping[str, Array]
Outputs = Mapping[str, Array]  # a flat dict of named arrays, the taps

# Kept apart until the very end, so that a mean is the same however the batch was split.
SumCount = tuple[Array, Array]
Variables = Mapping[str, Any]  # 'params' and the other collections of Flax


class MethodInit(Protocol):
  """Initialises what a method learns."""

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
      of the batch does not give a part of the loss; or `(params, stats) -> bool` where that shows in
      what the method learns and keeps for its taps. Ask `methods.related`.
  """

  init: MethodInit
  loss: MethodLoss
  relational: bool | Callable[[Any, Any], bool] = False


class Task(NamedTuple):
  """What the labels ask for.

  Attributes:
    loss: `(outputs, batch) -> (sum, count)`, the supervised loss.
    metrics: `(outputs, batch) -> {name: (sum, count)}`.
    gather: the taps and batch keys that `finalize` wants for the whole split.
    finalize: `(gathered) -> {name: float}`, metrics that are no mean over examples.
    references: `(train, test) -> {name: float}` over two sources, the scores of answers that
      need no model: what a result has to be compared with.
    compare: `(teacher, student) -> {name: float}` over two gathered dicts.
    metric: the name of the metric that counts.
    higher_is_better: its direction.
    outputs: `(dataset) -> {tap: size of its last axis, or None for any}`, what a model must give.
    whole: whether `metric` is one of `finalize`'s, which only a whole split gives.
    relational: whether the loss relates examples or modalities to each other, so that a part of a batch
      gives no part of the loss, and an answer needs every input.
    label: what it reads of 'label': 'class' i32 [B], -1 where it is not known, 'number' f32 [B], NaN where it
      is not known, or '' for nothing or whatever there is.
    hides_labels: whether a label of -1 is one that is not known, so that few labels can be tried.
    cards: `(gathered, examples, classes) -> [card]` for the report's gallery; `gathered` is what each
      stage gave, stage -> dict, `examples` the split as the data set gives it. A card has 'truth', an answer
      under the name of each stage, and what there is of 'image' u8 [H, W, C], 'text' and 'audio' f32 [N].
      An answer is a str or, where things are found, [{'image', 'text', 'right'}], the best first.
    answer: `(outputs, classes) -> [(name, score)]` of one example's taps [...], the best first.
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
    files: what the content comes from; where they are named, a split that was decoded is kept on disk, and a
      workdir and a store know the `content` of them again.
    content: a hash of what the files hold, '' for none.
  """

  splits: Mapping[str, Sequence[Mapping[str, Any]]]
  classes: tuple[str, ...]
  fingerprint: str
  licence: str = ''
  rate: int = 0
  languages: tuple[str, ...] = ()
  files: tuple[Path, ...] = ()
  content: str = ''


class Model(NamedTuple):
  """A Flax module behind two pure functions.

  Attributes:
    init: `(rng, batch) -> variables`.
    apply: `(variables, batch, *, train=False, rng=None) -> (outputs, stats)`; `stats` are the
      updated mutable collections in training and those passed in otherwise.
    members: names of the whole models within it, each of which learns from the labels on its own.
  """

  init: ModelInit
  apply: ModelApply
  members: tuple[str, ...] = ()


# Options that are models: a Linen module within another, and a model that a method trains.
Module = Annotated[InstanceOf[nn.Module], WithJsonSchema({'title': 'a model'})]
Peer = Annotated[InstanceOf[Model], WithJsonSchema({'title': 'a model'})]


class TrainState(struct.PyTreeNode):
  """Arrays only: exactly what is donated, sharded and checkpointed.

  Randomness is `fold_in(seed, step)`, so no key is stored and a resumed run repeats itself: see `streams`.
  """

  step: Array  # i32 []
  seed: Array  # u32 []
  params: Any  # {'student': ..., 'method': ...}
  stats: Any  # {'student': ..., 'method': ...}
  opt_state: Any
  ema: Any  # the student's variables averaged, or {} when no average is kept


class GeneratorLoss(NamedTuple):
  """What a generator is trained for, and how the student's steps follow its own.

  Attributes:
    loss: `(s, t, *, step) -> {name: (sum, count)}`, terms with their weights, of the student's and the
      teacher's taps of the generated images; what it stops no gradient of reaches the images.
    student_steps: of the student for one of the generator.
    images: of the student's steps. 'same': those that the generator's step was made from, before it.
      'noise': its noise again, through the generator after it. 'fresh': new noise for each.
  """

  loss: Callable
  student_steps: int
  images: str
