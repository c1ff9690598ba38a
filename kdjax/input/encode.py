"""Examples as arrays: texts as ids, images as pixels in one range, labels as whole numbers, all checked."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from kdjax.errors import KdjaxError
from kdjax.input import images
from kdjax.input import tokenizer as tokenizers
from kdjax.input.chunks import chunks
from kdjax.runtime import files, notices
from kdjax.runtime.progress import counted, say
from kdjax.types import DataSet

# Counts of a text that are in no batch: whether it was truncated, its words, its unknown words.
COUNTED = CUT, WORDS, UNKNOWN = '/cut', '/words', '/unknown'
TEACHER = 'text/teacher'  # the text, as ids of a tokenizer of the teacher's own
INT32 = np.iinfo(np.int32)


def make_encode(
  tokenizer: Tokenizer | None = None,
  image_size: int | None = None,
  classes: int = 0,
  prompt_length: int = 0,
  ranges: Mapping[str, str] | None = None,
  label: str = 'class',
  teacher: Tokenizer | None = None,
) -> Callable:
  """`encode(examples) -> {key: array}`, a row an example; a text gets '<key>/mask' and `COUNTED` too.

  Examples with a 'response' get one sequence of it and their 'text', if they have one: 'text', of which
  'text/response' and 'text/target' say what belongs to the response; see `tokenizer.encode_pairs`. Other
  responses that would be right too, 'references', are in no batch.

  Args:
    tokenizer: the tokenizer of texts, from `tokenizer.cut`.
    image_size: images, and the frames of videos, are resized to this square; None leaves them.
    classes: labels have to be whole numbers in [0, classes), or -1; 0 does not check.
    prompt_length: tokens of the longest prompt before a response; 0 for half of a text.
    ranges: key -> the range of its pixels, see `images.RANGES`; by default that of the examples encoded.
    label: the kind that the task reads, see `types.Task`: the labels of 'classes' are 0, 1 and -1, [classes].
    teacher: a tokenizer of the teacher's own, by which prompts and responses are `TEACHER` too, with the same
      keys; '/chunk' of both says for each target which chunk of the response it belongs to, as of `chunks`.
  """
  unknown = None if tokenizer is None else tokenizers.unknown(tokenizer)

  def counts(key, ids, mask, truncated):
    known = (ids != unknown) if unknown is not None else np.ones_like(mask)
    return {f'{key}{CUT}': truncated, f'{key}{WORDS}': mask.sum(1), f'{key}{UNKNOWN}': (mask & ~known).sum(1)}

  def column(key, values, names):
    if isinstance(values[0], str):
      if tokenizer is None:
        raise KdjaxError(f'{key!r} is text, and no tokenizer was made for it.')
      ids, mask, truncated = tokenizers.encode(tokenizer, values)
      return {key: ids, f'{key}/mask': mask} | counts(key, ids, mask, truncated)
    if images.has_pixels(key, values[0], bool(image_size) and key == 'image'):
      scale = (ranges or {}).get(key) if ranges is not None else images.range_of(key, values)
      values = [images.pixels(key, v, scale or '', n) for v, n in zip(values, names, strict=True)]
    if key == 'image' and image_size:
      values = images.in_threads(functools.partial(images.resize, size=image_size), values)
    elif key == 'video' and image_size and np.ndim(values[0]) == 4:
      if any(np.asarray(video).dtype not in (np.uint8, np.float32) for video in values):
        raise KdjaxError(
          f"{names[0]}: 'video' is {np.asarray(values[0]).dtype}; a video is uint8 or float32."
        )
      values = [np.stack([images.resize(f, image_size) for f in video]) for video in map(np.asarray, values)]
    try:
      array = np.stack([np.asarray(v) for v in values])
    except ValueError as e:
      raise KdjaxError(
        f'the examples have {key!r} of different shapes ({np.shape(values[0])} and others); '
        'for images set data.image_size.'
      ) from e
    if array.dtype.kind not in 'biuf':
      raise KdjaxError(
        f'{names[0]}: {key!r} is {type(values[0]).__name__} {str(values[0])[:40]!r}, and no number.'
      )
    if key == 'label' and classes:
      array = (_several if label == 'classes' else _labels)(array, classes, names)
    narrow = {np.dtype('int64'): np.int32, np.dtype('uint64'): np.int32, np.dtype('uint32'): np.int32}
    if array.dtype in narrow and array.size and (array.min() < INT32.min or array.max() > INT32.max):
      raise KdjaxError(
        f'{key!r} is {array.min()} to {array.max()}: whole numbers are read up to {INT32.max:,}.'
      )
    return {
      key: array.astype(narrow.get(array.dtype, np.float32 if array.dtype == np.float64 else array.dtype))
    }

  def dialogue(prompts, responses):
    assert tokenizer is not None  # `encode` is made with one where there are texts

    def encoded(key, tokenizer):
      pairs = tokenizers.encode_pairs(
        tokenizer, prompts or None, responses, prompt_length, teacher is not None
      )
      return {f'{key}{suffix}': value for suffix, value in pairs.items()}

    arrays = encoded('text', tokenizer)
    if teacher is not None:
      arrays |= encoded(TEACHER, teacher)
      both = chunks(*(arrays.pop(f'{key}/ends') for key in ('text', TEACHER)))
      arrays |= {f'{key}/chunk': chunk for key, chunk in zip(('text', TEACHER), both, strict=True)}
    return arrays | counts('text', arrays['text'], arrays['text/mask'], arrays['text/cut'])

  def encode(examples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    arrays, keys = {}, list(examples[0])
    names = [f'example {e["id"]}' if 'id' in e else 'an example' for e in examples]
    for name, example in zip(names, examples, strict=True):
      if example.keys() != examples[0].keys():
        raise KdjaxError(f'{name} has {", ".join(example)}, and others have {", ".join(keys)}.')
    if 'response' in keys:
      keys = [k for k in keys if k not in ('text', 'response', 'references')]
      arrays |= dialogue(*([e[k] for e in examples if k in e] for k in ('text', 'response')))
    for key in keys:
      arrays |= column(key, [e[key] for e in examples], names)
    return arrays

  return encode


def _labels(array, classes, names):
  """Class labels i32 [B], checked."""
  if array.ndim != 1 or array.dtype.kind not in 'iub':
    raise KdjaxError(
      f"{names[0]}: 'label' is {array.dtype} {list(array.shape[1:])}; a class label is one whole number, [], "
      f'from 0 to {classes - 1}.'
    )
  for row in np.flatnonzero((array < -1) | (array >= classes))[:1]:
    raise KdjaxError(
      f'{names[row]} has the label {array[row]}, and the data set has {counted(classes, "class")} '
      f'(0 to {classes - 1}; -1 for a label that is not known).'
    )
  return array.astype(np.int32)


def _several(array, classes, names):
  """Labels of several classes each, i32 [B, C], checked."""
  array = array.astype(np.int32) if array.dtype == bool else array
  if array.shape[1:] != (classes,) or array.dtype.kind not in 'iuf' or not np.isin(array, (-1, 0, 1)).all():
    raise KdjaxError(
      f"{names[0]}: 'label' is {array.dtype} {list(array.shape[1:])}; the task reads 0, 1 or -1 for each "
      f'class, [{classes}].'
    )
  return array.astype(np.int32)


class Numbered(Sequence):
  """The examples of `source`, each with its index as 'id'."""

  def __init__(self, source: Sequence):
    self.source = source

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index):
    index = range(len(self))[int(index)]
    return {**self.source[index], 'id': index}


def with_ids(dataset: DataSet) -> DataSet:
  """The data set; where the first example of a split has no 'id' of 32 bits, its indices are the ids."""

  def numbered(source):
    first_id = source[0].get('id') if len(source) else 0
    fits = isinstance(first_id, (int, np.integer)) and 0 <= first_id <= INT32.max
    if isinstance(first_id, np.ndarray):
      fits = first_id.ndim == 0 and first_id.dtype.kind in 'iu' and 0 <= first_id <= INT32.max
    return source if fits and not isinstance(first_id, bool) else Numbered(source)

  return dataset._replace(splits={split: numbered(source) for split, source in dataset.splits.items()})


def with_ranges(dataset: DataSet, resized: bool = False, sample: int = 256) -> tuple[DataSet, dict[str, str]]:
  """(the data set, key of images that are not bytes -> the range of their values), by a sample of 'train'.

  The fingerprint depends on the ranges, so that no training resumes with pixels of another scale.
  """
  train = dataset.splits['train']
  first = train[0]
  keys = [
    k
    for k, v in first.items()
    if images.has_pixels(k, v, resized and k == 'image') and np.asarray(v).dtype != np.uint8
  ]
  if not keys:
    return dataset, {}
  rows = np.unique(np.linspace(0, len(train) - 1, min(sample, len(train))).astype(int))
  examples = [train[int(row)] for row in rows]
  ranges = {key: images.range_of(key, [e[key] for e in examples]) for key in keys}
  for key, name in ranges.items():
    treatment = f'read as values from {name.replace("to", "up to")}' if name else 'taken as they are'
    say(f'{key!r} is {np.asarray(first[key]).dtype}, {treatment}.')
  scaled = {key: name for key, name in ranges.items() if name not in ('', '-1 to 1')}
  fingerprint = (
    files.fingerprint(dataset.fingerprint, sorted(scaled.items())) if scaled else dataset.fingerprint
  )
  return dataset._replace(fingerprint=fingerprint), ranges


def tell(split: str, n: int, counts: Mapping[str, int]) -> None:
  """Prints how many of n texts are cut, and how many of their words are unknown."""
  notices.say_all(split)
  for key, number in counts.items():
    name, _, suffix = key.rpartition('/')
    if f'/{suffix}' == CUT and number:
      say(f'{split}: {number:,} of {n:,} have a longer {name!r} than data.text_length, and it is cut.')
    elif f'/{suffix}' == UNKNOWN and number:
      total = counts[f'{name}{WORDS}']
      say(f'{split}: {number:,} of the {total:,} words of {name!r} are unknown (not of data.vocab_size).')


def label_mask(kind: str, labels: np.ndarray) -> np.ndarray:
  """Which examples have a label, bool [N], of the 'class', 'number' or 'classes' of a task."""
  if kind == 'classes':
    return np.any(labels >= 0, -1)
  return np.asarray(labels >= 0 if kind == 'class' else np.isfinite(labels))


def known_labels(kind: str, labels: np.ndarray) -> int:
  """How many examples have a label."""
  return int(np.sum(label_mask(kind, labels)))


def count(arrays: Mapping, counts: Mapping[str, int] = {}) -> tuple[dict, dict[str, int]]:
  """(`arrays` without what is `COUNTED`, `counts` with the sums of it added)."""
  added = {k: int(v.sum()) + counts.get(k, 0) for k, v in arrays.items() if k.endswith(COUNTED)}
  return {k: v for k, v in arrays.items() if k not in added}, {**counts, **added}


def with_vocabulary_classes(dataset: DataSet, tokenizer: Tokenizer | None, prompt_length: int) -> DataSet:
  """The data set; where it has responses, the tokens of the vocabulary are its classes.

  Raises:
    KdjaxError: if the tokenizer has no end, or prompts leave no room.
  """
  if tokenizer is None or 'response' not in dataset.splits['train'][0]:
    return dataset
  tokenizers.end(tokenizer)
  fingerprint = files.fingerprint(dataset.fingerprint, tokenizers.longest(tokenizer, prompt_length))
  return dataset._replace(classes=tokenizers.vocabulary(tokenizer), fingerprint=fingerprint)
