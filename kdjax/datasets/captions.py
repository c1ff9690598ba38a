"""Photos with captions: of Flickr8k, or of a table of your own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.input import table_file
from kdjax.options import Size
from kdjax.runtime import files
from kdjax.types import DataSet

TABLES = ('.jsonl', '.csv', '.tsv', '.parquet')
COLUMN = 'caption'  # of a table, by default


def example_of(pair: Mapping[str, Any], caption: str) -> dict[str, Any]:
  """The example of a photo and a caption.

  Raises:
    KdjaxError: if the caption is empty.
  """
  if not caption.strip() or pair.get('text/present', 1) == 0:
    raise KdjaxError(f'captions: the example {pair["id"]} has an empty caption: leave the row out.')
  kept = {k: v for k, v in pair.items() if k.partition('/')[0] != 'text'}
  return kept | {'response': caption}


class Captions(Sequence):
  """An example a caption, with its photo; of one photo they have one 'group'."""

  def __init__(self, pairs: Any):
    self.pairs = pairs

  def __len__(self) -> int:
    return len(self.pairs)

  def __getitem__(self, index):
    pair = self.pairs[range(len(self))[int(index)]]
    return example_of(pair, pair['text'])


class Photos(Sequence):
  """An example a photo, with all its captions as 'references', of which the first is the 'response'."""

  def __init__(self, pairs: Any):
    self.pairs, rows = pairs, {}
    for row in range(len(pairs)):
      example = Captions(pairs)[row]
      rows.setdefault(example.get('group', row), []).append((row, example['response']))
    self.rows = list(rows.values())

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    captions = self.rows[range(len(self))[int(index)]]
    references = tuple(text for _, text in captions)
    return example_of(self.pairs[captions[0][0]], references[0]) | {'references': references}


def captions(
  *,
  data_dir: str | None = None,
  path: str = '',
  side: Size | None = None,
  columns: Mapping[str, str] | None = None,
) -> DataSet:
  """`image` and `response`, a caption: in training an example a caption, in other splits an example a photo.

  Photos of other splits have all their captions as references. Without a table it is Flickr8k (Hodosh et al.,
  2013) as `flickr8k` reads it. A table has the columns image and caption; a photo with several captions has
  several rows, or a list in the cell. Photos without a split are shared out by chance.

  Args:
    data_dir, side: as those of `flickr8k`, which alone has them.
    path: a .jsonl, .csv, .tsv or .parquet file, or as that of `flickr8k`.
    columns: 'image', 'text' (the captions) or 'split' -> the name that the column of the table has instead.

  Raises:
    KdjaxError: if a caption is empty, or there are fewer than two to train on.
  """
  if Path(path).suffix.lower() in TABLES:
    named = dict(columns or {})
    if 'text' not in named and COLUMN in set().union(*table_file.rows(Path(path))):
      named['text'] = COLUMN
    source = registry.make('data', 'manifest', {'path': path, 'columns': named, 'label': 'none'})
  else:
    source = registry.make('data', 'flickr8k', {'data_dir': data_dir, 'path': path, 'side': side})
  for key in ('image', 'text'):
    if key not in source.splits['train'][0]:
      raise KdjaxError(f'captions: {path} has no {key}; it needs a column of images, and one of captions.')
  if len(source.splits['train']) < 2:
    raise KdjaxError('captions: there is one caption to train on; it takes two or more.')
  splits = {s: (Captions if s == 'train' else Photos)(pairs) for s, pairs in source.splits.items()}
  mark = files.fingerprint(source.fingerprint, 'captions')
  return source._replace(splits=splits, classes=(), fingerprint=mark)
