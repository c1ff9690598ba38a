"""Your own files in class folders: CLASS/FILE or SPLIT/CLASS/FILE, all images or all sounds."""

from collections.abc import Sequence
from pathlib import Path

from kdjax.errors import KdjaxError, unknown
from kdjax.input import class_folders, class_labels, draw
from kdjax.input.audio_files import measured
from kdjax.input.content import marks
from kdjax.input.media import Media
from kdjax.options import Name, NonNegative, Whole
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import counted, say
from kdjax.types import DataSet


class Files(Sequence):
  """Examples of some files, read on demand."""

  def __init__(
    self,
    key: str,
    files: Sequence[class_folders.Listed],
    ids: Sequence[int],
    classes: Sequence[str],
    media: Media,
  ):
    self.key, self.files, self.ids, self.media = key, files, ids, media
    self.places = {name: i for i, name in enumerate(classes)}

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index):
    file = self.files[index]
    array = self.media.array(self.key, str(file.path), f'class {file.label!r}', '')
    return {self.key: array, 'label': self.places[file.label], 'id': self.ids[index]}


def names_of(files: Sequence[class_folders.Listed], train: Sequence[int], classes: Sequence[str], root: Path):
  """The classes in order: `classes`, or those of the training files.

  Raises:
    KdjaxError: for a single class, and a folder that is none of them.
  """
  labels_of_train = {files[i].label for i in train}
  number = labels_of_train and all(class_labels.WHOLE.fullmatch(name) for name in labels_of_train)
  names = tuple(map(str, classes)) or tuple(
    sorted(labels_of_train, key=int) if number else sorted(labels_of_train)
  )
  for file in files:
    if file.label not in names:
      raise KdjaxError(
        f'{file.path.parent}: {unknown("class", file.label, names)} These are the class folders of train: '
        'name all classes in data.options.classes, or move the folder away.'
      )
  if len(names) < 2:
    raise KdjaxError(
      f'{root} has one class folder, {"".join(names)!r}: a classification needs two; with split folders the '
      'classes lie in train/, test/ …'
    )
  class_labels.say_alike(names)
  if untrained := [name for name in names if name not in labels_of_train]:
    say(f'warning: no training file has the class {", ".join(map(repr, untrained[:5]))}.')
  return names


def folder(
  *,
  path: str = '',
  classes: tuple[Name, ...] = (),
  rate: Whole = 0,
  seconds: NonNegative = 0.0,
) -> DataSet:
  """Images or sounds in class folders, with split folders above them ('train', 'val', 'test' …) or without.

  Without split folders a tenth of every class is for validation and a tenth for test, drawn by the content
  of the files, so that copies of a file are in one split. What is missing beside train is drawn from it;
  without a test split the validation split is the test. Hidden files and those of other kinds are left out;
  links may lead to files in the folder alone. Images of different sizes need data.image_size.

  Args:
    path: the folder.
    classes: their names in order; by default the class folders of train, sorted.
    rate: samples a second of sounds; 0 for the most frequent.
    seconds: of each sound; 0 for the longest.

  Raises:
    KdjaxError: if the folder is not what it should be.
  """
  if not path:
    raise KdjaxError('which folder? Set --config.data.path=FOLDER, with a folder for each class.')
  root = Path(path)
  key, files = class_folders.listed(root)
  named = draw.named(dict.fromkeys(f.split for f in files), str(root)) if files[0].split else {'train': ''}
  parts = {s: [i for i, f in enumerate(files) if f.split == name] for s, name in named.items()}
  paths = [f.path for f in files]
  parts = draw.completed(parts, marks(paths), [f.label for f in files])
  if not parts.get('test'):
    raise KdjaxError(
      f'{root} has {counted(len(files), "file")}, too few to draw a test split: add some, or a folder test/.'
    )
  names = names_of(files, parts['train'], classes, root)
  media = Media(root)
  if key == 'audio':
    train = [files[i] for i in parts['train']]
    media = media._replace(sounds=measured(len(train), lambda i: (train[i].path, 'class'), rate, seconds))
  elif rate or seconds:
    raise KdjaxError(f'data.options has a rate or seconds of sounds, and {root} has images: leave them out.')
  listing = ', '.join(f'{split} {len(rows):,}' for split, rows in parts.items())
  drawn = '' if parts.keys() == named.keys() else ' (drawn)'
  what = 'sounds' if media.sounds else 'images'
  say(f'{root.name}: {len(files):,} {what} of {counted(len(names), "class")}: {listing}{drawn}.')
  splits = {s: Files(key, [files[i] for i in rows], rows, names, media) for s, rows in parts.items()}
  where = [str(p.relative_to(root)) for p in paths]
  mark = fingerprint(where, {s: list(rows) for s, rows in parts.items()}, names, media.sounds)
  return DataSet(splits, names, mark, rate=media.sounds.rate if media.sounds else 0, files=tuple(paths))
