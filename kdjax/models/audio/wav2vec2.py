"""wav2vec 2.0, HuBERT and WavLM encoders of sound (2006.11477, 2106.07447, 2110.13900)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.nn.conv import Conv, conv_general_dilated
from kdjax.nn.layers import COMPUTED, Activation, Block, Classifier, activation, masked_mean, read
from kdjax.nn.log_mel import long_enough
from kdjax.options import Count, Depth, Eps, NoOrSize, Rate, Size, Sizes
from kdjax.types import Array

EPS = 1e-5  # of the norms of convolutions


def normalised(x: Array, mask: Array | None) -> Array:
  """Sound [B, N] with mean 0 and variance 1 over its valid samples; the others are 0."""
  n = x.shape[1] if mask is None else jnp.maximum(mask.sum(1, keepdims=True), 1)
  valid = jnp.ones_like(x) if mask is None else mask.astype(x.dtype)
  x = (x - (x * valid).sum(1, keepdims=True) / n) * valid
  return x / jnp.sqrt(jnp.square(x).sum(1, keepdims=True) / n + 1e-7)


def buckets(length: int, count: int, farthest: int) -> np.ndarray:
  """i32 [L, L]: the bucket of each distance, half of `count` for either direction.

  The nearest have one each, the others one for a range that grows by a factor (T5, 1910.10683).
  """
  distance = np.arange(length)[None] - np.arange(length)[:, None]
  half = count // 2
  near, far = half // 2, np.abs(distance).astype(np.float32)
  ratio = np.log(np.maximum(far, 1) / np.float32(near)) / np.float32(math.log(farthest / near))
  ranges = np.minimum((near + ratio * np.float32(half - near)).astype(np.int32), half - 1)
  return (distance > 0) * half + np.where(far < near, far.astype(np.int32), ranges)


class Positions(nn.Module):
  """A grouped convolution over positions of [B, L, D], its kernel a direction and a length a tap."""

  kernel: int
  groups: int

  @nn.compact
  def __call__(self, x):
    width, k = x.shape[-1], self.kernel
    shape = (k, width // self.groups, width)
    direction = self.param('kernel', nn.initializers.lecun_normal(), shape)
    length = self.param('length', nn.initializers.ones_init(), (k,))
    bias = self.param('bias', nn.initializers.zeros_init(), (width,))
    norm = jnp.sqrt(jnp.square(direction).sum((1, 2), keepdims=True))
    kernel = (direction / norm * length[:, None, None]).astype(x.dtype)
    y = conv_general_dilated(
      x[:, :, None],
      kernel[:, None],
      (1, 1),
      ((k // 2, k // 2), (0, 0)),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=self.groups,
    )
    return activation('gelu')(y[:, : x.shape[1], 0] + bias.astype(x.dtype))


class BiasedBlock(nn.Module):
  """A Transformer layer whose scores get a bias by distance [heads, L, L], through a gate of the query."""

  heads: int
  mlp: int
  eps: float
  act: str
  dropout: float
  pre_norm: bool

  @nn.compact
  def __call__(self, x, mask, train, bias):
    norm1, norm2 = (nn.LayerNorm(self.eps, name=name) for name in ('norm1', 'norm2'))
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y, scores = BiasedAttention(self.heads, name='attention')(norm1(x) if self.pre_norm else x, mask, bias)
    x = x + drop(y)
    x = x if self.pre_norm else norm1(x)
    y = nn.Dense(self.mlp, name='mlp_in')(norm2(x) if self.pre_norm else x)
    x = x + drop(nn.Dense(x.shape[-1], name='mlp_out')(activation(self.act)(y)))
    return x if self.pre_norm else norm2(x), scores


class BiasedAttention(nn.Module):
  """Attention of [B, L, D] over itself; its scores [B, heads, L, L] have the gated bias."""

  heads: int

  @nn.compact
  def __call__(self, x, mask, bias):
    b, length, width = x.shape
    q, k, v = (
      nn.Dense(width, name=name)(x).reshape(b, length, self.heads, -1) for name in ('query', 'key', 'value')
    )
    gates = nn.Dense(8, name='gate')(x.reshape(q.shape)).reshape(*q.shape[:3], 2, 4).sum(-1)
    one, two = jnp.split(jax.nn.sigmoid(gates), 2, -1)
    factor = self.param('factor', nn.initializers.ones_init(), (self.heads,)).astype(x.dtype)
    gate = one[..., 0] * (two[..., 0] * factor - 1) + 2  # [B, L, heads]
    scores = jnp.einsum('bqhd,bkhd->bhqk', q, k) / jnp.sqrt(q.shape[-1]).astype(x.dtype)
    scores += gate.transpose(0, 2, 1)[..., None] * bias.astype(x.dtype)
    masked = scores if mask is None else jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    y = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(masked), v).reshape(x.shape)
    return nn.Dense(width, name='out')(y), scores


class Wav2vec2(nn.Module):
  """Taps: `embeddings`, `block1` ... and `tokens` [B, L, D], `attention1` ... [B, heads, L, L],
  `embed` [B, D], and optionally `logits` [B, C]; L is N over the product of the strides, about.

  Reads `audio` [B, N] in [-1, 1] at `rate`, and 'audio/mask'. The attentions are scores before the mask and
  the softmax, with WavLM's bias; `embeddings` is what the first block reads, `tokens` the end of the last.
  `embed` is the mean of the valid positions. Deviations: no masked spans and no skipped layers in training,
  no dropout of attention weights. The defaults are those of wav2vec 2.0 Base.

  Attributes:
    rate: samples a second of the sound.
    scaled: whether the sound is scaled to mean 0 and variance 1.
    masked: whether padding is left out of the scaling, attention and `embed`; published models whose first
      convolution has the norm were trained without masks, and read padding as silence.
    convs, kernels, strides: channels, taps and stride of each convolution over the sound.
    conv_bias: whether these have a bias.
    norm_all: whether each of them has a norm over its channels; else the first has one over time.
    position_kernel, position_groups: of the convolution that makes the positions.
    width: D.
    depth: blocks.
    heads: attention heads, a divisor of `width`.
    mlp: width of a block's hidden layer.
    pre_norm: whether the norms come before the branches.
    buckets: of distances, for WavLM's bias; 0 for none.
    farthest: the distance from which all share a bucket.
    act: activation of the MLP.
    eps: of the layer norms.
    dropout: probability, after the embeddings, after attention and after the MLP.
    weighted: whether `embed` is of a learned mean of `embeddings` and all blocks' outputs, as SUPERB has it
      (2105.01051), the last after its norm, as s3prl and transformers 4 read it (5 skips the norm).
    project: width of a linear layer before that of the classes, as published classifiers have; None for none.
    num_classes: None for an encoder without `logits`.
  """

  rate: Count = 16_000
  scaled: bool = True
  masked: bool = False
  convs: Sizes = (512,) * 7
  kernels: Sizes = (10, 3, 3, 3, 3, 2, 2)
  strides: Sizes = (5, 2, 2, 2, 2, 2, 2)
  conv_bias: bool = False
  norm_all: bool = False
  position_kernel: Size = 128
  position_groups: Size = 16
  width: Size = 768
  depth: Depth = 12
  heads: Size = 12
  mlp: Size = 3072
  pre_norm: bool = False
  buckets: NoOrSize = 0
  farthest: Size = 800
  act: Activation = 'gelu'
  eps: Eps = 1e-5
  dropout: Rate = 0.0
  weighted: bool = False
  project: Size | None = None
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    self.check()
    audio, mask = read(inputs, 'audio', 'BN'), inputs.get('audio/mask') if self.masked else None
    least = 1
    for kernel, stride in zip(self.kernels[::-1], self.strides[::-1], strict=True):
      least = (least - 1) * stride + kernel
    x = long_enough(audio, least)
    x = normalised(x, mask) if self.scaled else x
    x = x.astype(inputs.get(f'audio{COMPUTED}', audio).dtype)
    x, lengths = self.features(x[:, :, None, None], None if mask is None else (mask > 0).sum(1))
    mask = None if lengths is None else jnp.arange(x.shape[1]) < lengths[:, None]
    x = nn.Dense(self.width, name='project')(nn.LayerNorm(self.eps, name='norm_in')(x))
    x = x if mask is None else x * mask[..., None].astype(x.dtype)
    x += Positions(self.position_kernel, self.position_groups, name='positions')(x)
    norm = nn.LayerNorm(self.eps, name='norm')
    x = x if self.pre_norm else norm(x)
    taps, layers = {'embeddings': x}, [x]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    keys, bias = None if mask is None else mask[:, None, None], None
    if self.buckets:
      table = nn.Embed(self.buckets, self.heads, name='distances')
      bias = table(buckets(x.shape[1], self.buckets, self.farthest)).transpose(2, 0, 1)
    args = self.heads, self.mlp, self.eps, self.act, self.dropout, self.pre_norm
    for i in range(1, self.depth + 1):
      if bias is None:
        x, taps[f'attention{i}'] = Block(*args, name=f'block{i}')(x, keys, train)
      else:
        x, taps[f'attention{i}'] = BiasedBlock(*args, name=f'block{i}')(x, keys, train, bias)
      taps[f'block{i}'] = x
      layers.append(x)
    taps['tokens'] = layers[-1] = x = norm(x) if self.pre_norm else x
    if self.weighted:
      weights = jax.nn.softmax(self.param('layers', nn.initializers.zeros_init(), (len(layers),)))
      x = sum(w.astype(x.dtype) * y for w, y in zip(weights, layers, strict=True))
    taps['embed'] = masked_mean(jnp.asarray(x), mask)
    return Classifier(self.num_classes, self.project, name='head')(taps)

  def check(self):
    """Raises KdjaxError for sizes that do not fit each other."""
    if not len(self.convs) == len(self.kernels) == len(self.strides):
      counts = ', '.join(str(len(x)) for x in (self.convs, self.kernels, self.strides))
      raise KdjaxError(f'wav2vec2 has {counts} convs, kernels and strides: each convolution has one of each.')
    if self.buckets % 4 or 0 < self.farthest <= self.buckets // 4 and self.buckets:
      raise KdjaxError(
        f'wav2vec2.buckets is {self.buckets}; it is a multiple of 4, and a fourth of it less than farthest.'
      )

  def features(self, x, lengths):
    """Frames [B, L, C] of sound [B, N, 1, 1], and how many of each are valid [B]."""
    gelu = activation('gelu')
    for i, (width, kernel, stride) in enumerate(zip(self.convs, self.kernels, self.strides, strict=True), 1):
      conv = Conv(width, (kernel, 1), (stride, 1), 'VALID', use_bias=self.conv_bias, name=f'conv{i}')
      x = conv(x)
      if self.norm_all:
        x = nn.LayerNorm(EPS, name=f'conv{i}_norm')(x)
      elif i == 1:
        x = nn.GroupNorm(None, group_size=1, epsilon=EPS, name='conv1_norm')(x)
      x = gelu(x)
      lengths = None if lengths is None else (lengths - kernel) // stride + 1
    return x[:, :, 0], lengths
