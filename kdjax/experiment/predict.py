"""Answers of a model that an experiment trained, for examples as arrays and texts."""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer

from kdjax.errors import KdjaxError
from kdjax.evaluation import generation_metrics
from kdjax.evaluation.modality_robustness import modalities
from kdjax.experiment import build, trained_model
from kdjax.input import audio_files, images
from kdjax.input import encode as encoding
from kdjax.input import tokenizer as tokenizers
from kdjax.input.media import fit_sequence
from kdjax.nn import generate
from kdjax.nn.missing_modality import hide
from kdjax.runtime import progress
from kdjax.training import quantization_aware
from kdjax.types import Task

BATCH = 32
NAMED = 10  # unknown words of a warning
Answer = list[tuple[str, float]]  # (name, score), the best first


@dataclasses.dataclass(frozen=True)
class Predictor:
  """A trained model, ready to answer.

  Examples are columns: a sequence of values a modality, one a row or one for all rows. An image is an array
  [H, W, C], of any size; a text a str; a sound f32 [N], at `rate`; None is absent. A sequence may read its
  values when it is asked for them. A batch key of another kind takes arrays of the model's shape.

  Attributes:
    keys: modality -> batch key, of those that the model takes.
    example: batch key -> zeros of one example.
    classes: by number.
    rate: samples a second of a sound; 0 where it is not known.
    tokenizer: of texts; None for a model without.
    task: whose `answer` turns taps into answers.
    encode: `encode(examples) -> batch`.
    forward: `forward(batch) -> taps`, compiled once for a size of batch.
    hide: `hide(batch, key, present [B])`: the batch without the values of a key where `present` is 0.
  """

  keys: Mapping[str, str]
  example: Mapping[str, np.ndarray]
  classes: Sequence[str]
  rate: float
  tokenizer: Tokenizer | None
  task: Task
  encode: Callable
  forward: Callable
  hide: Callable = hide

  @property
  def inputs(self) -> tuple[str, ...]:
    """The modalities that the model takes."""
    return tuple(self.keys)

  def predict(
    self, columns: Mapping[str, Sequence], batch: int = BATCH, top: int | None = None
  ) -> list[Answer]:
    """The answers to each row, at most `top`.

    Args:
      columns: modality -> values.
      batch: rows at a time; the last batch is filled up, so that there is one program.
      top: how many answers a row; all by default.

    Raises:
      KdjaxError: for columns that the model does not take or that do not fit together.
    """
    answers, size = [], min(batch, self._rows(columns))
    for taps, n in self._batches(columns, batch):
      rows = [{k: v[i] if v.ndim and len(v) == size else v for k, v in taps.items()} for i in range(n)]
      answers += [self.task.answer(one, self.classes)[:top] for one in rows]
    return answers

  def outputs(self, columns: Mapping[str, Sequence], batch: int = BATCH) -> dict[str, np.ndarray]:
    """The taps of all rows, [N, ...] each, and those that are of no row as they are.

    Args and errors are those of `predict`.
    """
    parts, size = [], min(batch, self._rows(columns))
    for taps, n in self._batches(columns, batch):
      parts.append({k: v[:n] if v.ndim and len(v) == size else v for k, v in taps.items()})
    return {k: np.concatenate([p[k] for p in parts]) if v.ndim else v for k, v in parts[0].items()}

  def _batches(self, columns, batch) -> Iterator[tuple[dict[str, np.ndarray], int]]:
    """(taps of a batch, how many of its rows are no filling), with progress and warnings."""
    rows = self._rows(columns)
    size, counts = min(batch, rows), {}
    self._warn(columns, rows)
    bar = progress.bar('predict', rows, 'example') if rows > size else contextlib.nullcontext()
    with bar as shown:
      for start in range(0, rows, size):
        chosen = range(start, min(start + size, rows))
        arrays, counts = self._batch(columns, chosen, size, counts)
        yield jax.device_get(self.forward(arrays)), len(chosen)
        if shown:
          shown.update(chosen.stop)
    encoding.tell('predict', rows, {k: n for k, n in counts.items() if not k.endswith(encoding.UNKNOWN)})

  def seconds(self, columns: Mapping[str, Sequence], batch: int = BATCH) -> float:
    """Seconds that the model takes for an example, in batches: no compiling, no reading of files.

    The median of three, or of fewer where they take long, after one that does not count.
    """
    rows, times = self._rows(columns), []
    size = min(batch, rows)
    arrays, _ = self._batch(columns, range(size), size, {})
    jax.device_get(self.forward(arrays))
    while len(times) < 3 and sum(times) < 1:
      began = time.perf_counter()
      jax.device_get(self.forward(arrays))
      times.append(time.perf_counter() - began)
    return statistics.median(times) / size

  def _rows(self, columns) -> int:
    """How many rows the columns have."""
    for name in columns:
      if name not in self.keys and (name not in self.example or '/' in name):
        raise KdjaxError(f'the model takes {" and ".join(self.keys)}, and no {name}: leave {name} out.')
    given = {name: len(values) for name, values in columns.items() if len(values)}
    if not given:
      raise KdjaxError(f'what about? Give {" and ".join(self.keys)}.')
    missing = [name for name in self.keys if name not in given or _gaps(columns[name])]
    if self.task.relational and missing:
      raise KdjaxError(f'the model compares {" and ".join(self.keys)}: every row needs its {missing[0]}.')
    rows = max(given.values())
    for name, n in given.items():
      if n not in (1, rows):
        raise KdjaxError(f'{name} is given {n} times; give it once, or {rows} times as the others.')
    return rows

  def _warn(self, columns, rows) -> None:
    """Prints what the model is not given, and the words that it does not know."""
    for name in self.keys:
      absent = len(_gaps(columns.get(name, ())))
      if not len(columns.get(name, ())) or absent == len(columns[name]):
        progress.say(f'no {name} is given: the model answers without it.')
      elif absent:
        progress.say(f'{absent:,} of {rows:,} rows have no {name}: the model answers them without it.')
    texts = [text for text in columns.get('text', ()) if text is not None]
    words = tokenizers.unknown_words(self.tokenizer, texts) if self.tokenizer and texts else {}
    if words:
      more = f' and {len(words) - NAMED} more' if len(words) > NAMED else ''
      progress.say(
        f'warning: {", ".join(map(repr, list(words)[:NAMED]))}{more}: not in the vocabulary of the model, '
        'which reads it as an unknown word; the answer may be a guess.'
      )

  def _batch(self, columns, chosen, size, counts) -> tuple[dict[str, Any], dict[str, int]]:
    """(a batch of the chosen rows, filled up to `size` with the last, `counts` with those of its texts)."""
    given = {name: values for name, values in columns.items() if len(values)}
    cells = {name: [values[i % len(values)] for i in chosen] for name, values in given.items()}
    examples: list[dict] = [{} for _ in chosen]
    for name, values in cells.items():
      for example, value in zip(examples, values, strict=True):
        example |= self._entries(name, value)
    if 'text/response' in self.example:
      examples = [one | {'response': ''} for one in examples]
    arrays, counts = encoding.count(self.encode(examples), counts)
    for key, zeros in self.example.items():
      if key not in arrays:
        present = key.removesuffix('/present') in arrays and key.endswith('/present')
        arrays[key] = np.full((len(chosen), *zeros.shape), present, zeros.dtype)
    for name, key in self.keys.items():
      if name not in given or _gaps(given[name]):
        there = [value is not None for value in cells.get(name, [None] * len(chosen))]
        arrays = self.hide(arrays, key, jnp.asarray(there, jnp.float32))
    return {k: np.concatenate([v, np.repeat(v[-1:], size - len(v), 0)]) for k, v in arrays.items()}, counts

  def _entries(self, name: str, value: Any) -> dict[str, Any]:
    """A cell by its batch key, and where the model has a mask of a sequence, that."""
    key = self.keys.get(name, name)
    x, mask = self._value(name, value), f'{key}/mask'
    if mask not in self.example or name == 'text' or np.ndim(x) != self.example[key].ndim:
      return {key: x}
    length = len(self.example[mask])
    if value is None:
      return {key: x, mask: np.zeros(length, bool)}
    if np.ndim(x) == 2:
      x, there = fit_sequence(x, length)
      return {key: x, mask: there}
    return {key: x, mask: np.ones(length, bool)}

  def _value(self, name: str, value: Any) -> Any:
    """A cell as an example has it, in the model's shape."""
    if name not in self.keys or name == 'text':
      return '' if value is None else value
    zeros = self.example[self.keys[name]]
    if value is None:
      return zeros
    if name == 'image' and zeros.ndim == 3:
      return _fit_image(np.asarray(value), zeros.shape)
    if name == 'video' and zeros.ndim == 4:
      return _fit_video(np.asarray(value), zeros.shape)
    if name == 'audio' and zeros.ndim == 1:
      return audio_files.fit(np.asarray(value), *zeros.shape)
    shape = list(np.shape(value))
    first = int(
      f'{self.keys[name]}/mask' in self.example and zeros.ndim == 2
    )  # of a sequence any length fits
    if len(shape) != zeros.ndim or shape[first:] != [*zeros.shape[first:]]:
      raise KdjaxError(f'{name} is {shape}, and the model reads {list(zeros.shape)}.')
    return np.asarray(value)


def _gaps(values: Sequence) -> list[int]:
  """Rows without a value; of a sequence that reads files those without a name."""
  return [i for i, value in enumerate(getattr(values, 'names', values)) if value is None]


def _fit_image(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """[H, W, C] or [H, W] in the size and the channels of the model."""
  image = image[..., None] if image.ndim == 2 else image
  if image.ndim != 3:
    raise KdjaxError(f'an image is an array [height, width, channels], and not {list(image.shape)}.')
  image = images.resize(image, (shape[0], shape[1]))
  if image.shape[-1] not in (1, shape[-1]) and shape[-1] != 1:
    raise KdjaxError(f'an image has {image.shape[-1]} channels, and the model reads {shape[-1]}.')
  if shape[-1] == 1:
    return image.mean(-1, keepdims=True).astype(image.dtype)
  return np.repeat(image, shape[-1], -1) if image.shape[-1] == 1 else image


def _fit_video(video: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """[T, H, W, C] or [T, H, W] with the model's frames, evenly spaced, and its size and channels."""
  if video.ndim not in (3, 4) or not len(video):
    raise KdjaxError(f'a video is an array [frames, height, width, channels], and not {list(video.shape)}.')
  chosen = np.linspace(0, len(video) - 1, shape[0]).round().astype(int)
  return np.stack([_fit_image(video[i], shape[1:]) for i in chosen])


def load(
  workdir: Path, stage: str = 'student', seed: int | None = None, trusted: Sequence[str] = ()
) -> Predictor:
  """The model of a finished stage; its data set is not needed.

  Args and errors are those of `trained_model.load`.
  """
  trained = trained_model.load(workdir, stage, seed, trusted)
  interface, tokenizer, bits = trained.interface, trained.tokenizer, trained.rounding['activation_bits']
  apply = quantization_aware.model(trained.model, activation_bits=bits).apply

  def answer(variables, batch):
    return apply(variables, batch, train=False)[0]

  forward = jax.jit(_writer(apply, tokenizer, interface) if writes(interface) else answer)
  return predictor(interface, tokenizer, functools.partial(forward, jax.device_put(trained.variables)))


def writes(interface: Mapping) -> bool:
  """Whether the model answers by writing a text."""
  return 'text/response' in interface['example']


def predictor(interface: Mapping[str, Any], tokenizer: Tokenizer | None, forward: Callable) -> Predictor:
  """A predictor of a forward pass.

  Args:
    interface: see `trained_model.Trained`.
    tokenizer: of texts, cut to the model's length; None for a model without.
    forward: `(batch) -> taps`.
  """
  example = {k: np.zeros(shape, dtype) for k, (shape, dtype) in interface['example'].items()}
  task = build.task(interface['task'])
  keys = {m: key for m, key in modalities(interface['inputs'], example).items() if key in example}
  keys = {m: key for m, key in keys.items() if task.prompted or key != 'text'}
  encode = encoding.make_encode(
    tokenizer, prompt_length=interface['prompt_length'], ranges=interface['ranges'] or None
  )
  return Predictor(
    keys=keys,
    example=example,
    classes=interface['classes'],
    rate=interface['rate'],
    tokenizer=tokenizer,
    task=task,
    encode=encode,
    forward=forward,
  )


def _writer(apply, tokenizer, interface) -> Callable:
  """`write(variables, batch)`: the likeliest response to each prompt, as taps for `Task.answer`.

  By a beam search where the comparison has one, else a token at a time.
  """
  prompt_length = tokenizers.longest(tokenizer, interface['prompt_length'])
  length = interface['text_length'] - prompt_length
  settings = {'beams': interface.get('beams', 1), 'temperature': 0}
  write = generation_metrics.writer(apply, tokenizer, length, settings)

  def forward(variables, batch):
    written = write(variables, generate.prompts(batch, prompt_length), jax.random.key(0))
    return {'written': written.ids, 'written/mask': written.mask, 'written/likelihood': written.log_q}

  return forward
