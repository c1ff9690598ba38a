"""A predictor whose forward pass is an exported model's."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from kdjax.experiment import predict
from kdjax.experiment.predict import Predictor
from kdjax.export import folder as folders
from kdjax.export.alone import PRESENT
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import generate


def load(folder: Path, threads: int = 0) -> Predictor:
  """The predictor of an exported model, with the answers of the model it was made of.

  Args:
    folder: of one export.
    threads: of the runtime, 0 for all cores.

  Raises:
    KdjaxError: if the folder holds no export, or a file of it is damaged.
  """
  exported = folders.read(folder, threads)
  interface, inputs = exported.about['interface'], exported.about['inputs']

  def forward(batch):
    return exported.run(arrays(inputs, batch))

  if predict.writes(interface):
    forward = _writer(forward, exported.tokenizer, interface)
  predictor = predict.predictor(interface, exported.tokenizer, forward)
  return dataclasses.replace(predictor, hide=_absent)


def _absent(batch: Mapping, key: str, present: np.ndarray) -> dict:
  """The batch with '<key>/present': the program itself hides the values, which here may be bytes."""
  return {**batch, f'{key}{PRESENT}': present}


def arrays(inputs: Mapping[str, tuple], batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The inputs of a program, of its dtypes; what a batch says nothing about is present."""
  rows = len(next(iter(batch.values())))
  whole = {k: np.ones(rows, np.float32) for k in inputs if k.endswith(PRESENT)}
  return {k: np.asarray((whole | {**batch})[k]).astype(dtype) for k, (_, dtype) in inputs.items()}


def _writer(score: Callable, tokenizer, interface: Mapping) -> Callable:
  """`write(batch)`: the likeliest response to each prompt, a token at a time, with no cache of the past."""
  prompt_length = tokenizers.longest(tokenizer, interface['prompt_length'])
  end, length = tokenizers.end(tokenizer), interface['text_length']

  def forward(batch):
    prompts = generate.prompts(batch, prompt_length)
    ids, mask = (np.asarray(prompts[k]) for k in ('text', 'text/mask'))
    missing = length - ids.shape[1]
    ids, mask = (np.pad(x, ((0, 0), (0, missing))) for x in (ids, mask))
    at, rows = np.asarray(mask).sum(1), np.arange(len(ids))
    written, running = np.zeros((len(ids), missing), np.int32), np.ones(len(ids), bool)
    kept, likelihood = np.zeros(written.shape, np.float32), np.zeros(written.shape, np.float32)
    for step in range(missing):
      logits = score({**batch, 'text': ids, 'text/mask': mask})['logits'][rows, at - 1].astype(np.float64)
      shifted = logits - logits.max(-1, keepdims=True)
      log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
      token = log_p.argmax(-1)
      written[:, step], kept[:, step], likelihood[:, step] = token, running, log_p[rows, token]
      running = running & (token != end)
      if not running.any():
        break
      ids[rows, at], mask[rows, at] = token, True
      at = np.minimum(at + 1, length - 1)
    return {'written': written, 'written/mask': kept, 'written/likelihood': likelihood}

  return forward
