"""The same weights through the libraries that published them: `python -m pytest -m parity`."""

import importlib
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from kdjax import pretrained, registry
from kdjax.experiment import build
from kdjax.pretrained import safetensors_io

try:
  import torch
except ImportError:
  torch = None  # and the tests skip themselves


def _import_torchvision():
  """A torchvision for CUDA beside a torch for CPU lacks its operators, and stumbles over two of them."""
  try:
    importlib.import_module('torchvision')
  except RuntimeError:
    library = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
      library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    return library  # which lives as long as its operators
  except ImportError:
    return None


KEPT = _import_torchvision() if torch else None


@pytest.fixture
def ours():
  """`ours(name, attributes, state_dict, batch) -> taps` of the model and its converter."""

  def run(name, attributes, state, batch):
    net = registry.make('models', name, attributes)
    like = jax.eval_shape(net.init, jax.random.key(0), batch)
    tensors = {k: v.detach().numpy() for k, v in state.items()}
    known = registry.options('models', name) | attributes
    converted = registry.module('pretrained', name).convert(tensors, known)
    return jax.jit(net.apply)(safetensors_io.fit(converted, like, name), batch)

  return run


@pytest.fixture
def saved(tmp_path):
  """`saved(name, attributes, module, batch) -> taps` by way of the files that transformers writes."""

  def run(name, attributes, module, batch):
    module.save_pretrained(tmp_path)
    config = pretrained.complete(str(tmp_path), {'model': name, **attributes})
    net = build.module(config, {})
    like = jax.eval_shape(net.init, jax.random.key(0), batch)
    return jax.jit(net.apply)(pretrained.load(str(tmp_path), config, like), batch)

  return run


@pytest.fixture
def published(tmp_path):
  """`published(name, module, batch, classes, files) -> taps` of a folder whose model nothing but it names.

  `files` are those beside the weights, name -> object.
  """

  def run(name, module, batch, classes=None, files=()):
    if hasattr(module, 'save_pretrained'):
      module.save_pretrained(tmp_path)
    else:
      save_file({k: v.numpy() for k, v in module.state_dict().items()}, tmp_path / 'model.safetensors')
    for file, content in dict(files).items():
      (tmp_path / file).write_text(json.dumps(content))
    assert pretrained.architecture(str(tmp_path)) == {'model': name}
    config = pretrained.complete(str(tmp_path), {'model': name})
    net = build.module(config, {'num_classes': classes} if classes else {})
    like = jax.eval_shape(net.init, jax.random.key(0), batch)
    return jax.jit(net.apply)(pretrained.load(str(tmp_path), config, like), batch)

  return run


@pytest.fixture
def agree():
  """`agree(taps, theirs)`: every exposed tap within 1e-4 of the largest of theirs, or of 1."""

  def check(taps, theirs):
    assert taps.keys() == theirs.keys()
    errors = {}
    for name, value in theirs.items():
      value = value.detach().numpy()
      value = value.transpose(0, 2, 3, 1) if value.ndim == 4 and 'attention' not in name else value
      assert taps[name].shape == value.shape, name
      errors[name] = np.abs(np.asarray(taps[name]) - value).max() / max(np.abs(value).max(), 1)
      assert errors[name] < 1e-4, f'{name}: {errors[name]}'
    print(f'taps {max(errors.values()):.1e}, logits {errors.get("logits", np.nan):.1e}')

  return check


@pytest.fixture
def randomised():
  """`randomised(module, least)`: every weight and statistic drawn anew, so that none is left at 0 or 1.

  The standard deviation of a weight is `least` or more, or with a `gain` that over √(its inputs), with which
  a signal passes through many convolutions.
  """

  def draw(module, least=0.02, gain=0.0):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
      for name, x in module.state_dict().items():
        if not x.is_floating_point():
          continue
        noise = torch.randn(x.shape, generator=generator)
        if name.endswith('running_var'):
          x.copy_(1 + 0.3 * noise.abs())
        elif x.ndim < 2:  # scales are near 1, biases and means near 0
          x.copy_(x + 0.1 * noise)
        else:
          x.copy_((gain / x[0].numel() ** 0.5 if gain else x.std().clamp(least)) * noise)
    return module.eval()

  return draw
