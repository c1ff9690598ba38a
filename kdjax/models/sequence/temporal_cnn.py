"""Small residual convolutional network over time, of vectors such as those of a sensor or a skeleton."""

import flax.linen as nn
import jax.numpy as jnp

from kdjax.nn.conv import Conv
from kdjax.nn.layers import Classifier, feature_sequence, masked_mean
from kdjax.options import Name, Rate, Size, Sizes


class TemporalCnn(nn.Module):
  """Taps: `stem`, `stage1` ... [B, L', D], `tokens` (the last of them), `embed` [B, D], optionally `logits`.

  Reads '<modality>' [B, L, F] with its '<modality>/mask' where there is one: what lies beyond the end of a
  sequence changes nothing. A batch norm standardises each value first, whatever its unit. `embed` is the mean
  over time, so the order counts within the reach of the convolutions.

  Attributes:
    modality: the input that it reads, such as 'skeleton'.
    widths: channels of each stage; each but the first halves the length, by the mean of two positions.
    kernel: positions of each convolution, odd.
    dropout: probability, of the input of each stage.
    num_classes: None for an encoder without `logits`.
  """

  modality: Name
  widths: Sizes = (32, 64, 64)
  kernel: Size = 5
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x, mask = feature_sequence(inputs, self.modality)
    x = jnp.where(mask[..., None], x, 0)

    def norm(x, mask, name, **how):
      layer = nn.BatchNorm(not train, momentum=0.9, name=name, **how)
      counted = mask | ~mask.any()  # of a batch without any valid position the statistics would be 0 / 0
      return jnp.where(mask[..., None], layer(x, mask=jnp.broadcast_to(counted[..., None], x.shape)), 0)

    def conv(x, width, name):
      return Conv(width, (self.kernel, 1), use_bias=False, name=name)(x[:, :, None])[:, :, 0]

    x = norm(x, mask, 'input_norm', use_scale=False, use_bias=False)
    x = nn.relu(norm(conv(x, self.widths[0], 'stem'), mask, 'stem_norm'))
    taps = {'stem': x}
    for i, width in enumerate(self.widths, 1):
      if i > 1:
        x, mask = halved(x, mask)
      y = nn.Dropout(self.dropout, deterministic=not train)(x)
      y = nn.relu(norm(conv(y, width, f'stage{i}_conv1'), mask, f'stage{i}_norm1'))
      y = norm(conv(y, width, f'stage{i}_conv2'), mask, f'stage{i}_norm2')
      x = x if x.shape == y.shape else nn.Dense(width, use_bias=False, name=f'stage{i}_shortcut')(x)
      taps[f'stage{i}'] = x = nn.relu(x + y)
    taps |= {'tokens': x, 'embed': masked_mean(x, mask)}
    return Classifier(self.num_classes, name='head')(taps)


def halved(x, mask):
  """Means of two valid positions each: ([B, L, D], [B, L]) -> ([B, ⌈L / 2⌉, D], [B, ⌈L / 2⌉])."""
  odd = x.shape[1] % 2
  x, mask = jnp.pad(x, ((0, 0), (0, odd), (0, 0))), jnp.pad(mask, ((0, 0), (0, odd)))
  pairs, valid = x.reshape(x.shape[0], -1, 2, x.shape[-1]), mask.reshape(x.shape[0], -1, 2)
  count = valid.sum(-1, keepdims=True).astype(x.dtype)
  return pairs.sum(2) / jnp.maximum(count, 1), valid.any(-1)
