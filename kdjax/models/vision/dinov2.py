"""DINOv2's Vision Transformer, also with registers (Oquab et al., 2304.07193; Darcet et al., 2309.16588)."""

import math
from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import unknown
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Activation, Attention, Classifier, activation, patch_grid, standardised
from kdjax.options import Depth, Eps, Means, NoOrSize, Rate, Scales, Size
from kdjax.types import Array

Pool = Literal['first', 'first_and_mean']
SHARPNESS = -0.75  # of torch's cubic interpolation without antialiasing


def cubic(rows: int, size: int, aligned: bool = False) -> np.ndarray:
  """f64 [size, rows]: the weights of cubic interpolation of `rows` values, the first and last repeated.

  The values are the middles of `rows` pieces of a whole, or `aligned`, with the first and last at its ends.
  """
  weights = np.zeros((size, rows))
  for i in range(size):
    center = i * (rows - 1) / max(size - 1, 1) if aligned else (i + 0.5) * rows / size - 0.5
    first = math.floor(center)
    for j in range(first - 1, first + 3):
      x, a = abs(center - j), SHARPNESS
      near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
      weights[i, min(max(j, 0), rows - 1)] += near if x <= 1 else far
  return weights


def resized(table: Array, sides: tuple[int, int], antialias: bool) -> Array:
  """Positions [1, H · H, D] of a square, at other sides: [1, h · w, D]."""
  side = math.isqrt(table.shape[1])
  if sides == (side, side):
    return table
  grid = table.reshape(1, side, side, -1)
  if antialias:
    grid = jax.image.resize(grid, (1, *sides, grid.shape[-1]), 'cubic')
  else:
    rows, columns = (jnp.asarray(cubic(side, n), grid.dtype) for n in sides)
    grid = jnp.einsum('ih,jw,bhwd->bijd', rows, columns, grid, precision=jax.lax.Precision.HIGHEST)
  return grid.reshape(1, sides[0] * sides[1], -1)


class LayerScale(nn.Module):
  """x · a vector of D learned factors."""

  @nn.compact
  def __call__(self, x):
    return x * self.param('scale', nn.initializers.ones_init(), x.shape[-1:]).astype(x.dtype)


class ScaledBlock(nn.Module):
  """A pre-norm Transformer layer whose branches have layer scales, and a plain or a gated MLP."""

  heads: int
  mlp: int
  eps: float
  act: str
  gated: bool
  dropout: float

  @nn.compact
  def __call__(self, x, train):
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y, scores = Attention(self.heads, name='attention')(nn.LayerNorm(self.eps, name='norm1')(x))
    x += LayerScale(name='scale1')(drop(y))
    y = nn.LayerNorm(self.eps, name='norm2')(x)
    if self.gated:
      y = nn.silu(nn.Dense(self.mlp, name='mlp_gate')(y)) * nn.Dense(self.mlp, name='mlp_in')(y)
    else:
      y = activation(self.act)(nn.Dense(self.mlp, name='mlp_in')(y))
    y = nn.Dense(x.shape[-1], name='mlp_out')(y)
    return x + LayerScale(name='scale2')(drop(y)), scores


class Dinov2(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, 1 + R + L, D], `attention1` ...
  [B, heads, 1 + R + L, 1 + R + L], `embed` [B, D] or [B, 2 D], and optionally `logits` [B, C].

  The class token is the first, R registers follow, then the patches; `tokens` come out of the last norm. The
  attentions are scores before the softmax. Images of another size than `image_size` get positions by cubic
  interpolation, as transformers has it: with antialiasing where there are registers. The defaults are
  those of the smallest, ViT-S/14.

  Attributes:
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    patch: the side of a patch; the image has to divide into patches.
    image_size: the side of the square images that the table of positions is for.
    registers: R.
    gated: whether the MLP is SwiGLU (2002.05202), as in the largest.
    act: activation of an MLP that is not gated.
    eps: of the layer norms.
    dropout: probability, after attention and after the MLP.
    pool: what `embed` is: the class token, 'first', or it and the mean of the patches, 'first_and_mean', as
      published classifiers read them.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Size = 384
  depth: Depth = 12
  heads: Size = 6
  mlp: Size = 1536
  patch: Size = 14
  image_size: Size = 518
  registers: NoOrSize = 0
  gated: bool = False
  act: Activation = 'gelu'
  eps: Eps = 1e-6
  dropout: Rate = 0.0
  pool: Pool = 'first'
  mean: Means = (0.485, 0.456, 0.406)
  std: Scales = (0.229, 0.224, 0.225)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    b, grid = x.shape[0], patch_grid(x, self.patch)
    if self.pool not in get_args(Pool):
      raise unknown('pool of the model dinov2', self.pool, get_args(Pool))
    sides, normal = (self.patch, self.patch), nn.initializers.normal(0.02)
    x = Conv(self.width, sides, sides, 'VALID', name='patch')(x)
    table = self.param('position', normal, (1, 1 + (self.image_size // self.patch) ** 2, self.width))
    table = table.astype(x.dtype)
    first = self.param('class', normal, (1, 1, self.width)).astype(x.dtype) + table[:, :1]
    x = x.reshape(b, -1, self.width) + resized(table[:, 1:], grid, self.registers > 0)
    before = [first]
    if self.registers:
      before.append(self.param('registers', normal, (1, self.registers, self.width)).astype(x.dtype))
    x = jnp.concatenate([*(jnp.broadcast_to(y, (b, *y.shape[1:])) for y in before), x], 1)
    taps = {'embeddings': x}
    for i in range(1, self.depth + 1):
      block = ScaledBlock(
        self.heads, self.mlp, self.eps, self.act, self.gated, self.dropout, name=f'block{i}'
      )
      x, taps[f'attention{i}'] = block(x, train)
      taps[f'block{i}'] = x
    taps['tokens'] = x = nn.LayerNorm(self.eps, name='norm')(x)
    means = [x[:, 1 + self.registers :].mean(1)] if self.pool == 'first_and_mean' else []
    taps['embed'] = jnp.concatenate([x[:, 0], *means], -1)
    return Classifier(self.num_classes, name='head')(taps)
