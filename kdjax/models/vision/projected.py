"""An encoder whose last map is projected to another model's, to use its classifier (SimKD, 2203.14001)."""

import flax.linen as nn

from kdjax.errors import unknown
from kdjax.nn import losses
from kdjax.nn.adapters import Bottleneck
from kdjax.nn.layers import Classifier
from kdjax.options import Name, NoOrSize, Size
from kdjax.types import Module


class Projected(nn.Module):
  """Taps: every tap of the encoder, `projected` [B, H, W, D], `embed` [B, D], its mean over the positions,
  and optionally `logits` [B, C].

  With `init={'from': 'teacher', 'classifier': True}` the logits are those of the teacher's classifier, which
  is not trained: the student of the method `simkd`, with `student='projected'`. The projector is three
  convolutions (1×1, 3×3, 1×1) with norms and ReLU, after which no value is below 0: it is for a teacher
  whose last map ends in ReLU, and whose classifier reads the mean of that map.

  Attributes:
    encoder: a module that gives the map.
    tap: the encoder's map, [B, H, W, E].
    width: D, that of the teacher's last map.
    factor: the hidden layers have D / factor channels.
    size: the height and width that a larger map is averaged to before it is projected, those of the
      teacher's; 0 for as it is.
    num_classes: None for an encoder without `logits`.
  """

  encoder: Module
  width: Size
  tap: Name = 'stage3'
  factor: Size = 2
  size: NoOrSize = 0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    taps = dict(self.encoder(inputs, train=train))
    if self.tap not in taps:
      raise unknown('tap of the encoder of the model projected', self.tap, taps)
    x = taps[self.tap]
    if self.size:
      x = losses.average_to(x, tuple(min(n, self.size) for n in x.shape[1:3]))

    def norm(name):
      return nn.BatchNorm(not train, momentum=0.9, name=name)

    x = Bottleneck(self.width, max(self.width // self.factor, 1), name='projector')(x, norm)
    return Classifier(self.num_classes, name='head')(taps | {'projected': x, 'embed': x.mean((1, 2))})
