"""Predictions for the user's files, with a model that an experiment trained."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError, printable
from kdjax.evaluation.modality_robustness import modalities
from kdjax.experiment import build
from kdjax.experiment.cohort import TRAINED
from kdjax.input import audio_files, images
from kdjax.input import encode as encoding
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import functional, generate
from kdjax.nn.missing_modality import hide
from kdjax.pretrained import initialize, safetensors_io
from kdjax.runtime import files, trust
from kdjax.runtime.described import described
from kdjax.training import finite

STAGE = {'seeds': [int], 'model': {'model': str}, 'fill': dict, 'classes': [str]}
STAGE |= {'rate': files.NUMBER, 'example?': {str: list}}
FILE_INPUTS = ('image', 'text', 'audio')  # that the command line takes


class Predictor(NamedTuple):
  """A trained model, ready to predict.

  Attributes:
    predict: `({'image': [path], 'text': [words], 'audio': [path]}) -> (answers, seconds)`. An answer is
      [(name, score)], the best first, of each row. A modality has one value for all rows, one a row, or none.
    inputs: the modalities that the model takes.
  """

  predict: Callable
  inputs: tuple[str, ...]


def load(
  workdir: Path, stage: str = 'student', seed: int | None = None, trusted: Sequence[str] = ()
) -> Predictor:
  """The model of a finished stage; its data set is not needed.

  Args:
    workdir: of the experiment, or of a member of a cohort.
    stage: 'teacher', 'baseline' or 'student'.
    seed: which of the stage's; the first by default.
    trusted: modules outside kdjax that may be imported, see `trust.ask`.

  Raises:
    KdjaxError: if there is no such model, or it needs code that is not trusted.
  """
  folder = workdir / stage
  if stage not in TRAINED or not (folder / 'stage.json').exists():
    done = ', '.join(s for s in TRAINED if (workdir / s / 'stage.json').exists())
    raise KdjaxError(
      f'{workdir} holds no finished {stage}; it has {done or "none"}: set --workdir and --stage.'
    )
  anew = 'run the command of the experiment again with this file deleted, which writes it anew'
  summary = files.read_json(folder / 'stage.json', STAGE, anew)
  saved_tokenizer, section = tokenizers.kept(workdir), 'teacher' if stage == 'teacher' else 'student'
  schema = {'task': {'name': str}, section: {'inputs': {str: str}, 'dtype': str}}
  schema |= {'data': {} if saved_tokenizer is None else {'text_length': int}}
  config = files.read_json(workdir / 'config.json', schema, anew)
  if 'example' not in summary:
    raise KdjaxError(f'{folder / "stage.json"} does not say what an example looks like: train it anew.')
  names = {'model': summary['model'], 'task': config['task']}
  trust.ask(names, summary.get('modules'), trusted, folder / 'stage.json')
  seeds = summary['seeds']
  if seed is not None and seed not in seeds:
    raise KdjaxError(f'{folder} has the seeds {", ".join(map(str, seeds))}, and no {seed}.')
  tokenizer, model_config = None, config[section]
  if saved_tokenizer is not None:
    tokenizer = tokenizers.cut(saved_tokenizer, config['data']['text_length'])
  net = build.module(summary['model'], summary['fill'])
  model = functional.functions(
    net, model_config['inputs'], model_config['dtype'], frozen=initialize.frozen(summary['model'])
  )
  where = folder / 'stage.json'
  example = {k: np.zeros(*described(v, where)) for k, v in summary['example'].items()}
  shapes = jax.eval_shape(model.init, jax.random.key(0), {k: v[None] for k, v in example.items()})
  path = folder / f'seed_{seeds[0] if seed is None else seed}.safetensors'
  variables = finite.check(
    safetensors_io.load(path, shapes, tokenizers.mark(tokenizer)), str(path), 'train it anew'
  )
  variables = jax.device_put(variables)
  encode = encoding.make_encode(tokenizer, prompt_length=config['data'].get('prompt_length', 0))
  forward = jax.jit(lambda v, b: model.apply(v, b, train=False)[0])
  if 'text/response' in example:
    forward = jax.jit(_writer(model, tokenizer, config['data']))
  task = build.task(config['task'])
  inputs = {
    m: key
    for m, key in modalities(model_config['inputs'], example).items()
    if m in FILE_INPUTS and key in example
  }
  if 'audio' in inputs and (example[inputs['audio']].ndim > 1 or not summary['rate']):
    del inputs['audio']  # features, or sounds of no known rate: no file can be read as one
  if 'image' in inputs and example[inputs['image']].ndim != 3:
    del inputs['image']  # a vector
  if not inputs:
    raise KdjaxError(f'the model of {folder} reads {", ".join(example)}, and none of them from a file.')

  def predict(rows_of: Mapping[str, Sequence[str]]):
    rows_of = {k: list(v) for k, v in rows_of.items() if v}
    missing = [k for k in inputs if k not in rows_of]
    if task.relational and rows_of and missing:
      raise KdjaxError(f'the model compares {" and ".join(inputs)}: give --{missing[0]} too.')
    batch = _batch(rows_of, inputs, example, encode, summary)
    compiled = forward.lower(variables, batch).compile()
    began = time.perf_counter()
    outputs = jax.device_get(compiled(variables, batch))
    seconds = time.perf_counter() - began
    rows = len(next(iter(batch.values())))
    rows_taps = [
      {k: v[i] if v.ndim and len(v) == rows else v for k, v in outputs.items()} for i in range(rows)
    ]
    return [task.answer(taps, summary['classes']) for taps in rows_taps], seconds

  return Predictor(predict, tuple(inputs))


def _writer(model, tokenizer, config) -> Callable:
  """`write(variables, batch)`: the likeliest response to each prompt, as taps for `Task.answer`."""
  prompt_length = tokenizers.longest(tokenizer, config['prompt_length'])
  length = config['text_length'] - prompt_length
  write = generate.make_generate(model.apply, tokenizers.end(tokenizer), length, temperature=0)

  def forward(variables, batch):
    written = write(variables, generate.prompts(batch, prompt_length), jax.random.key(0))
    return {'written': written.ids, 'written/mask': written.mask, 'written/likelihood': written.log_q}

  return forward


def _batch(rows_of, inputs, example, encode, summary) -> dict[str, Any]:
  """A batch of the rows, in the model's shapes; an input without a file is marked as missing."""
  for key in rows_of:
    if key not in inputs:
      raise KdjaxError(f'the model takes {" and ".join(inputs)}, and no {key}: leave --{key} out.')
  if not rows_of:
    raise KdjaxError(f'what about? Give {" and ".join(f"--{k}=…" for k in inputs)}.')
  rows = max(map(len, rows_of.values()))
  for key, values in rows_of.items():
    if len(values) not in (1, rows):
      raise KdjaxError(f'--{key} is given {len(values)} times; give it once, or {rows} times as the others.')
  readers = {
    'image': _image,
    'text': lambda v, shape: v,
    'audio': lambda v, shape: audio_files.fit(
      audio_files.read_sound(Path(v), summary['rate'], '--audio'), *shape
    ),
  }
  examples = [
    {inputs[k]: readers[k](v[i % len(v)], example[inputs[k]].shape) for k, v in rows_of.items()}
    for i in range(rows)
  ]
  if 'text/response' in example:
    examples = [one | {'response': ''} for one in examples]
  batch, counts = encoding.count(encode(examples))
  encoding.tell('--text', rows, counts)
  for key, zeros in example.items():
    if key not in batch:
      present = key.removesuffix('/present') in batch and key.endswith('/present')
      batch[key] = np.full((rows, *zeros.shape), present, zeros.dtype)
  for name in inputs.keys() - rows_of.keys():
    batch = hide(batch, inputs[name], jnp.zeros(rows))
  return batch


def _image(path: str, shape: tuple[int, ...]) -> np.ndarray:
  """u8 [H, W, C] of a file, in the size and channels of the model."""
  image = images.read_image(Path(path), '--image')
  image = images.resize(image, (shape[0], shape[1]))
  return image.mean(-1, keepdims=True).astype(np.uint8) if shape[-1] == 1 else image


def lines(
  rows_of: Mapping[str, Sequence[str]], answers: Sequence[Sequence[tuple[str, float]]], best: int = 5
):
  """The answers as lines: the `best` of one row, or the first of each of several rows.

  Rows with the same single answer, such as how well image and text match, are sorted by score.
  """
  if len(answers) == 1:
    return [printable(f'{score:8.4f}  {name}') for name, score in answers[0][:best]]
  rows = []
  for i, answer in enumerate(answers):
    label = ', '.join(v[i] for v in rows_of.values() if len(v) > 1)
    rows.append((answer[0][1], printable(f'{answer[0][1]:8.4f}  {label}: {answer[0][0]}')))
  one_question = len({answer[0][0] for answer in answers}) == 1 and len(answers[0]) == 1
  return [line for _, line in (sorted(rows, key=lambda r: -r[0]) if one_question else rows)]
