"""Statements about photographs: is this caption one of this photo? Each modality alone says nothing."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdjax import registry
from kdjax.options import Count, Size, Whole
from kdjax.runtime import files
from kdjax.types import DataSet


class Statements(Sequence):
  """Captions, each with its photo and with another: the first half of the examples are true."""

  def __init__(self, captions: Any, seed: int, each: int):
    rows: dict[int, list[int]] = {}
    for row in range(len(captions)):
      rows.setdefault(captions.rows[row][0], []).append(row)
    self.captions, photos = captions, sorted(rows)
    order = np.random.default_rng(seed).permutation(photos)
    self.other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # each photo once
    self.first = {photo: of_photo[0] for photo, of_photo in rows.items()}
    self.rows = [row for photo in photos for row in rows[photo][:each]]

  def __len__(self) -> int:
    return 2 * len(self.rows)

  def __getitem__(self, index):
    index = range(len(self))[int(index)]
    true, row = index < len(self.rows), self.rows[index % len(self.rows)]
    caption, photo = self.captions[row], self.captions.rows[row][0]
    image = caption['image'] if true else self.captions[self.first[self.other[photo]]]['image']
    return {'image': image, 'text': caption['text'], 'label': int(true), 'id': index}


def statements(
  *,
  data_dir: str | None = None,
  path: str = '',
  side: Size | None = None,
  captions: Count = 2,
  seed: Whole = 0,
) -> DataSet:
  """`image` and `text`; the label is whether the text was written about the image.

  Of Flickr8k (Hodosh et al., 2013): every caption stands once with its photo and once with another of the
  same split, and every photo with as many captions of its own as of others, so that neither text nor photo
  alone beats 50 %.

  Args:
    data_dir, path, side: as those of `flickr8k`.
    captions: how many of a photo's five.
    seed: of the draw of the other photos.
  """
  source = registry.make('data', 'flickr8k', {'data_dir': data_dir, 'path': path, 'side': side})
  splits = {split: Statements(examples, seed, captions) for split, examples in source.splits.items()}
  mark = files.fingerprint(source.fingerprint, 'statements', captions, seed)
  return source._replace(splits=splits, classes=('false', 'true'), fingerprint=mark)
