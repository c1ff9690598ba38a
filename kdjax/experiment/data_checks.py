"""Checks of the examples of every split, once before anything is trained."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.workdir import checked
from kdjax.input import encode, images, pipeline
from kdjax.input import splits as splits_
from kdjax.runtime.progress import bar, say
from kdjax.types import NO_INPUT, Task


class Reads(NamedTuple):
  """What a task reads as labels: kinds of NumPy's types, and words."""

  dtypes: str
  words: str


READS = {
  'class': Reads('iu', 'one whole number, []'),
  'number': Reads('iuf', 'one number, []'),
  'classes': Reads('iu', '0, 1 or -1 for each class, [C]'),
}


def check(experiment: Experiment) -> None:
  """Checks every example that training or evaluation will read, and prints warnings.

  A split that is not held in memory is read from start to end, once for a workdir.

  Raises:
    KdjaxError: for an example that cannot be read, examples of different shapes or types, numbers that are
      not finite, labels that the task cannot read, and a split that needs labels and has none.
  """
  data, config, task = experiment.data, experiment.config['data'], experiment.task
  checked_before = checked(experiment)
  splits = {'train': data.train, (config['transfer'] or 'train'): data.transfer_set}
  splits |= {} if data.validation is None else {'validation': data.validation}
  splits |= {**data.also, config['test']: data.test}
  first, statistics, where = {}, {}, "in the first of 'train'"
  for split, source in splits.items():
    if isinstance(source, splits_.LazySplit) and checked_before:
      continue
    statistics[split] = SplitStatistics(split, task)
    for arrays in chunks(split, source):
      first = first or arrays
      both = arrays.keys() & first.keys()
      splits_.check_alike(f'the split {split!r}', arrays, first, 'in some examples', where, both)
      statistics[split].add(arrays)
    if arrays.keys() != first.keys():
      _check_inputs(experiment, split, source)
  if not checked_before:
    for split_statistics in statistics.values():
      split_statistics.warn()
    _warn_overlap(statistics)
  if task.label:
    _check_labels(
      experiment, {split: split_statistics.known for split, split_statistics in statistics.items()}
    )


def chunks(split, source) -> Iterable[Mapping[str, np.ndarray]]:
  """The arrays of a split: of all examples in memory, else of some examples at a time."""
  if isinstance(source, splits_.InMemorySplit):
    yield source.arrays
    return
  counts, at_once = {}, splits_.chunk(source.examples[0])
  with bar(f'checking {split}', len(source), 'example') as shown:
    for start in range(0, len(source), at_once):
      rows = range(start, min(start + at_once, len(source)))
      examples = images.in_threads(lambda i: source.examples[i], rows)
      arrays, counts = encode.count(source.encode(examples), counts)
      yield arrays
      shown.update(rows.stop)
  encode.tell(split, len(source), counts)


class SplitStatistics:
  """Running statistics of the examples of a split.

  Attributes:
    known: how many examples have a label, 0 where the task reads none.
    hashes: of the inputs of each example.
  """

  def __init__(self, split: str, task: Task):
    self.split, self.task = split, task
    self.n, self.known, self.flat, self.high = 0, 0, 0, 0
    self.hashes, self.ids = [], []

  def add(self, arrays: Mapping[str, np.ndarray]) -> None:
    """Adds some of the examples.

    Raises:
      KdjaxError: as `check` does.
    """
    n = len(next(iter(arrays.values())))
    for key, array in arrays.items():
      if key != 'label' and array.dtype.kind == 'f':
        for row in np.flatnonzero(~np.isfinite(array.reshape(n, -1)).all(1))[:1]:
          raise KdjaxError(f'{self._name(arrays, row)} has values in {key!r} that are no finite numbers.')
    if self.task.label:
      self.known += _known(self.task.label, arrays, self._name(arrays, 0))
    if 'image' in arrays and arrays['image'].dtype == np.uint8:
      pixels = arrays['image'].reshape(n, -1)
      low, high = pixels.min(1), pixels.max(1)
      self.flat, self.high = self.flat + int(np.sum(low == high)), max(self.high, int(high.max()))
    self.hashes.append(hashes({k: v for k, v in arrays.items() if k not in NO_INPUT}, n))
    self.ids.append(np.asarray(arrays['id']) if 'id' in arrays else np.arange(self.n, self.n + n))
    self.n += n

  def _name(self, arrays, row):
    example_id = f' {arrays["id"][row]}' if 'id' in arrays else ''
    return f'the example{example_id} of the split {self.split!r}'

  def warn(self) -> None:
    """Prints warnings."""
    if 2 * self.flat > self.n:
      say(f'warning: {self.split}: {self.flat:,} of {self.n:,} images are of one colour alone.')
    elif 0 < self.high <= 1:
      say(f'warning: {self.split}: all images are of bytes 0 and 1, of 255: black to the eye.')
    ids = np.concatenate(self.ids)
    if many := len(ids) - len(np.unique(ids)):
      say(
        f"warning: {self.split}: {many:,} examples have the 'id' of another: augmentation draws the same for "
        'both, and a teacher store refuses them.'
      )


def _check_inputs(experiment, split, source) -> None:
  """Raises KdjaxError if a split lacks an input of a model."""
  batch = next(pipeline.eval_batches(source, jax.process_count()))
  stages = ('student',) if experiment.config['teacher']['outputs'] else ('teacher', 'student')
  for stage in stages:  # the outputs of a teacher may be of the training examples alone
    model, variables = experiment.model(stage), experiment.shapes(stage)[0]
    try:
      jax.eval_shape(lambda v, b, m=model: m.apply(v, b, train=False)[0], variables, batch)
    except (KeyError, KdjaxError) as e:
      keys = ', '.join(k for k in batch if k not in ('mask', 'epoch'))
      raise KdjaxError(f'the {stage} cannot read the split {split!r}, which has {keys}: {e}') from e


def _known(kind, arrays, name) -> int:
  """How many labels are known; KdjaxError if their type or rank is not what the task reads."""
  if 'label' not in arrays:
    raise KdjaxError(f"{name} has no 'label', and the task needs one: it has {', '.join(arrays)}.")
  label, reads = arrays['label'], READS[kind]
  if label.ndim != 1 + (kind == 'classes') or label.dtype.kind not in reads.dtypes:
    raise KdjaxError(
      f"{name} has a 'label' that is {label.dtype} {list(label.shape[1:])}; the task reads {reads.words}."
    )
  return encode.known_labels(kind, label)


def hashes(arrays, n) -> np.ndarray:
  """64 bits of each example's inputs, [n]."""
  hashes = np.zeros(n, np.uint64)
  for key in sorted(arrays):
    rows = np.ascontiguousarray(arrays[key]).reshape(n, -1)
    row_hashes = np.fromiter((hash(row.tobytes()) & (2**64 - 1) for row in rows), np.uint64, n)
    hashes = hashes * np.uint64(6364136223846793005) + row_hashes
  return hashes


def _warn_overlap(by_split) -> None:
  """Prints how many examples of an evaluation split are in the training split too."""
  train_hashes = by_split['train'].hashes if 'train' in by_split else [np.array([], np.uint64)]
  train = np.unique(np.concatenate(train_hashes))
  for split, statistics in by_split.items():
    if split == 'train' or not statistics.hashes or split.startswith('transfer'):
      continue
    if overlap := int(np.isin(np.concatenate(statistics.hashes), train).sum()):
      many = f'{overlap:,} of {statistics.n:,} examples'
      say(f'warning: {many} of {split!r} stand in train too, with the same inputs.')


def _check_labels(experiment, known: Mapping[str, int]) -> None:
  """Raises KdjaxError if a split has no label and needs some, else warns."""
  config, data = experiment.config, experiment.data
  test = config['data']['test']
  if known.get(test) == 0:
    others = [s for s in data.dataset.splits if s not in ('train', test) and known.get(s, 1)]
    advice = f'set data.test={others[0]}' if others else 'give it labels'
    raise KdjaxError(f'no example has a label in {test!r}, and the comparison needs some: {advice}.')
  for split in data.also:
    if known.get(split) == 0:
      raise KdjaxError(f'no example has a label in {split!r}, which data.also names: leave it out.')
  if known.get('validation') == 0:  # too large for memory: others were left out when they were read
    raise KdjaxError("no example has a label in 'validation': give it some, or leave the split out.")
  if config['select'] == 'best' and test == 'validation':
    say("warning: select='best' chooses weights on 'validation', which the comparison is of too.")
  if known.get('train') == 0:
    if not experiment.teacher_is_published and not experiment.teacher_from:
      raise KdjaxError(
        "no example has a label in 'train', and the teacher learns from labels: give it some, or "
        'take a teacher that is trained, with teacher.init.'
      )
    say("warning: no example has a label in 'train': the baseline learns nothing.")
