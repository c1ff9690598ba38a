"""A small encoder of a sequence of feature vectors: each through a layer, their mean through another."""

import flax.linen as nn

from kdjax.nn.layers import Classifier, feature_sequence, masked_mean
from kdjax.options import Name, Rate, Size


class FeatureEncoder(nn.Module):
  """Taps: `tokens` [B, L, D], `embed` [B, D], and optionally `logits` [B, C].

  Blind to the order of the vectors. Reads '<modality>' [B, L, F] and, where there is one, '<modality>/mask'.

  Attributes:
    modality: the input that it reads, such as 'words', 'audio' or 'video' of the data set `mosei`.
    width: D.
    dropout: probability, after the mean.
    num_classes: None for an encoder without `logits`.
  """

  modality: Name
  width: Size = 64
  dropout: Rate = 0.0
  num_classes: Size | None = None

  @nn.compact
  def __call__(self, inputs, train: bool = False):
    x, mask = feature_sequence(inputs, self.modality)
    x = nn.relu(nn.Dense(self.width, name='each')(x))
    taps = {'tokens': x}
    x = nn.Dropout(self.dropout, deterministic=not train)(masked_mean(x, mask))
    taps['embed'] = nn.relu(nn.Dense(self.width, name='hidden')(x))
    return Classifier(self.num_classes, name='head')(taps)
