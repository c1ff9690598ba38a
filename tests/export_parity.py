"""Programs with drawn weights, and what JAX gives for them, with which the written formats are compared."""

import functools

import jax
import numpy as np
import pytest

import model_cases
from kdjax.experiment import build
from kdjax.export import alone, formats
from kdjax.export import program as export_program
from kdjax.nn.functional import functions
from kdjax.runtime import files

TAPS = ('logits', 'image/embed', 'audio/embed', 'text/embed', 'logit_scale', 'embed')
# JAX's own two ways to run its 26 normalized layers of 1 to 64 pixels differ by 2.5e-5.
TOLERANCE = {'bit_resnet': 1e-4}
# One of each kind; the others are long checks.
FAST = """
  bag_of_words bert cifar_resnet cifar_shufflenet_v1 convnext ensemble feature_encoder gpt2 hashed_words llama
  maxout mel_cnn mlp mobilenet_v3
"""
CASES = [n if n in FAST.split() else pytest.param(n, marks=pytest.mark.slow) for n in model_cases.CASES]


def draw(path, leaf):
  """Weights with which no layer does nothing: those of an initialization have biases of 0."""
  rng = np.random.default_rng(sum(str(path).encode()))
  values, name = rng.standard_normal(leaf.shape), path[-1].key
  if name in ('var', 'scale'):
    return (1 + np.abs(values) / 4).astype(leaf.dtype)
  inputs = np.prod(leaf.shape[:-1]) if name == 'kernel' else 16
  return (values / np.sqrt(inputs)).astype(leaf.dtype)


@functools.cache
def program(name, several=False):
  """The program of a case of `model_cases`; nothing is compiled for it."""
  config, example = model_cases.CASES[name]
  words = {'vocab_size': model_cases.WORDS, 'tokens': model_cases.WORDS, 'num_classes': 5}
  pure = functions(build.module({'model': name, **config}, words), {})
  shapes = jax.eval_shape(pure.init, jax.random.key(0), model_cases.batch(name, 2))
  variables = jax.tree_util.tree_map_with_path(draw, shapes)

  def apply(variables, batch):
    return pure.apply(variables, batch, train=False)[0]

  return export_program.make(apply, variables, example, TAPS, several)


def inputs(name, rows=5, several=False):
  """Inputs of a case; of each three examples, one lacks the image and one the text, if `several`."""
  arrays = model_cases.batch(name, rows)
  if several:
    shown = np.arange(rows) % 3
    arrays |= {'image/present': np.float32(shown != 0), 'text/present': np.float32(shown != 1)}
  return arrays


def check(program, run, inputs, tolerance=1e-5):
  """A format gives what JAX gives for three rows, alone and among more: names, shapes, dtypes, numbers."""
  three = {k: v[:3] for k, v in inputs.items()}
  want = {k: np.asarray(v) for k, v in jax.jit(program.apply)(dict(program.weights), three).items()}
  for got in run(three), {k: v[:3] if v.ndim else v for k, v in run(inputs).items()}:
    assert sorted(got) == sorted(want)
    for key, array in want.items():
      assert (got[key].shape, got[key].dtype) == (array.shape, array.dtype), key
      np.testing.assert_array_equal(np.isnan(got[key]), np.isnan(array), key)
      error = np.abs(got[key].astype(np.float64) - array) / np.maximum(1, np.abs(array))
      assert not np.nanmax(error) > tolerance, f'{key} differs by {np.nanmax(error)}'


def alone_model(program, form, folder):
  """The stand-alone model of an export in a format."""
  module = formats.module(form)
  module.write(program, folder / module.FILE)
  about = {'format': form, 'inputs': program.inputs, 'outputs': program.outputs, 'interface': {}}
  files.write_json(folder / 'export.json', about)
  return alone.Model(folder)
