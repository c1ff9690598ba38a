"""Made outputs of a student and a teacher, and a batch, for tests of any method.

B examples; the student is narrower than the teacher, and its maps differ in size at no stage.
"""

import inspect
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from kdjax import registry
from kdjax.types import Model, Peer

B, C, L, V, P = 12, 5, 6, 11, 4


def shapes(width):
  """Tap -> shape, for one model of a width."""
  maps = {f'image/stage{i}': (B, 16 >> i, 16 >> i, width << i) for i in (1, 2, 3)}
  tokens = {f'text/block{i}': (B, L, width) for i in (1, 2)}
  return {
    'logits': (B, C),
    'embed': (B, 2 * width),
    'image/embed': (B, 2 * width),
    'text/embed': (B, 2 * width),
    **maps,
    **tokens,
    'logit_scale': (),
    'logit_bias': (),
    'text/logits': (B, L, V),
    'image_logits': (B, P, V),
    'image_tokens': (B, P, width),
    'image_attention1': (B, 2, L, P + 1),
    'image/tokens': (B, 1 + P, width),
    'image/attention2': (B, 2, 1 + P, 1 + P),
    **{f'text/attention{i}': (B, 2, L, L) for i in (1, 2)},
    **{f'view{i}/embed': (B, 2 * width) for i in (1, 2, 3)},
    **{f'{modality}/class_logits': (B, C) for modality in ('image', 'text')},
    'text/tokens': (B, L, width),
    'text/words': (1, V, width),
    'text/head': (1, V, width),
  }


def outputs(seed, width):
  rng = np.random.default_rng(seed)
  return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes(width).items()}


def example():
  """(student, teacher, batch)."""
  rng = np.random.default_rng(0)
  batch = {
    'label': rng.integers(0, C, B).astype(np.int32),
    'text/mask': np.arange(L)[None] < rng.integers(2, L + 1, B)[:, None],
    'mask': np.ones(B, np.float32),
    'x': rng.normal(size=(B, 3)).astype(np.float32),
    'id': np.arange(B, dtype=np.int32),
    'epoch': np.zeros(B, np.int32),
  }
  batch['text/target'] = np.where(batch['text/mask'], rng.integers(0, V, (B, L)), -100).astype(np.int32)
  for key, rows in (('text', batch['text/target']), ('text/teacher', np.where(batch['text/mask'], 3, -100))):
    starts = rng.integers(0, 2, (B, L))
    starts[:, 0] = 0
    batch[f'{key}/chunk'] = np.where(rows >= 0, np.cumsum(starts, 1), -1).astype(np.int32)
  drawn = rng.integers(0, V, (B, L))
  batch['text/teacher/target'] = np.where(batch['text/mask'], drawn, -100).astype(np.int32)
  return outputs(1, 4), outputs(2, 6), batch


def rows(tree, indices):
  return {k: v[indices] if np.ndim(v) and len(v) == B else v for k, v in tree.items()}


def peer(seed=0, classes=C):
  """Two matrices, and the running mean of what they see as a statistic."""

  def init(rng, batch):
    keys = jax.random.split(jax.random.fold_in(rng, seed))
    shapes, dtype = ((3, 5), (5, classes)), jnp.asarray(batch['x']).dtype
    params = {n: jax.random.normal(k, s, dtype) for n, k, s in zip('ab', keys, shapes, strict=True)}
    return {'params': params, 'running': {'mean': jnp.zeros(3, dtype)}}

  def apply(variables, batch, *, train=False, rng=None):
    p, mean = variables['params'], variables['running']['mean']
    mean = 0.9 * mean + 0.1 * batch['x'].mean(0) if train else mean
    return {'logits': jnp.tanh(batch['x'] @ p['a']) @ p['b']}, {'running': {'mean': mean}}

  return Model(init, apply)


def needed(name, classes=C):
  """The options that a method has no defaults for: models that are trained beside the student."""
  options = inspect.signature(registry.entry('methods', name)).parameters
  values = {Peer: peer(0, classes), Mapping[str, Peer]: {'a': peer(1, classes), 'b': peer(2, classes)}}
  return {k: values[v.annotation] for k, v in options.items() if v.annotation in values}
