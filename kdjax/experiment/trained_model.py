"""A model that an experiment trained, read from its workdir."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tokenizers import Tokenizer

from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.experiment.cohort import TRAINED
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import functional
from kdjax.pretrained import initialize, safetensors_io
from kdjax.runtime import files, trust
from kdjax.runtime.described import described
from kdjax.training import finite, quantization_aware
from kdjax.types import Model

STAGE = {'seeds': [int], 'model': {'model': str}, 'fill': dict, 'classes': [str]}
STAGE |= {'rate': files.NUMBER, 'example?': {str: list}, 'ranges?': {str: str}}


class Trained(NamedTuple):
  """A trained model.

  Attributes:
    model: its pure functions.
    variables: its weights.
    interface: all that stands between a user's files and the arrays of the model, as plain JSON: 'task' (the
      dict of the config), 'inputs' (model input -> batch key), 'example' (batch key -> [shape, dtype] of one
      example), 'classes', 'rate' (of sounds), 'ranges' (of floats), 'text_length', 'prompt_length',
      'beams' (of what it writes).
    tokenizer: of texts, cut to the model's length; None for a model without.
    attributes: the dict of the model in a config.
    seed: of the training.
    rounding: the bits of weights, to which `variables` are rounded, and of activations; see
      `training.quantization_aware`.
  """

  model: Model
  variables: dict[str, Any]
  interface: dict[str, Any]
  tokenizer: Tokenizer | None
  attributes: dict[str, Any]
  seed: int
  rounding: dict[str, int]


def load(
  workdir: Path, stage: str = 'student', seed: int | None = None, trusted: Sequence[str] = ()
) -> Trained:
  """The model of a finished stage; its data set is not needed.

  Args:
    workdir: of the experiment, or of a member of a cohort.
    stage: 'teacher', 'baseline', 'ceiling' or 'student'.
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
  tokenizer, section = tokenizers.kept(workdir), 'teacher' if stage == 'teacher' else 'student'
  schema = {'task': {'name': str}, section: {'inputs': {str: str}, 'dtype': str}}
  schema |= {'data': {} if tokenizer is None else {'text_length': int}}
  config = files.read_json(workdir / 'config.json', schema, anew)
  if 'example' not in summary:
    raise KdjaxError(f'{folder / "stage.json"} does not say what an example looks like: train it anew.')
  names = {'model': summary['model'], 'task': config['task']}
  trust.ask(names, summary.get('modules'), trusted, folder / 'stage.json')
  seed = int(summary['seeds'][0] if seed is None else seed)
  if seed not in summary['seeds']:
    raise KdjaxError(f'{folder} has the seeds {", ".join(map(str, summary["seeds"]))}, and no {seed}.')
  if tokenizer is not None:
    tokenizer = tokenizers.cut(tokenizer, config['data']['text_length'])
  inputs, ranges = config[section]['inputs'], summary.get('ranges', {})
  net, frozen = build.module(summary['model'], summary['fill']), initialize.frozen(summary['model'])
  model = functional.functions(net, inputs, config[section]['dtype'], frozen=frozen, ranges=ranges)
  example = {k: described(v, folder / 'stage.json') for k, v in summary['example'].items()}
  batch = {k: np.zeros((1, *shape), dtype) for k, (shape, dtype) in example.items()}
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch)
  path = folder / f'seed_{seed}.safetensors'
  variables = safetensors_io.load(path, shapes, tokenizers.mark(tokenizer))
  interface = {
    'task': config['task'],
    'inputs': inputs,
    'example': example,
    'classes': summary['classes'],
    'rate': summary['rate'],
    'ranges': ranges,
    'text_length': config['data'].get('text_length', 0),
    'prompt_length': config['data'].get('prompt_length', 0),
    'beams': config.get('generation', {}).get('beams', 1),
  }
  variables = finite.check(variables, str(path), 'train it anew')
  rounding = build.rounding(config[section])
  variables = dict(quantization_aware.weights(variables, rounding['weight_bits']))
  return Trained(model, variables, interface, tokenizer, summary['model'], seed, rounding)
