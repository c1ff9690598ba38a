"""Flickr8k: 8,000 photos with five captions each (Hodosh et al., 2013), from a download of your own."""

import csv
import hashlib
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from kdjax.errors import KdjaxError
from kdjax.input import images, tfds_source
from kdjax.input.splits import Subset
from kdjax.options import Size
from kdjax.runtime import files
from kdjax.runtime.progress import track
from kdjax.types import DataSet

TABLES = ('Flickr8k.token.txt', 'captions.txt')  # the authors' and Kaggle's
LISTS = {'train': 'trainImages', 'validation': 'devImages', 'test': 'testImages'}
SIDE = 224
TOKEN = re.compile(r'(\S+?\.jpg)\S*#\d+\t(.*)')


def captions(folder: Path) -> dict[str, list[str]]:
  """Photo -> its captions, of Flickr8k.token.txt or captions.txt anywhere in a folder.

  Raises:
    KdjaxError: if there is neither, or it holds none.
  """
  table = next((path for name in TABLES for path in sorted(folder.rglob(name))), None)
  if table is None:
    raise KdjaxError(f'data.path is {folder}, and neither {" nor ".join(TABLES)} is in it.')
  lines = table.read_text(encoding='utf-8').splitlines()
  if table.name == TABLES[0]:
    rows = [match.groups() for line in lines if (match := TOKEN.match(line))]
  else:
    rows = [row for row in csv.reader(lines[1:]) if len(row) == 2]
  by_photo = {}
  for photo, text in rows:
    by_photo.setdefault(photo, []).append(text.strip())
  if not by_photo:
    raise KdjaxError(
      f'{table} holds no captions: its lines should be PHOTO.jpg#0<tab>CAPTION, or PHOTO.jpg,CAPTION.'
    )
  return by_photo


def split_of(folder: Path, photos: Sequence[str]) -> dict[str, list[str]]:
  """Split -> photos: those in the authors' Flickr_8k.*Images.txt, without these an eighth each for
  validation and test."""
  lists = {s: next(iter(sorted(folder.rglob(f'Flickr_8k.{name}.txt'))), None) for s, name in LISTS.items()}
  paths = {s: path for s, path in lists.items() if path}
  if len(paths) == len(LISTS):
    return {s: [p for p in path.read_text().split() if p in set(photos)] for s, path in paths.items()}
  splits = {split: [] for split in LISTS}
  for photo in photos:
    splits[{0: 'test', 1: 'validation'}.get(zlib.crc32(photo.encode()) % 8, 'train')].append(photo)
  return splits


def checksum(splits: Mapping[str, Sequence[str]], texts: Mapping, files: Mapping[str, Path]) -> str:
  """A hash of which photos each split has, of their bytes and of their captions."""
  rows = [(split, name, texts[name]) for split, names in splits.items() for name in names]
  digest = hashlib.sha256(repr(rows).encode())
  for _, name, _ in track(rows, 'reading flickr8k', len(rows)):
    if name in files:  # a missing one is reported when it is prepared
      digest.update(hashlib.sha256(files[name].read_bytes()).digest())
  return digest.hexdigest()


class Flickr8k(tfds.core.GeneratorBasedBuilder):
  """Photos, squeezed to a square, and captions as ArrayRecord, with no TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')

  def __init__(self, *, folder: str = '', side: int = SIDE, **kwargs):
    self.folder, self.side = Path(folder), side
    super().__init__(**kwargs)

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='Photos with five captions each (Hodosh et al., 2013); for research only.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
          'image/filename': tfds.features.Text(),
          'captions': tfds.features.Sequence(tfds.features.Text()),
        }
      ),
      supervised_keys=None,
      metadata=tfds.core.MetadataDict(),
    )

  def _split_generators(self, dl_manager):
    texts = captions(self.folder)
    files = {p.name: p for p in self.folder.rglob('*.jpg')}
    splits = split_of(self.folder, list(texts))
    metadata = self.info.metadata
    assert metadata is not None  # it is set by `_info`
    metadata.update(side=self.side, files=checksum(splits, texts, files))
    return {s: self._generate_examples(names, texts, files) for s, names in splits.items()}

  def _generate_examples(self, names, texts, files) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in track(names, 'preparing flickr8k', len(names)):
      photo = images.read_image(files.get(name, self.folder / name), f'the captions of {name}')
      encoded = io.BytesIO()
      Image.fromarray(images.resize(photo, self.side)).save(encoded, 'jpeg', quality=95)
      encoded.seek(0)
      yield name, {'image': encoded, 'image/filename': name, 'captions': texts[name]}


class Captions(Sequence):
  """An example a caption, of the photos of a TFDS source; `first` is the number of its first photo."""

  def __init__(self, photos: Sequence, first: int):
    self.photos, self.first = photos, first
    self.last: tuple[int, Any] = (-1, None)
    self.rows = [(i, j) for i in range(len(photos)) for j in range(len(photos[i]['captions']))]

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    index = range(len(self.rows))[int(index)]
    photo, caption = self.rows[index]
    last = self.last  # read once, as threads share it
    if last[0] != photo:  # the captions of a photo are read one after the other
      last = self.last = photo, self.photos[photo]
    record = last[1]
    return {
      'image': record['image'],
      'text': record['captions'][caption],
      'group': self.first + photo,
      'id': index,
    }


def flickr8k(*, data_dir: str | None = None, path: str = '', side: Size | None = None) -> DataSet:
  """Photos and English captions: an example a caption, 'group' the photo.

  The data are read where TFDS keeps them; if they are not there yet, they are prepared from a download of
  yours. The authors' lists of photos make the splits. Without a test split the validation split is the
  test, and a tenth of the training photos is for validation. Licence: research only.

  Args:
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
    path: a folder that holds the photos and Flickr8k.token.txt or captions.txt, at any depth.
    side: of the prepared photos, in pixels; None for what they have, or 224 where they are prepared now.

  Raises:
    KdjaxError: if the data are not prepared and `path` is not such a folder, or were prepared with another
      side.
  """

  def make():
    return Flickr8k(folder=path, side=side or SIDE, data_dir=data_dir)

  builder = make()
  if not builder.is_prepared() and not (path and Path(path).is_dir()):
    raise KdjaxError(
      f'flickr8k is not in {builder.data_dir}: set --data_dir to where it is prepared, or '
      '--config.data.path to a folder with your download, the photos and their captions.'
    )
  builder = tfds_source.prepare(make)

  def convert(record, index):
    texts = [c.decode() for c in record['captions']]
    return {'image': record['image'], 'captions': texts, 'name': record['image/filename'].decode()}

  photos = {split: tfds_source.TfdsSource(builder, split, convert) for split in builder.info.splits}
  metadata = dict(builder.info.metadata)  # empty where an earlier version prepared them
  prepared_side = metadata.get('side') or len(next(iter(photos.values()))[0]['image'])
  if side and side != prepared_side:
    raise KdjaxError(
      f'side is {side}, and flickr8k in {builder.data_dir} was prepared with {prepared_side}: set side to '
      'that, or --data_dir to another folder.'
    )
  metadata = metadata or {k: (s.num_bytes, s.shard_lengths) for k, s in builder.info.splits.items()}
  if 'test' not in photos:
    rows = np.arange(len(photos['train']))
    held_out = rows % 10 == 9
    photos = {
      'train': Subset(photos['train'], rows[~held_out]),
      'validation': Subset(photos['train'], rows[held_out]),
      'test': photos['validation'],
    }
  splits, first = {}, 0
  for split, source in photos.items():
    splits[split] = Captions(source, first)
    first += len(source)
  sizes = [(split, len(source)) for split, source in splits.items()]
  mark = files.fingerprint(builder.info.full_name, sizes, sorted(metadata.items()))
  return DataSet(splits, (), mark, 'research only', files=tfds_source.files(builder))
