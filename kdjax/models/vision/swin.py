"""Swin Transformer, attention in windows that shift from block to block (Liu et al., 2103.14030)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Classifier, activation, patch_grid, standardised
from kdjax.options import Blocks, Eps, Means, Multiplier, Rate, Scales, Size, Sizes
from kdjax.types import Array

EPS = 1e-5  # of the norms of the patches and of their merging


def offsets(window: int) -> np.ndarray:
  """i32 [w · w, w · w]: the row of the table of biases for each pair of places in a window."""
  place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing='ij'), -1).reshape(-1, 2)
  down, right = np.moveaxis(place[:, None] - place[None] + window - 1, -1, 0)
  return down * (2 * window - 1) + right


def windows(x: Array, size: int) -> Array:
  """[B, H, W, C] -> [B, N, size · size, C], row by row."""
  b, h, w, c = x.shape
  x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, -1, size * size, c)


def map_of(x: Array, size: int, height: int, width: int) -> Array:
  """The inverse of `windows`."""
  b, c = x.shape[0], x.shape[-1]
  x = x.reshape(b, height // size, width // size, size, size, c).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(b, height, width, c)


def neighbours(height: int, width: int, size: int, shift: int) -> np.ndarray:
  """bool [N, size · size, size · size]: the pairs of a window that lie side by side in the map too."""
  down, right = (
    (np.arange(n) >= n - size).astype(int) + (np.arange(n) >= n - shift) for n in (height, width)
  )
  region = (3 * down[:, None] + right).reshape(height // size, size, width // size, size)
  region = region.transpose(0, 2, 1, 3).reshape(-1, size * size)
  return region[:, :, None] == region[:, None]


class WindowBlock(nn.Module):
  """A pre-norm Transformer layer over [B, H, W, C] whose attention stays in windows."""

  heads: int
  window: int
  shift: int
  mlp: float
  act: str
  eps: float
  dropout: float

  @nn.compact
  def __call__(self, x, train):
    (_, h, w, c), size = x.shape, self.window
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y = nn.LayerNorm(self.eps, name='norm1')(x)
    y = jnp.pad(y, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    height, width = y.shape[1:3]
    y = windows(jnp.roll(y, (-self.shift, -self.shift), (1, 2)), size)
    q, k, v = (
      nn.Dense(c, name=name)(y).reshape(*y.shape[:3], self.heads, -1) for name in ('query', 'key', 'value')
    )
    table = self.param('bias', nn.initializers.normal(0.02), ((2 * size - 1) ** 2, self.heads))
    scores = jnp.einsum('bnqhd,bnkhd->bnhqk', q, k) / jnp.sqrt(q.shape[-1]).astype(x.dtype)
    scores += table.astype(x.dtype)[offsets(size)].transpose(2, 0, 1)
    if self.shift:
      near = neighbours(height, width, size, self.shift)[:, None]
      scores = jnp.where(near, scores, jnp.finfo(scores.dtype).min)
    y = jnp.einsum('bnhqk,bnkhd->bnqhd', jax.nn.softmax(scores), v).reshape(y.shape)
    y = map_of(nn.Dense(c, name='out')(y), size, height, width)
    x += drop(jnp.roll(y, (self.shift, self.shift), (1, 2))[:, :h, :w])
    y = activation(self.act)(
      nn.Dense(int(self.mlp * c), name='mlp_in')(nn.LayerNorm(self.eps, name='norm2')(x))
    )
    return x + drop(nn.Dense(c, name='mlp_out')(y))


def merged(x: Array, name: str) -> Array:
  """2×2 patches as one, of twice the channels; a map of odd sides is padded with zeros."""
  x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
  x = jnp.concatenate([x[:, row::2, column::2] for column in range(2) for row in range(2)], -1)
  x = nn.LayerNorm(EPS, name=f'{name}_norm')(x)
  return nn.Dense(x.shape[-1] // 2, False, name=f'{name}_down')(x)


def stages(module: Any, x: Array, train: bool, model: str, hint: str) -> dict[str, Array]:
  """The taps `stage1` ... [B, H, W, C] over the patches [B, H, W, C], each before its patches are merged.

  Args:
    module: the one that has the layers, with `width`, `depths`, `heads`, `window`, `patch`, `mlp`, `act`,
      `eps` and `dropout`.
    x: the patches.
    train: for dropout.
    model: for messages.
    hint: what to do about a map that is too small, with {0} for the side that is large enough.

  Raises:
    KdjaxError: for heads that do not divide the channels, and for a stage smaller than a window.
  """
  depths, taps = module.depths, {}
  if len(depths) != len(module.heads) or any(module.width * 2**i % n for i, n in enumerate(module.heads)):
    raise KdjaxError(
      f'{model} has {len(depths)} depths, heads {tuple(module.heads)} and width {module.width}: each stage '
      'has heads that divide its channels, width · 2 to the power of its number.'
    )
  for i, (depth, heads) in enumerate(zip(depths, module.heads, strict=True), 1):
    x = merged(x, f'stage{i}') if i > 1 else x
    if (least := min(x.shape[1:3])) < module.window:
      side = module.patch * module.window * 2 ** (len(depths) - 1)
      raise KdjaxError(
        f'stage {i} of {model} has {least} patches a side, and its windows {module.window}: '
        f'{hint.format(side)}.'
      )
    shift = module.window // 2 if least > module.window else 0
    for j in range(1, depth + 1):
      args = heads, module.window, 0 if j % 2 else shift, module.mlp, module.act, module.eps, module.dropout
      x = WindowBlock(*args, name=f'stage{i}_block{j}')(x, train)
    taps[f'stage{i}'] = x
  return taps


class Swin(nn.Module):
  """Taps: `stem`, `stage1` ... and `tokens` [B, H, W, C], `embed` [B, D], and optionally `logits` [B, C].

  A stage's tap is before its patches are merged, `tokens` come out of the last norm, and `embed` is their
  mean. Maps that do not divide into windows are padded with zeros, as published. Deviation from the paper:
  no stochastic depth. The defaults are those of Swin-T.

  Attributes:
    width: channels of the first stage, twice as many in each further one.
    depths: blocks of each stage.
    heads: attention heads of each stage, divisors of its channels.
    window: the side of a window, in patches; every second block has them shifted by half of it, unless the
      map is a single window high or wide.
    patch: the side of a patch; the image has to divide into patches.
    mlp: width of a block's hidden layer, as a multiple of the stage's.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after attention and after the MLP.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Size = 96
  depths: Blocks = (2, 2, 6, 2)
  heads: Sizes = (3, 6, 12, 24)
  window: Size = 7
  patch: Size = 4
  mlp: Multiplier = 4.0
  act: Activation = 'gelu'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    patch_grid(x, self.patch)
    sides = (self.patch, self.patch)
    x = nn.LayerNorm(EPS, name='stem_norm')(Conv(self.width, sides, sides, 'VALID', name='stem')(x))
    taps = {'stem': x} | stages(self, x, train, 'swin', 'give it images of {0}×{0} or more')
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(taps[f'stage{len(self.depths)}'])
    taps['embed'] = x.mean((1, 2))
    return Classifier(self.num_classes, name='head')(taps)
