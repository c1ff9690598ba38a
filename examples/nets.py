"""Two small networks of a user: nothing in them is of kdjax."""

import flax.linen as nn
from flax import nnx


class Net(nn.Module):
  """A convolutional network in Linen: images [B, H, W, 3] to logits [B, outputs]."""

  width: int
  outputs: int = 8

  @nn.compact
  def __call__(self, x, train: bool = False):
    for i in range(2):
      x = nn.Conv(self.width, (3, 3), strides=2, name=f'conv_{i}')(x)
      x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(self.outputs, name='classifier')(x.max((1, 2)))


class NnxNet(nnx.Module):
  """The same in NNX."""

  def __init__(self, width: int, outputs: int = 8, *, rngs: nnx.Rngs):
    self.conv = nnx.Conv(3, width, (3, 3), strides=2, rngs=rngs)
    self.norm = nnx.BatchNorm(width, rngs=rngs)
    self.dropout = nnx.Dropout(0.1, rngs=rngs)
    self.classifier = nnx.Linear(width, outputs, rngs=rngs)

  def __call__(self, x):
    x = nnx.relu(self.norm(self.conv(x)))
    return self.classifier(self.dropout(x.max((1, 2))))
