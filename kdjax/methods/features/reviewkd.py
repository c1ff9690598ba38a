"""Review: each student stage, fused with all deeper ones, matches the teacher (Chen, 2104.09044)."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.nn.conv import Conv
from kdjax.options import Stages
from kdjax.types import Method

WEIGHT = 1.0  # mdistiller (5.0 for its CIFAR-100 ResNet pair), warmed up over 20 epochs: set `warmup`

STAGES = ('image/stage1', 'image/stage2', 'image/stage3', 'image/embed')


def nearest(x, size):
  """A map [B, H, W, C] at `size`: position i takes floor(i · n / m)."""
  rows, columns = (np.arange(m) * n // m for n, m in zip(x.shape[1:3], size, strict=True))
  return x[:, rows][:, :, columns]


class Fusion(nn.Module):
  """Attention-based fusion: the student's maps, each mixed with the next deeper one, as the teacher's.

  The pairs run from the bottom up; level 0 of the parameters is the deepest.
  """

  @nn.compact
  def __call__(self, pairs, mask):
    width = min(512, pairs[-1][0].shape[-1])
    deeper, out = None, []
    for i, (a, b) in enumerate(reversed(pairs)):
      x = nn.Dense(width, use_bias=False, dtype=a.dtype, name=f'level{i}_conv1')(a)
      x = adapters.BatchNorm(name=f'level{i}_bn1')(x, mask)
      if deeper is not None:
        y = nearest(deeper, x.shape[1:3])
        z = nn.Dense(2, dtype=a.dtype, name=f'level{i}_attention')(jnp.concatenate([x, y], -1))
        z = nn.sigmoid(z)
        x = x * z[..., :1] + y * z[..., 1:]
      deeper = nearest(x, b.shape[1:3])
      x = Conv(b.shape[-1], (3, 3), use_bias=False, dtype=a.dtype, name=f'level{i}_conv2')(deeper)
      out.append(adapters.BatchNorm(name=f'level{i}_bn2')(x, mask))
    return out[::-1]


def hcl(a, b):
  """Hierarchical context loss: the weighted mean of the squared error at full size and at 4, 2, 1.

  Weights 1, then 1/2, 1/4, 1/8 in the order of use, for the sizes below the map's: [B].
  """
  total, weight, weights = taps.mean_over_axes((a - b) ** 2), 1.0, 1.0
  for size in (n for n in (4, 2, 1) if n < a.shape[1]):
    weight /= 2
    weights += weight
    small = (losses.average_to(x, (size, size)) for x in (a, b))
    total += weight * taps.mean_over_axes(jnp.subtract(*small) ** 2)
  return total / weights


def reviewkd(*, student: Stages = STAGES, teacher: Stages = STAGES) -> Method:
  """Knowledge review (arXiv 2104.09044, section 3).

  Σ over stages of HCL(fused_i, f_T_i), where each student map is mixed, by a learned attention,
  with the one fused from all deeper stages. Their width inside is that of the student's deepest
  tap, at most 512, as mdistiller has it. The batch norms relate the examples of a batch. The paper
  takes the teacher's maps before their ReLU.

  Args:
    student: its taps from the bottom up, maps [B, H, W, C] or vectors [B, D].
    teacher: as many taps, of any sizes and widths.
  """

  def read(s, t, batch):
    pairs = []
    for a, b in taps.stages(s, t, student, teacher, 'reviewkd', rank=None):
      if a.ndim not in (2, 4):
        raise KdjaxError(
          f'reviewkd needs maps [B, H, W, C] or vectors [B, D], and one of {student!r} is {list(a.shape)}.'
        )
      pairs.append(tuple(x.reshape(len(x), 1, 1, -1) if x.ndim == 2 else x for x in (a, b)))
    return pairs, taps.example_mask(batch, pairs[0][0])

  def init(rng, s, t, batch):
    return Fusion().init(rng, *read(s, t, batch))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs, mask = read(s, t, batch)
    fused = adapters.forward(Fusion(), params, pairs, mask)
    values = losses.total(hcl(a, b) for a, (_, b) in zip(fused, pairs, strict=True))
    return taps.mean_over_examples(values, batch), stats

  return Method(init, loss, relational=True)
