"""Missing and noisy modalities: a model is evaluated on every subset of its modalities, and with noise."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.input.views import mark
from kdjax.nn.layers import scale_image
from kdjax.nn.missing_modality import hide
from kdjax.types import MODALITIES, Batch, Model
from kdjax.types import modalities as modalities_of

ABLATED = 'senses'  # batch key, f32 [B, M, 2]: presence and noise level of each modality


def modalities(inputs: Mapping[str, str], batch: Mapping[str, Any]) -> dict[str, str]:
  """modality -> batch key, of a model with these inputs."""
  return {m: inputs.get(m, m) for m in modalities_of(inputs or batch)}


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
  """All 2^M - 1 subsets that are not empty, the largest first."""
  return [s for n in range(len(names), 0, -1) for s in itertools.combinations(names, n)]


def add_noise(batch: Batch, name: str, level: jax.Array, where: str = '') -> dict:
  """`batch` with a share `level` [B] of the modality replaced by noise, drawn from the example's id.

  Numbers: (1 - level)·x + level·n, with n Gaussian of the mean and deviation of the example itself. Words:
  each vanishes from the mask with probability `level`.

  Args:
    batch: with 'id'.
    name: the modality.
    level: f32 [B], in [0, 1].
    where: its batch key; '' for `name`.
  """
  where = where or name
  x, noisy = batch[where], dict(batch)
  key = jax.random.key(MODALITIES.index(name) if name in MODALITIES else mark(name))
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(batch['id'])
  if jnp.issubdtype(x.dtype, jnp.integer) and name == 'text':
    stays = jax.vmap(lambda k, p: jax.random.uniform(k, x.shape[1:]) >= p)(keys, level)
    return noisy | {f'{where}/mask': batch.get(f'{where}/mask', x > 0) & stays}

  def one(k, x, p):
    noise = x.mean() + x.std() * jax.random.normal(k, x.shape, x.dtype)
    return jnp.where(p > 0, (1 - p) * x + p * noise, x)

  return noisy | {where: jax.vmap(one)(keys, scale_image(x), level)}


def with_missing(model: Model, names: Mapping[str, str]) -> Model:
  """The model on batches of an `AblatedSource`: hides modalities, and adds noise to them, before `apply`."""

  def apply(variables, batch, **how):
    ablation = batch[ABLATED]  # [B, M, 2]: present, level
    batch = {k: v for k, v in batch.items() if k != ABLATED}
    for i, (name, where) in enumerate(names.items()):
      batch = add_noise(batch, name, ablation[:, i, 1], where)
      batch = hide(batch, where, ablation[:, i, 0])
    return model.apply(variables, batch, **how)

  return Model(model.init, apply)


class AblatedSource:
  """A source whose examples have `ABLATED`: which modalities are present, and the noise level of each."""

  def __init__(
    self, source: Any, names: tuple[str, ...], present: tuple[str, ...], level: Mapping[str, float]
  ):
    self.source = source
    self.ablated = np.array([(float(n in present), level.get(n, 0.0)) for n in names], np.float32)

  def __len__(self) -> int:
    return len(self.source)

  def take(self, indices) -> dict[str, np.ndarray]:
    batch = self.source.take(indices)
    return batch | {ABLATED: np.broadcast_to(self.ablated, (len(indices), *self.ablated.shape))}


def measure(
  evaluate: Callable,
  source: Any,
  names: tuple[str, ...],
  all_subsets: bool,
  noise: Sequence[float],
  title: str,
) -> dict[str, dict[str, list[float]]]:
  """The scores of a `with_missing` model, for subsets of its modalities and levels of noise.

  Args:
    evaluate: `(source, title) -> [S]`, a score a seed.
    source: the examples.
    names: the modalities of the model.
    all_subsets: whether to evaluate all subsets, or all modalities alone.
    noise: the levels for each modality, with the others unchanged.
    title: of the progress bar.

  Returns:
    'subsets': 'image+audio' -> scores; 'noise': 'image 0.25' -> scores.
  """

  def score(present, level, what):
    return evaluate(AblatedSource(source, names, present, level), f'{title}, {what}')

  tried = subsets(names) if all_subsets else [names]
  scores = {'+'.join(s): score(s, {}, ' and '.join(s)) for s in tried}
  noisy = {}
  for name, level in itertools.product(names, noise):
    whole = scores['+'.join(names)]
    what = f'noise {level:g} in {name}'
    noisy[f'{name} {level:g}'] = score(names, {name: level}, what) if level else whole
  return {'subsets': scores, 'noise': noisy}
