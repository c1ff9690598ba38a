"""Tiny checkpoints under the names of transformers and timm, made up from shapes."""

import json

import jax
import numpy as np
from safetensors.numpy import save_file

from kdjax import pretrained
from kdjax.experiment import build


def dense(*names, into=8, out=8, bias=True):
  shapes = {f'{n}.weight': (out, into) for n in names}
  return shapes | ({f'{n}.bias': (out,) for n in names} if bias else {})


def norms(*names, width=8):
  return {f'{n}.{leaf}': (width,) for n in names for leaf in ('weight', 'bias')}


def bert(prefix, head, types=2, width=8):
  """One layer of BERT, as all of its kind name it."""
  at = f'{prefix}.encoder.layer.0.'
  tensors = dense(*(f'{at}attention.self.{k}' for k in ('query', 'key', 'value')))
  tensors |= dense(f'{at}attention.output.dense') | dense(f'{at}intermediate.dense', out=12)
  tensors |= dense(f'{at}output.dense', into=12)
  tensors |= norms(f'{at}attention.output.LayerNorm', f'{at}output.LayerNorm')
  rows = {'word': 20, 'position': 9, 'token_type': types}
  tensors |= {f'{prefix}.embeddings.{k}_embeddings.weight': (n, width) for k, n in rows.items()}
  return tensors | norms(f'{prefix}.embeddings.LayerNorm', width=width) | head


def write(folder, shapes, config_json, files=()):
  """Random weights of these shapes, as a folder; the tensors."""
  rng = np.random.default_rng(0)
  tensors = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
  folder.mkdir(exist_ok=True)
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(config_json))
  for name, content in dict(files).items():
    (folder / name).write_text(json.dumps(content))
  return tensors


def load(folder, batch, classes=None):
  """(model, module, variables) of a folder, as a stage of an experiment makes them."""
  config = pretrained.complete(str(folder), pretrained.architecture(str(folder)))
  net = build.module(config, {'num_classes': classes} if classes else {})
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  return config, net, pretrained.load(str(folder), config, like)
