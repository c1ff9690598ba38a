"""The page that answers in the browser: its answers and its inputs are those of Python, to the digit."""

import functools
import html
import http.server
import json
import re
import shutil
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image
from scipy.io import wavfile
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kdjax.errors import KdjaxError
from kdjax.experiment import predict
from kdjax.export import answers, run, web, web_runtime, web_tokenizer
from kdjax.input import audio_files, images
from kdjax.input import tokenizer as tokenizers

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason='needs chromium')
NODE = pytest.mark.skipif(shutil.which('node') is None, reason='needs node')
ASSETS = web.ASSETS
TEXTS = [
  'what colour is it?',
  'Is IT  red?!',
  '',
  'ΟΔΥΣΣΕΥΣ ﬁn Ⅷ',
  '日本語 テスト กำ',
  "don't (really)\tstop—now",
  'a [UNK] b[PAD]c',
  'İstanbul naïve café résumé',
  'unaffable unaffordable',
  'x' * 120,
  'zero\u200bwidth\u00a0space\u0000nul \u00ad',
  'one two three four five six seven eight nine ten eleven twelve',
]


class Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *_):
    pass


@pytest.fixture
def serve():
  servers = []

  def start(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    servers.append(server := http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'http://127.0.0.1:{server.server_address[1]}'

  yield start
  for server in servers:
    server.shutdown()
    server.server_close()


def selftest(url, tmp_path):
  """What the page writes about its examples."""
  command = [CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage']
  command += [f'--user-data-dir={tmp_path / "chromium"}', '--dump-dom']
  ended = subprocess.run([*command, f'{url}/?selftest=1'], capture_output=True, text=True, timeout=120)
  found = re.search(r'<pre id="selftest"[^>]*>(.*?)</pre>', ended.stdout, re.DOTALL)
  assert found and found[1], ended.stderr[-2000:]
  return json.loads(html.unescape(found[1]))


@pytest.fixture
def page(trained, tmp_path):
  """(a copy of the workdir, the folder of its page)."""
  pytest.importorskip('onnx')
  pytest.importorskip('onnxruntime')
  workdir = tmp_path / 'w'
  shutil.copytree(trained.workdir, workdir)
  try:
    web_runtime.copy(tmp_path / 'ort')
  except KdjaxError as e:
    pytest.skip(str(e))
  run.export(workdir, ['web'], trained)
  return workdir, workdir / 'exports' / 'web'


@BROWSER
@pytest.mark.whole
def test_the_page_answers_as_python_does(page, serve, tmp_path):
  workdir, folder = page
  loaded, about = answers.load(folder), json.loads((folder / 'page.json').read_text())
  question = {'text': ['is it red?']}
  assert loaded.predict(question)[0][0][0] == predict.load(workdir).predict(question)[0][0][0]
  assert about['examples'] and [m['name'] for m in about['models']] == ['student', 'teacher']
  rng = np.random.default_rng(0)
  for i, shape in enumerate([(37, 51, 3), (9, 300, 3), (16, 5, 3), (64, 64)]):  # to be resized
    Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f'{i}.png')
    about['examples'].append({'image': f'{i}.png', 'text': TEXTS[i]})
  about['examples'] += [{'image': '0.png'}, *({'text': text} for text in TEXTS)]
  (folder / 'page.json').write_text(json.dumps(about))
  shown = selftest(serve(folder), tmp_path)
  assert len(shown) == len(about['examples'])
  for stage in ('student', 'teacher'):
    predictor = predict.load(workdir, stage)
    for example, result in zip(about['examples'], shown, strict=True):
      text = example.get('text') or None
      image = images.read_image(folder / example['image'], '') if 'image' in example else None
      if image is None and text is None:
        continue
      expected = predictor.predict({'image': [image], 'text': [text]})[0]
      got = result[stage]['answers']
      p, q = (dict(map(tuple, x)) for x in (got, expected))
      assert got[0][0] == expected[0][0] or abs(expected[0][1] - q[got[0][0]]) < 1e-6
      np.testing.assert_allclose([p[k] for k in q], list(q.values()), atol=1e-4)
      assert result[stage]['inputs'] == checksums(folder, stage, image, text)


def checksums(folder, stage, image, text):
  """Input -> its CRC-32, as Python makes it."""
  from kdjax.export import alone

  model = alone.Model(folder)
  if stage == 'teacher':
    model.about = json.loads((folder / 'teacher.json').read_text())
    model.inputs, model.interface = model.about['inputs'], model.about['interface']
  made = model.arrays(image, text)
  types = {k: np.int32 if dtype == 'bool' else dtype for k, (_, dtype) in model.inputs.items()}
  return {alone.plain(k): zlib.crc32(np.ascontiguousarray(v, types[k]).tobytes()) for k, v in made.items()}


@pytest.mark.whole
def test_no_request_leaves_the_folder(page):
  _, folder = page
  for path in [*folder.glob('*.html'), *folder.glob('*.js')]:
    assert not re.search(r'https?://|//cdn', path.read_text()), path
  assert {p.name for p in (folder / 'ort').iterdir()} == set(web_runtime.NAMES.values())


def in_node(module, expression, given):
  """The JSON of an expression about `x`, in Node, with what a module of the page exports as `m`."""
  path = json.dumps((ASSETS / module).as_uri())
  code = f"""const chunks = []; for await (const c of process.stdin) chunks.push(c);
  const x = JSON.parse(Buffer.concat(chunks)); const m = await import({path});
  console.log(JSON.stringify({expression}));"""
  command = ['node', '--no-warnings', '--experimental-default-type=module', '--input-type=module', '-e', code]
  ended = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60)
  assert not ended.returncode, ended.stderr
  return json.loads(ended.stdout)


PIECES = "[PAD] [UNK] [CLS] [SEP] un ##aff ##able ##s what colour is it ? don ' t cafe naive ( 日 本 x"


def wordpiece():
  words = PIECES.split()
  made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token='[UNK]'))
  made.normalizer = normalizers.BertNormalizer()
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.post_processor = processors.TemplateProcessing(
    single='[CLS] $A [SEP]', special_tokens=[('[CLS]', 2), ('[SEP]', 3)]
  )
  made.add_special_tokens(words[:4])
  return made


def words():
  return tokenizers.train(TEXTS[:7], 40)


def plain():
  made = Tokenizer(
    models.WordLevel({'[UNK]': 0, 'is': 1, 'it': 2, '?!': 3, "'": 4, 'don': 5}, unk_token='[UNK]')
  )
  made.pre_tokenizer = pre_tokenizers.Whitespace()
  return made


@NODE
@pytest.mark.parametrize('make', [words, wordpiece, plain])
def test_texts_have_the_same_ids(make):
  made = tokenizers.cut(make(), 8)
  web_tokenizer.check(made)
  given = {'about': json.loads(made.to_str()), 'texts': TEXTS}
  got = in_node('text.js', 'x.texts.map(m.tokenizer(x.about))', given)
  ids, mask, _ = tokenizers.encode(made, TEXTS)
  for text, one, row, valid in zip(TEXTS, got, ids, mask, strict=True):
    assert (one['ids'], one['mask']) == (row.tolist(), valid.astype(int).tolist()), text


@NODE
@pytest.mark.parametrize(
  'shape', [(37, 51), (9, 300), (300, 9), (16, 5), (1, 1), (28, 28), (20, 41), (200, 30)]
)
@pytest.mark.parametrize('channels', [1, 3])
def test_images_have_the_same_pixels(shape, channels):
  image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
  image[:2] = 255 * (image[:2] > 127)  # where bicubic overshoots
  rgba = np.concatenate([image, np.full((*shape, 1), 255, np.uint8)], -1)
  given = {'data': rgba.ravel().tolist(), 'width': shape[1], 'height': shape[0]}
  got = in_node(
    'image.js', f'[...m.fit(x, [28, 20, {channels}], {PIL.__version__.partition(".")[0]})]', given
  )
  assert got == predict._fit_image(image, (28, 20, channels)).ravel().tolist()


@NODE
@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'int32', 'float32'])
@pytest.mark.parametrize('channels, rate', [(1, 8000), (2, 8000), (1, 11025), (2, 16000), (1, 4000)])
def test_sounds_have_the_same_samples(dtype, channels, rate, tmp_path):
  sound = np.random.default_rng(0).uniform(-0.9, 0.9, (500, channels))
  low = np.iinfo(dtype) if dtype != 'float32' else None
  stored = sound if low is None else (sound + (dtype == 'uint8')) * 2.0 ** (low.bits - 1)
  wavfile.write(path := tmp_path / 'a.wav', rate, stored.astype(dtype))
  expression = 'Array.from(m.fit(m.parse(Uint8Array.from(x).buffer), 8000, 700))'
  got = in_node('sound.js', expression, list(path.read_bytes()))
  expected = audio_files.fit(audio_files.read_sound(path, 8000, ''), 700)
  np.testing.assert_allclose(got, expected, rtol=0, atol=0 if rate == 8000 else 1e-6)


def test_other_tokenizers_are_one_line():
  made = Tokenizer(models.BPE())
  with pytest.raises(KdjaxError, match="the tokenizer's model is BPE; a page runs WordLevel, WordPiece"):
    web_tokenizer.check(made)
  with pytest.raises(KdjaxError, match='no pre_tokenizer'):
    web_tokenizer.check(Tokenizer(models.WordLevel({'a': 0}, unk_token='a')))


def test_no_npm_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setattr(web_runtime, 'CACHE', str(tmp_path / 'cache'))
  monkeypatch.setenv('PATH', str(tmp_path))
  monkeypatch.delenv(web_runtime.OWN, raising=False)
  with pytest.raises(KdjaxError, match='comes by npm, which is not installed'):
    web_runtime.copy(tmp_path / 'ort')
  npm = tmp_path / 'npm'
  Path(npm).write_text('#!/bin/sh\necho "npm error network" >&2\nexit 1\n')
  npm.chmod(0o755)
  with pytest.raises(KdjaxError, match=r'cannot fetch onnxruntime-web \(npm error network\)'):
    web_runtime.copy(tmp_path / 'ort')
  monkeypatch.setenv(web_runtime.OWN, str(tmp_path))
  with pytest.raises(KdjaxError, match='has no dist/ort.wasm.bundle.min.mjs'):
    web_runtime.copy(tmp_path / 'ort')
  assert not (tmp_path / 'ort').exists() and not list((tmp_path / 'cache').iterdir())
