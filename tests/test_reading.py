"""What files and arrays of a user's own are read as: images, tables, texts, labels, ids; docs/data.md."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from tokenizers import pre_tokenizers

from kdjax.datasets.manifest import manifest
from kdjax.errors import KdjaxError
from kdjax.input import content, encode, images, splits, table_file, tokenizer
from kdjax.input.class_labels import read_labels
from kdjax.nn import layers
from kdjax.runtime import notices
from kdjax.types import DataSet

RAMP = np.tile(np.linspace(0, 255, 32), (24, 1))


def read(path, image, **how):
  image.save(path, **how)
  return images.read_image(path, 'here')


WIDE = {
  'bytes': RAMP.astype(np.uint8),
  'floats to 1': (RAMP / 255).astype(np.float32),
  'floats to 255': RAMP.astype(np.float32),
  '32-bit integers': RAMP.astype(np.int32),
  '16 bits': (RAMP * 257).astype(np.uint16),
  '16 bits, big-endian': (RAMP * 257).astype('>u2'),
}


@pytest.mark.parametrize('kind', WIDE)
def test_a_wide_tiff_has_its_grey(tmp_path, kind):
  result = read(tmp_path / 'a.tif', Image.fromarray(WIDE[kind]))
  np.testing.assert_allclose(result, np.repeat(RAMP[..., None], 3, -1), atol=1)


@pytest.mark.parametrize(
  'array', [(RAMP * 1e5).astype(np.int32), np.float32(RAMP - 100), np.float32(RAMP * 9)]
)
def test_a_range_that_is_no_image_is_refused(tmp_path, array):
  with pytest.raises(KdjaxError, match='here: .*a.tif has .* from .* to .*: floats are read from 0 to 1'):
    read(tmp_path / 'a.tif', Image.fromarray(array))


def test_a_16_bit_png_is_scaled(tmp_path):
  result = read(tmp_path / 'a.png', Image.fromarray(WIDE['16 bits']))
  np.testing.assert_allclose(result[..., 0], RAMP, atol=1)


@pytest.mark.parametrize('number', range(1, 9))
def test_photos_are_upright(tmp_path, number):
  from PIL import ImageOps

  exif, pixels = Image.Exif(), np.zeros((16, 32, 3), np.uint8)
  exif[0x0112], pixels[:8, :16] = number, (200, 30, 30)
  Image.fromarray(pixels).save(tmp_path / 'a.png', exif=exif)
  with Image.open(tmp_path / 'a.png') as image:
    upright = np.asarray(ImageOps.exif_transpose(image))
  np.testing.assert_array_equal(images.read_image(tmp_path / 'a.png', 'here'), upright)


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'L', 'RGB'])
def test_transparency_lies_over_white(tmp_path, mode, capsys):
  """Black strokes on a transparent ground are not one black picture."""
  image = Image.new('RGBA', (8, 8), (0, 0, 0, 0))
  image.paste((0, 0, 0, 255), (2, 2, 6, 6))
  how = {}
  if mode in ('RGBA', 'LA'):
    image = image.convert(mode)
  else:  # a colour that stands for nothing
    image = Image.fromarray(np.where(np.asarray(image)[..., 3] > 0, 0, 7).astype(np.uint8))
    image = image.convert(mode)
    how['transparency'] = (7, 7, 7) if mode == 'RGB' else 7
  notices.clear()
  result = read(tmp_path / 'a.png', image, **how)
  assert (result[0, 0] == 255).all() and (result[3, 3] == 0).all()
  notices.say_all('train')
  assert 'train: 1 example: an image with transparency, composited over white.' in capsys.readouterr().out


def test_alpha_that_hides_everything_says_nothing(tmp_path):
  result = read(tmp_path / 'a.png', Image.new('RGBA', (4, 4), (10, 20, 30, 0)))
  assert (result == (10, 20, 30)).all()


def test_other_kinds_of_files(tmp_path, capsys):
  red = Image.new('RGB', (8, 8), (250, 10, 10))
  cmyk = read(tmp_path / 'a.jpg', red.convert('CMYK'))
  assert cmyk[..., 0].mean() > 200 > 60 > cmyk[..., 1].mean()
  assert set(np.unique(read(tmp_path / 'b.png', Image.new('1', (4, 4), 1)))) == {255}
  assert (read(tmp_path / 'c.png', red.quantize(4))[0, 0] == (250, 10, 10)).all()
  profile = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()
  assert (read(tmp_path / 'd.png', Image.new('L', (4, 4), 99), icc_profile=profile) == 99).all()
  notices.clear()
  blue = Image.new('RGB', (8, 8), (0, 0, 255))
  assert (read(tmp_path / 'e.gif', red, save_all=True, append_images=[blue])[0, 0] == (250, 10, 10)).all()
  notices.say_all('train')
  assert 'of which the first is read' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['a b.png', 'ä%20ß.png', 'cafe\u0301.png', 'link.png'])
def test_names_of_files(tmp_path, name):
  file = tmp_path / ('real.png' if name == 'link.png' else name)
  Image.new('L', (4, 4), 9).save(file)
  if name == 'link.png':
    (tmp_path / name).symlink_to(file)
  (tmp_path / 'r.jsonl').write_text(
    ''.join(
      json.dumps({'image': n, 'label': x, 'split': 'train'}) + '\n'
      for n, x in ((name, 'a'), (str(tmp_path / name), 'b'), (name.replace('e\u0301', 'é'), 'a'))
    )
  )
  train = manifest(path=str(tmp_path / 'r.jsonl')).splits['train']
  assert all((train[i]['image'] == 9).all() for i in range(3))


@pytest.mark.parametrize(
  ('made', 'words'),
  [
    (lambda p: p.write_bytes(b'no image'), 'not a readable image'),
    (lambda p: p.mkdir(), 'a folder'),
    (lambda p: None, 'there is no image'),
    (lambda p: Image.new('RGB', (64, 64)).save(p) or p.write_bytes(p.read_bytes()[:60]), 'not a readable'),
  ],
)
def test_an_image_that_cannot_be_read_is_named(tmp_path, made, words):
  made(tmp_path / 'a.png')
  with pytest.raises(KdjaxError, match=f'line 3: .*{words}') as caught:
    images.read_image(tmp_path / 'a.png', 'rows.csv, line 3')
  assert 'a.png' in str(caught.value) and '\n' not in str(caught.value)


def test_a_large_image_is_reduced(tmp_path, monkeypatch):
  monkeypatch.setattr(images, 'LARGE', 1000)
  monkeypatch.setattr(images, 'MOST', 20_000)
  for name in ('a.png', 'a.jpg'):
    result = read(tmp_path / name, Image.new('RGB', (200, 90), (9, 90, 200)))
    assert result.shape[0] * result.shape[1] <= 1000 and abs(result.mean((0, 1)) - (9, 90, 200)).max() < 3
  with pytest.raises(KdjaxError, match='a.png has 200×200 pixels, more than 20,000'):
    read(tmp_path / 'a.png', Image.new('L', (200, 200)))


@pytest.mark.slow
def test_a_scan_of_14000_pixels(tmp_path):
  assert read(tmp_path / 'a.png', Image.new('1', (14_000, 14_000), 1)).shape == (3500, 3500, 3)


ARRAYS = {
  'uint8': RAMP.round().astype(np.uint8),
  'uint16': (RAMP * 257).astype(np.uint16),
  'int64': RAMP.round().astype(np.int64),
  'float 0-1': RAMP / 255,
  'float32 0-255': RAMP.astype(np.float32),
  'float -1-1': RAMP / 127.5 - 1,
}


def test_features_are_no_pixels():
  result = encode.make_encode(ranges={})([{'image': np.float32([300, -5]), 'video': np.zeros((9, 6), 'f4')}])
  assert result['image'].tolist() == [[300, -5]] and result['video'].shape == (1, 9, 6)
  assert encode.make_encode()([{'image': np.zeros((4, 5))}])['image'].shape == (1, 4, 5)


@pytest.mark.parametrize('kind', ARRAYS)
def test_arrays_of_any_type_reach_the_network_alike(kind):
  examples = [{'image': np.repeat(ARRAYS[kind][..., None], 3, -1), 'id': i} for i in range(2)]
  examples[1]['image'] = examples[1]['image'][::-1] * 1
  result, ranges = encode.with_ranges(DataSet({'train': examples}, (), 'mark'))
  assert (result.fingerprint == 'mark') == (kind in ('uint8', 'float -1-1'))
  for inputs in (ranges, None):
    seen = layers.scale_image(encode.make_encode(image_size=8, ranges=inputs)(examples)['image'])
    like = layers.scale_image(
      encode.make_encode(image_size=8)([{'image': ARRAYS['uint8'][..., None]}])['image']
    )
    np.testing.assert_allclose(seen[0, ..., 0], like[0, ..., 0], atol=0.01)


@pytest.mark.parametrize(
  ('image', 'words'),
  [
    (np.zeros((3, 16, 16), np.uint8), 'the channels come last'),
    (np.full((4, 4, 3), -5), 'from -5 to -5'),
    (np.full((4, 4, 3), 2**20), 'from 0 to 65535'),
    (np.zeros(4, np.uint8), r'an image is numbers \[height, width, channels\]'),
  ],
)
def test_an_array_that_is_no_image(image, words):
  with pytest.raises(KdjaxError, match=words):
    encode.make_encode(image_size=8)([{'image': image, 'id': 3}])


def test_a_value_beyond_the_range_of_the_others_is_named():
  reader = encode.make_encode(ranges={'image': '0 to 1'})
  with pytest.raises(KdjaxError, match='example 7: .*from 0 to 255'):
    reader([{'image': np.float32([[[0, 255]]]), 'id': 7}])


def table(tmp_path, text, name='r.csv', encoding='utf-8'):
  (tmp_path / name).write_bytes(text.encode(encoding))
  return table_file.rows(tmp_path / name)


ROWS = [{'text': 'a day', 'label': 'x'}, {'text': 'ein Tag, sonnig', 'label': 'y'}]


@pytest.mark.parametrize(
  ('text', 'encoding', 'name'),
  [
    ('text,label\na day,x\n"ein Tag, sonnig",y\n', 'utf-8-sig', 'r.csv'),
    ('text,label\r\na day,x\r\n"ein Tag, sonnig",y\r\n', 'utf-8', 'R.CSV'),
    ('text;label\na day;x\nein Tag, sonnig;y\n', 'utf-8', 'r.csv'),
    ('text\tlabel\na day\tx\nein Tag, sonnig\ty\n', 'utf-8', 'r.csv'),
    ('text\tlabel\na day\tx\nein Tag, sonnig\ty\n', 'utf-8', 'r.tsv'),
    ('\ntext,label,\n\na day,x,\n,,\n"ein Tag, sonnig",y,,\n', 'utf-8', 'r.csv'),
    ('text, label\na day, x\n"ein Tag, sonnig", y\n', 'utf-8', 'r.csv'),
    (',text,label\n0,a day,x\n1,"ein Tag, sonnig",y\n', 'utf-8', 'r.csv'),
    ('\n'.join(map(json.dumps, ROWS)), 'utf-8-sig', 'r.jsonl'),
    ('\r\n\r\n'.join(map(json.dumps, ROWS)), 'utf-8', 'r.jsonl'),
  ],
)
def test_ways_to_write_a_table(tmp_path, text, encoding, name):
  result = table(tmp_path, text, name, encoding)
  assert [{k: v for k, v in row.items() if k != '#'} for row in result] == ROWS


@pytest.mark.parametrize(
  ('text', 'encoding', 'words'),
  [
    ('text,label\nI liked it, really,pos\n', 'utf-8', 'line 2: 3 cells, and the header has 2: put'),
    ('text,label\na,x\nshort\n', 'utf-8', 'line 3: 1 cells, and the header has 2'),
    ('text,text\na,b\n', 'utf-8', "the column 'text' twice"),
    ('text,label\n"a" b,x\n', 'utf-8', 'line 2: not well quoted'),
    ('text,label\n"a,x\nb,y\n', 'utf-8', 'not well quoted'),
    ('text,label\nGrüße,x\n', 'latin-1', 'line 2: the byte 0xfc is not UTF-8'),
    ('text,label\na,x\n', 'utf-16', 'UTF-16'),
    ('text,label\na,x\n', 'utf-16-le', 'UTF-16'),
  ],
)
def test_a_table_that_cannot_be_read(tmp_path, text, encoding, words):
  with pytest.raises(KdjaxError, match=words):
    table(tmp_path, text, encoding=encoding)


@pytest.mark.parametrize(
  'line', ['[["text", "a"]]', '"text"', '{"text": 1, "text": 2}', '{"text": ', '[' * 100_000]
)
def test_a_line_that_is_no_object(tmp_path, line):
  with pytest.raises(KdjaxError, match='line 1: not a JSON object'):
    table(tmp_path, line, 'r.jsonl')


def test_a_long_cell(tmp_path):
  assert len(table(tmp_path, f'text,label\n{"word " * 60_000},x\n')[0]['text']) == 300_000


def test_chat_messages():
  def say(*messages):
    return [dict(zip(('role', 'content'), m, strict=True)) for m in messages]

  assert table_file.read_text(say(('user', 'say 3')), 'here', 'text') == 'say 3'
  both = say(('system', 'be short'), ('user', 'say 3'))
  assert table_file.read_text(both, 'here', 'text') == 'system: be short\nuser: say 3'
  assert table_file.read_response(say(('assistant', '3')), 'here', 'response') == '3'
  for bad in (both, say(('user', 'x')), ['x'], []):
    with pytest.raises(KdjaxError, match="here: the column 'response'"):
      table_file.read_response(bad, 'here', 'response')
  for bad in (['x'], {'a': 1}, True, None, '', float('nan'), '  ', say(('user', ['x'])), '\ud800'):
    with pytest.raises(KdjaxError, match="here: the column 'text'"):
      table_file.read_text(bad, 'here', 'text')
  assert table_file.read_text(5, 'here', 'text') == '5'


def labels(*train, test=(), classes=(), drawn=False):
  rows = {'train': [(v, f'line {i}') for i, v in enumerate(train)], 'test': [(v, 'line 9') for v in test]}
  result = read_labels(rows, drawn, classes)
  return result.classes, [result.place(v, 'here') for v in (*train, *test)]


@pytest.mark.parametrize(
  'missing',
  ['', None, ' ', float('nan'), 'nan', 'NaN', 'NA', 'n/a', 'N/A', 'null', 'None', -1, '-1', '?', '<NA>'],
)
@pytest.mark.parametrize('known', [('p', 'q'), ('0', '1'), (1, 2)])
def test_a_label_that_is_not_known(missing, known):
  assert labels(*known, missing)[1] == [0, 1, -1]


def test_a_class_that_reads_like_a_missing_label(capsys):
  assert labels('NA', 'x', classes=('NA', 'x')) == (('NA', 'x'), [0, 1])
  assert labels('none', 'x')[0] == ('none', 'x')
  assert not capsys.readouterr().out
  assert labels('NA', 'x', 'y')[0] == ('x', 'y')
  assert "labels read as not known: 'NA' (1)" in capsys.readouterr().out


@pytest.mark.parametrize(
  ('train', 'test', 'classes'),
  [
    ((-1, 1), (-1, 1), ('-1', '1')),
    ((-2, -1, 0, 1), (), ('-2', '-1', '0', '1')),
    ((0, 1, -1), (0, 1), ('0', '1')),
    ((0, 1), (-1, -1), ('0', '1')),
    ((0, 1, 2, -1), (2, -1), ('0', '1', '2')),
    (('yes', '-1'), ('yes',), ('yes',)),
  ],
)
def test_minus_one(train, test, classes):
  assert labels(*train, test=test)[0] == classes


def test_a_minus_one_that_may_be_either():
  with pytest.raises(
    KdjaxError, match=r"the labels are -1, 0 and 1: set data.options.classes to \('-1', '0'"
  ):
    labels(-1, 0, 1, test=(-1, 0, 1))
  assert labels(-1, 0, 1, test=(-1,), classes=('-1', '0', '1'))[1] == [0, 1, 2, 0]
  assert labels(-1, 0, 1, test=(-1,), classes=(0, 1))[1] == [-1, 0, 1, -1]


def test_one_class_in_several_spellings(capsys):
  assert labels('3', 3, 3.0, '3.0', '03', 4, '3.5') == (('3', '3.5', '4'), [0, 0, 0, 0, 0, 2, 1])
  assert "labels read as one class: '03' = '3' = '3.0'" in capsys.readouterr().out
  assert labels(True, 'true', False) == (('False', 'True'), [1, 1, 0])
  assert labels('007', '008')[0] == ('007', '008')
  big = ('12345678901234567890', '12345678901234567891')
  assert labels(*big)[0] == big
  with pytest.raises(KdjaxError, match='true or false in some rows and 1 or 0'):
    labels(True, False, 1, 0)
  for odd in ('²', '--5', 'nan5'):
    assert labels(odd, 'x')[1] == [list(sorted((odd, 'x'))).index(odd), list(sorted((odd, 'x'))).index('x')]


def test_classes_that_are_nearly_alike(capsys):
  assert labels('cat', 'Cat', 'cat ')[0] == ('Cat', 'cat', 'cat ')
  assert (
    "differ by case or spaces alone, and are kept apart: 'Cat' and 'cat' and 'cat '"
    in capsys.readouterr().out
  )


def test_labels_of_a_test_that_training_lacks(capsys):
  with pytest.raises(KdjaxError, match="unknown label: 'z'.*data.options.classes"):
    labels('x', 'y', test=('z',))
  assert labels('x', 'y', test=('z',), drawn=True)[0] == ('x', 'y', 'z')
  assert "no training row has the class 'z'" in capsys.readouterr().out
  assert labels('x', test=('z',), classes=('x', 'z'))[1] == [0, 1]
  for several in (['cat'], {'a': 1}):
    with pytest.raises(KdjaxError, match='line 0: the label is'):
      labels(several)


def test_splits_in_other_spellings(tmp_path):
  names = ('Train', ' train ', 'TRAINING', 'val', 'dev', 'Valid', 'testing', 'Test')
  text = ''.join(f'a{i},x,{s}\n' for i, s in enumerate(names))
  table(tmp_path, 'text,label,split\n' + text)
  splits = manifest(path=str(tmp_path / 'r.csv')).splits
  assert {k: len(v) for k, v in splits.items()} == {'train': 3, 'validation': 3, 'test': 2}
  assert table_file.canonical({'Train': 1, 'dev': 2, 'odd': 3}).keys() == {
    'Train', 'dev', 'odd', 'train', 'validation'
  }  # fmt: skip


@pytest.mark.parametrize('ids', [None, 'names', 'huge', 'negative', 'numbers'])
def test_ids_of_any_kind(ids):
  kinds = {'names': 'photo_{}.png'.format, 'huge': lambda i: 2**40 + i, 'negative': lambda i: -1 - i}
  examples = [{'x': np.zeros(2)} | ({'id': kinds.get(ids, int)(i)} if ids else {}) for i in range(3)]
  dataset = encode.with_ids(DataSet({'train': examples}, (), ''))
  for memory in (0, 1e9):
    source = splits.read(dataset, 'train', encode.make_encode(), memory)
    batch = source.take(np.arange(3))
    assert batch['id'].tolist() == [0, 1, 2] and batch['id'].dtype == np.int32


@pytest.mark.parametrize(
  ('label', 'words'),
  [
    (np.array([1]), r"example 0: 'label' is int64 \[1\]"),
    (np.eye(2)[0], r'float64 \[2\]'),
    (1.0, 'float64'),
    (2, 'example 0 has the label 2, and the data set has 2 classes'),
  ],
)
def test_labels_are_one_whole_number(label, words):
  with pytest.raises(KdjaxError, match=words):
    encode.make_encode(classes=2)([{'label': label, 'id': i} for i in range(2)])


def test_examples_with_other_keys_or_no_numbers():
  with pytest.raises(KdjaxError, match='example 1 has x, id, and others have x, y, id'):
    encode.make_encode()([{'x': 1, 'y': 1, 'id': 0}, {'x': 1, 'id': 1}])
  with pytest.raises(KdjaxError, match="example 0: 'x' is dict"):
    encode.make_encode()([{'x': {}, 'id': 0}])
  with pytest.raises(KdjaxError, match='whole numbers are read up to 2,147,483,647'):
    encode.make_encode()([{'id': 2**40}])


def test_scripts_without_spaces_are_split_into_characters():
  texts = ['今天天气很好', '東京は天気がいい', 'สวัสดี', 'cafe\u0301 안녕 하세요']
  result = tokenizer.train(texts, 100)
  assert result.encode('今天很好 café').tokens == ['今', '天', '很', '好', 'café']
  assert result.encode('天気がいい').tokens == ['天', '気', 'が', 'い', 'い']
  assert result.encode('안녕').tokens == ['안녕']
  assert tokenizer.unknown(result) not in result.encode('ดีสวัส').ids
  assert tokenizer.spell(result.encode('今天很好 café').ids, tokenizer.vocabulary(result)) == '今天很好 café'


def test_english_is_split_as_before():
  texts = ["Is it red? It isn't: 3,000 x-rays (naïve)!", 'what colour is the shape'] * 2
  result = tokenizer.train(texts, 100)
  before = tokenizer.train(texts, 100)
  before.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  assert [result.encode(t).ids for t in texts] == [before.encode(t).ids for t in texts]


def test_unknown_words_are_counted(capsys):
  words = tokenizer.cut(tokenizer.train(['is it red'], 20), 6)
  dataset = DataSet({'train': [{'text': 'is it blue or green', 'id': 0}]}, (), '')
  splits.read(dataset, 'train', encode.make_encode(words))
  assert "train: 3 of the 5 words of 'text' are unknown" in capsys.readouterr().out


def test_content_follows_bytes_and_not_names(tmp_path, monkeypatch):
  files = [tmp_path / f'{i}.png' for i in range(3)]
  for i, file in enumerate(files[:2]):
    file.write_bytes(bytes([i]) * 300)
  for whole, piece in ((5e8, 2**14), (0, 50)):
    monkeypatch.setattr(content, 'WHOLE', whole)
    monkeypatch.setattr(content, 'PIECE', piece)
    first = content.content(files)
    moved = [f.rename(f.with_suffix('.jpg')) if f.exists() else f for f in files]
    assert content.content(moved) == first and content.content([]) == ''
    assert content.content([moved[1], moved[0], moved[2]]) != first
    for f in moved[:2]:
      f.rename(f.with_suffix('.png'))


def test_the_field_limit_holds_everywhere():
  assert csv.field_size_limit() >= 2**31 - 1 and Path(table_file.__file__).exists()
