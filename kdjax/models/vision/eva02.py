"""EVA-02's Vision Transformer, and the image tower of its CLIP (Fang et al., 2303.11331; 2303.15389)."""

from typing import Literal, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.models.text.llama import frequencies, rotated
from kdjax.models.vision.dinov2 import resized
from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, patch_grid, standardised
from kdjax.options import Depth, Eps, Means, Rate, Scales, Size

Pool = Literal['mean', 'first']
THETA = 1e4  # of the rotary positions


def grid_angles(sides: tuple[int, int], reference: int, width: int) -> np.ndarray:
  """f64 [1 + h · w, width / 2]: how far each pair of a head's features is turned, by row and then by column.

  The first token, of no place, is not turned. Rows and columns are scaled to a grid of `reference` a side.
  """
  rows, columns = (np.arange(n) / n * reference for n in sides)
  places = np.stack(np.meshgrid(rows, columns, indexing='ij'), -1).reshape(-1, 2, 1)
  angles = (places * frequencies(width // 2, THETA)).reshape(len(places), -1)
  return np.concatenate([np.zeros_like(angles[:1]), angles])


class RotaryAttention(nn.Module):
  """Attention of [B, L, D] over itself with rotary positions, and its scores; the keys have no bias."""

  heads: int
  inner_norm: bool
  eps: float

  @nn.compact
  def __call__(self, x, angles):
    b, length, width = x.shape
    q, k, v = (
      nn.Dense(width, use_bias=name != 'key', name=name)(x).reshape(b, length, self.heads, -1)
      for name in ('query', 'key', 'value')
    )
    scores = jnp.einsum('bqhd,bkhd->bhqk', rotated(q, angles), rotated(k, angles))
    scores /= jnp.sqrt(width // self.heads).astype(x.dtype)
    y = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(scores), v).reshape(x.shape)
    y = nn.LayerNorm(self.eps, name='norm')(y) if self.inner_norm else y
    return nn.Dense(width, name='out')(y), scores


class Eva02Block(nn.Module):
  """A pre-norm Transformer layer with rotary positions, SwiGLU, and norms within the branches."""

  heads: int
  mlp: int
  attention_norm: bool
  mlp_norm: bool
  eps: float
  dropout: float

  @nn.compact
  def __call__(self, x, angles, train):
    drop = nn.Dropout(self.dropout, deterministic=not train)
    attention = RotaryAttention(self.heads, self.attention_norm, self.eps, name='attention')
    y, scores = attention(nn.LayerNorm(self.eps, name='norm1')(x), angles)
    x += drop(y)
    y = nn.LayerNorm(self.eps, name='norm2')(x)
    y = nn.silu(nn.Dense(self.mlp, name='mlp_gate')(y)) * nn.Dense(self.mlp, name='mlp_in')(y)
    y = nn.LayerNorm(self.eps, name='mlp_norm')(y) if self.mlp_norm else y
    return x + drop(nn.Dense(x.shape[-1], name='mlp_out')(y)), scores


class Eva02(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, 1 + L, D], `attention1` ... [B, heads, 1 + L, 1 + L],
  `embed` [B, D], and optionally `logits` [B, C].

  The class token is the first. With `pool` 'mean', `tokens` are the last block's, and `embed` is the norm of
  the mean of the patches; with 'first', `tokens` come out of the norm, and `embed` is the first of them. The
  attentions are scores before the softmax. Images of another size than `image_size` get learned positions by
  cubic interpolation with antialiasing, and rotary ones by their scale, as in timm. The defaults are those of
  the smallest, eva02_tiny_patch14_336.

  Attributes:
    width: D.
    depth: blocks.
    heads: attention heads; `width` divides into four features of each or a multiple.
    mlp: width of a block's hidden layer.
    patch: the side of a patch; the image has to divide into patches.
    image_size: the side of the square images that the table of positions is for.
    reference: the side, in patches, of the grid that rotary positions are scaled to: that of the pretraining.
    attention_norm: whether a norm comes before the last layer of the attention, as in EVA-02-CLIP.
    mlp_norm: whether one comes before the last layer of the MLP, as in the base and large ones.
    eps: of the layer norms.
    dropout: probability, after attention and after the MLP.
    pool: what `embed` is; 'first' in EVA-02-CLIP.
    mean: of the channels of an image in [0, 1], subtracted from it.
    std: what the difference is divided by.
    num_classes: None for an encoder without `logits`.
  """

  width: Size = 192
  depth: Depth = 12
  heads: Size = 3
  mlp: Size = 512
  patch: Size = 14
  image_size: Size = 336
  reference: Size = 16
  attention_norm: bool = False
  mlp_norm: bool = False
  eps: Eps = 1e-6
  dropout: Rate = 0.0
  pool: Pool = 'mean'
  mean: Means = (0.48145466, 0.4578275, 0.40821073)
  std: Scales = (0.26862954, 0.26130258, 0.27577711)
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x = standardised(inputs, self.mean, self.std)
    b, grid = x.shape[0], patch_grid(x, self.patch)
    if self.pool not in get_args(Pool):
      raise unknown('pool of the model eva02', self.pool, get_args(Pool))
    if self.width % (4 * self.heads):
      raise KdjaxError(
        f'eva02.width is {self.width}; it has to be a multiple of {4 * self.heads}, four times its heads.'
      )
    sides, normal = (self.patch, self.patch), nn.initializers.normal(0.02)
    x = Conv(self.width, sides, sides, 'VALID', name='patch')(x).reshape(b, -1, self.width)
    table = self.param('position', normal, (1, 1 + (self.image_size // self.patch) ** 2, self.width))
    table = table.astype(x.dtype)
    first = self.param('class', normal, (1, 1, self.width)).astype(x.dtype) + table[:, :1]
    x += resized(table[:, 1:], grid, True)
    x = jnp.concatenate([jnp.broadcast_to(first, (b, *first.shape[1:])), x], 1)
    taps, angles = {'embeddings': x}, grid_angles(grid, self.reference, self.width // self.heads)
    angles = jnp.asarray(angles[None], jnp.float32)
    sizes = self.heads, self.mlp, self.attention_norm, self.mlp_norm, self.eps, self.dropout
    for i in range(1, self.depth + 1):
      x, taps[f'attention{i}'] = Eva02Block(*sizes, name=f'block{i}')(x, angles, train)
      taps[f'block{i}'] = x
    norm = nn.LayerNorm(self.eps, name='norm')
    if self.pool == 'mean':
      taps |= {'tokens': x, 'embed': norm(x[:, 1:].mean(1))}
    else:
      taps['tokens'] = x = norm(x)
      taps['embed'] = x[:, 0]
    return Classifier(self.num_classes, name='head')(taps)
