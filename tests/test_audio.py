"""Sound: the spectrogram against plain NumPy and SciPy, files of every kind, the network, the digits."""

import io
import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
import tensorflow_datasets as tfds
from PIL import Image
from scipy.io import wavfile

from kdjax.datasets import av_digits as digits
from kdjax.errors import KdjaxError
from kdjax.experiment import build, load
from kdjax.input import audio_files, tfds_source
from kdjax.models.audio.mel_cnn import MelCnn
from kdjax.nn import log_mel
from kdjax.nn.log_mel import PRESETS, Mel


def made_sound(rows=2, samples=4000, seed=0):
  rng, t = np.random.default_rng(seed), np.arange(samples) / 16_000
  tones = np.sin(2 * np.pi * np.array([[300 + 900 * i] for i in range(rows)]) * t)
  return (0.3 * tones * np.exp(-8 * t) + 0.01 * rng.normal(size=(rows, samples))).astype(np.float32)


def whisper(x):
  """The published recipe for one sound [N], with loops: frames, DFT, triangles, log10, clamp, scale."""
  padded = np.pad(x.astype(np.float64), 200, 'reflect')
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
  columns = [padded[160 * t : 160 * t + 400] * window for t in range(len(x) // 160)]
  k = np.arange(201)[:, None] * np.arange(400) / 400
  power = np.abs(np.array([np.exp(-2j * np.pi * k) @ c for c in columns])) ** 2

  def hz(mel):  # 3 mels are 200 Hz up to 1 kHz; 27 more are a factor of 6.4
    return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

  top = 15 + 27 * np.log(8) / np.log(6.4)
  corners = [hz(m) for m in np.linspace(0, top, 82)]
  bank = np.zeros((201, 80))
  for m in range(80):
    a, b, c = corners[m : m + 3]
    for i in range(201):
      f = 40 * i
      inside = (f - a) / (b - a) if a <= f <= b else (c - f) / (c - b) if b < f <= c else 0
      bank[i, m] = inside * 2 / (c - a)
  log = np.log10(np.maximum(power @ bank, 1e-10))
  return (np.maximum(log, log.max() - 8) + 4) / 4


def test_whisper_recipe():
  x = made_sound()
  result = jax.jit(lambda x: log_mel.log_mel(x, PRESETS['whisper']))(x)
  assert result.shape == (2, 25, 80) and result.dtype == jnp.float32
  np.testing.assert_allclose(result, np.stack([whisper(row) for row in x]), atol=2e-4)
  with jax.enable_x64(True):
    exact = log_mel.log_mel(jnp.asarray(x, jnp.float64), PRESETS['whisper'])
    np.testing.assert_allclose(exact, np.stack([whisper(row) for row in x]), atol=1e-10)


def kaldi(x):
  """Kaldi's recipe and the AST's normalisation for one sound [N], frame by frame."""
  mel = 1127 * np.log(1 + np.array([20, 8000]) / 700)
  corners, rows = np.linspace(*mel, 130), []
  places = 1127 * np.log(1 + np.arange(257) * 31.25 / 700)
  bank = [np.interp(places, corners[m : m + 3], [0, 1, 0]) for m in range(128)]
  for start in range(0, len(x) - 399, 160):
    f = x[start : start + 400].astype(np.float64)
    f -= f.mean()
    f = np.concatenate([[0.03 * f[0]], f[1:] - 0.97 * f[:-1]])
    f *= 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    power = np.abs(np.fft.fft(np.pad(f, (0, 112)))[:257]) ** 2
    rows.append(np.log(np.maximum(np.array(bank) @ power, np.finfo(np.float32).eps)))
  return (np.pad(rows, ((0, 1024 - len(rows)), (0, 0))) + 4.2677393) / (2 * 4.5689974)


def test_kaldi_recipe():
  x = made_sound()
  result = log_mel.read_mel({'audio': x, 'audio/mask': jnp.ones(x.shape).at[1, 1000:].set(0)}, PRESETS['ast'])
  np.testing.assert_allclose(result[0], np.stack([kaldi(row) for row in x]), atol=1e-4)
  assert result[1].shape == (2, 1024) and result[1].sum(1).tolist() == [23, 5]
  short = PRESETS['ast']._replace(length=10)
  np.testing.assert_allclose(log_mel.fbank(x, short), result[0][:, :10], atol=1e-5)


@pytest.mark.parametrize(('n_fft', 'hop', 'samples'), [(256, 128, 1300), (256, 80, 1300), (200, 256, 1300)])
def test_power_is_that_of_scipy(n_fft, hop, samples):
  """Every hop and length: SciPy's transform, whose frames are its own, and filters by interpolation."""
  x = made_sound(1, samples)
  how = Mel(8000, n_fft, hop, 12, low=50, high=3500, scale='htk', area=False, floor=1e-8, span=0)
  window = scipy.signal.get_window('hann', n_fft)
  transform = scipy.signal.ShortTimeFFT(window, hop, 8000, fft_mode='onesided')
  power = np.abs(transform.stft(x[0], 0, samples // hop, padding='even')) ** 2  # 'even' mirrors
  corners = 700 * (10 ** (np.linspace(*log_mel.to_mel([50, 3500], 'htk'), 14) / 2595) - 1)
  bank = [np.interp(transform.f, corners[m : m + 3], [0, 1, 0]) for m in range(12)]
  expected = np.log10(np.maximum(np.array(bank) @ power, 1e-8)).T
  np.testing.assert_allclose(log_mel.log_mel(x, how)[0], expected, atol=1e-3)


def test_mel_scales():
  hz = np.linspace(0, 8000, 50)
  for scale in ('slaney', 'htk'):
    np.testing.assert_allclose(log_mel.to_hz(log_mel.to_mel(hz, scale), scale), hz, atol=1e-9)
  assert log_mel.to_mel(1000, 'slaney') == 15 and log_mel.to_mel(1000, 'htk') == pytest.approx(1000, abs=0.02)


def test_loudness_is_lost_and_silence_is_finite():
  x, how = made_sound(1), PRESETS['digits']
  a, b = log_mel.log_mel(x, how), log_mel.log_mel(50 * x, how)
  np.testing.assert_allclose(a, b, atol=1e-4)
  assert a.max() == pytest.approx(1) and a.min() >= -1 - 1e-6
  for settings in PRESETS.values():
    total = jax.jit(jax.value_and_grad(lambda x, s=settings: log_mel.read_mel({'audio': x}, s)[0].sum()))
    assert all(np.isfinite(x).all() for x in total(jnp.zeros((1, 1000))))


def test_bfloat16_is_raised():
  x = jnp.asarray(made_sound(1), jnp.bfloat16)
  assert log_mel.log_mel(x, PRESETS['digits']).dtype == jnp.float32
  assert log_mel.read_mel({'audio': x}, PRESETS['digits'])[0].dtype == jnp.bfloat16


def test_masks_of_frames():
  mask = np.arange(1000)[None] < np.array([[1000], [500], [129]])
  assert log_mel.frame_mask(mask, PRESETS['digits']).sum(1).tolist() == [7, 4, 2]


@pytest.mark.parametrize(
  ('call', 'says'),
  [
    (lambda: log_mel.settings('wisper'), "did you mean 'whisper'"),
    (lambda: log_mel.settings({'preset': 'digits', 'hops': 3}), "did you mean 'hop'"),
    (lambda: log_mel.filters(Mel(mels=300)), '300 mels are too many for n_fft=400'),
    (lambda: log_mel.filters(Mel(high=9000.0)), 'from 0 to 9000 Hz'),
    (lambda: log_mel.filters(Mel(scale='bark')), 'mel scale'),
    (lambda: log_mel.log_mel(jnp.zeros((2, 200)), Mel()), 'with 201 samples or more'),
    (lambda: log_mel.log_mel(jnp.zeros(2000), Mel()), 'is not [B, N]'),
    (lambda: log_mel.read_mel({'image': 0}, Mel()), "the model wants the input 'audio'"),
  ],
)
def test_settings_that_cannot_be(call, says):
  with pytest.raises(KdjaxError) as e:
    call()
  assert says in str(e.value) and '\n' not in str(e.value)


def pcm24(path, samples, rate):
  """A WAV file of 24 bits, which SciPy does not write."""
  data = b''.join(int(s).to_bytes(3, 'little', signed=True) for s in samples)
  form = struct.pack('<4sIHHIIHH', b'fmt ', 16, 1, 1, rate, 3 * rate, 3, 24)
  body = b'WAVE' + form + struct.pack('<4sI', b'data', len(data)) + data
  path.write_bytes(struct.pack('<4sI', b'RIFF', len(body)) + body)


@pytest.mark.parametrize('kind', ['u1', 'i2', 'i3', 'i4', 'f4', 'f8'])
def test_files_of_every_kind(tmp_path, kind):
  x, path = made_sound(1)[0].astype(np.float64), tmp_path / 'a.wav'
  if kind == 'i3':
    pcm24(path, np.rint(x * 2**23), 8000)
  else:
    scaled = {'u1': 128 * x + 128, 'i2': 2**15 * x, 'i4': 2**31 * x}.get(kind, x)
    wavfile.write(path, 8000, (scaled if kind[0] == 'f' else np.rint(scaled)).astype(kind))
  result = audio_files.read_sound(path, 8000, 'here')
  assert result.dtype == np.float32 and result.shape == x.shape
  np.testing.assert_allclose(result, x, atol=0.51 / {'u1': 2**7, 'i2': 2**15}.get(kind, 2**22))


def test_channels_are_averaged_and_the_rate_is_changed_and_said_once(tmp_path, monkeypatch):
  messages = []
  monkeypatch.setattr(audio_files, 'say', messages.append)
  audio_files._print_resampling.cache_clear()
  t = np.arange(11_025) / 11_025
  tone = np.sin(2 * np.pi * 440 * t)
  wavfile.write(tmp_path / 'a.wav', 11_025, np.stack([tone, 0.5 * tone], 1).astype(np.float32))
  result = [audio_files.read_sound(tmp_path / 'a.wav', 8000, 'here') for _ in range(2)][0]
  assert result.shape == (8000,) and messages == ['sound of 11025 samples a second is resampled to 8000.']
  expected = 0.75 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
  np.testing.assert_allclose(result[200:-200], expected[200:-200], atol=2e-3)


def test_files_that_hold_no_sound(tmp_path):
  good, path = tmp_path / 'good.wav', tmp_path / 'a.wav'
  wavfile.write(good, 8000, np.zeros(100, np.int16))
  whole = good.read_bytes()
  wavfile.write(tmp_path / 'empty.wav', 8000, np.zeros(0, np.int16))
  wavfile.write(tmp_path / 'nan.wav', 8000, np.array([0, np.nan], np.float32))
  bad = {
    'nothing': b'',
    'text': b'not a sound at all',
    'ogg': b'OggS' + bytes(100),
    'header alone': whole[:20],
    'no data': whole[:40],
    'rate 0': whole[:24] + bytes(4) + whole[28:],
    'a law': whole[:20] + b'\x06\x00' + whole[22:],
    'empty': (tmp_path / 'empty.wav').read_bytes(),
    'nan': (tmp_path / 'nan.wav').read_bytes(),
  }
  for name, content in bad.items():
    path.write_bytes(content)
    with pytest.raises(KdjaxError, match='^row 3: .*a.wav') as e:
      audio_files.read_sound(path, 8000, 'row 3')
    assert '\n' not in str(e.value), name
  with pytest.raises(KdjaxError, match='^row 3: there is no sound .*gone.wav'):
    audio_files.read_sound(tmp_path / 'gone.wav', 8000, 'row 3')


def test_bytes_at_random(tmp_path):
  """Whatever a byte of a header becomes: a sound, or one line."""
  path, rng = tmp_path / 'a.wav', np.random.default_rng(0)
  wavfile.write(path, 8000, np.arange(64, dtype=np.int16))
  whole = path.read_bytes()
  for _ in range(300):
    changed = bytearray(whole[: rng.integers(10, len(whole))])
    for place in rng.integers(0, min(48, len(changed)), 2):
      changed[place] = rng.integers(256)
    path.write_bytes(changed)
    try:
      assert audio_files.read_sound(path, 8000, 'here').size
    except KdjaxError as e:
      assert '\n' not in str(e)


@pytest.mark.parametrize('given', [{}, {'pool': 'max', 'bands': True, 'patch': (4, 4)}])
def test_network(given):
  net = MelCnn(widths=(4, 6), blocks=(0, 1), num_classes=3, **given)
  inputs = {'audio': jnp.asarray(made_sound(2, 2600))}
  variables = jax.jit(net.init)(jax.random.key(0), inputs)
  taps = jax.jit(net.apply)(variables, inputs)
  width = 5 * 6 if given else 6
  assert {k: v.shape for k, v in taps.items() if k in ('mel', 'stage1', 'embed', 'logits')} == {
    'mel': (2, 20, 40),
    'stage1': (2, 5, 10, 4) if given else (2, 10, 20, 4),
    'embed': (2, width),
    'logits': (2, 3),
  }
  if not given:
    again = jax.jit(net.apply)(variables, {'mel': taps['mel']})
    np.testing.assert_allclose(again['logits'], taps['logits'], atol=1e-5)


def test_what_is_masked_is_not_pooled():
  net = MelCnn(widths=(4,), blocks=(0,), patch=(2, 4))
  mel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 40)), jnp.float32)
  for pool in ('mean', 'max'):
    net = net.clone(pool=pool)
    variables = net.init(jax.random.key(0), {'mel': mel})
    short = net.apply(variables, {'mel': mel[:, :4]})['embed']
    masked = net.apply(variables, {'mel': mel, 'mel/mask': jnp.arange(8)[None] < jnp.array([[4], [4]])})
    np.testing.assert_allclose(masked['embed'], short, atol=1e-6)


def test_an_unknown_pool():
  with pytest.raises(KdjaxError, match="did you mean 'mean'"):
    build.module({'model': 'mel_cnn', 'pool': 'meen'}, {}).init(
      jax.random.key(0), {'audio': jnp.ones((1, 900))}
    )


def spoken(speakers=('ann', 'bob', 'cy', 'dee')):
  """Recordings whose every sample tells digit and speaker, of lengths of their own."""
  return [
    {
      'audio/filename': f'{d}_{name}_{n}.wav'.encode(),
      'audio': np.full(50 + 30 * n, 100 * d + 10 * s + n + 1),
    }
    for s, name in enumerate(speakers)
    for d in range(10)
    for n in range(3)
  ]


def test_speakers_are_in_one_split():
  result = digits.recordings(spoken()[::-1])
  assert [r.digit for r in result] == sorted(r.digit for r in result) and len(result) == 120
  parts = digits.by_speaker(result, {'validation': ('cy',), 'test': ('dee',)})
  teacher_used = {
    split: {round(float(x[0]) * 2**15) % 100 // 10 for of_digit in part for x in of_digit}
    for split, part in parts.items()
  }
  assert teacher_used == {'train': {0, 1}, 'validation': {2}, 'test': {3}}
  for names, says in (
    ({'test': ('den',)}, "did you mean 'dee'"),
    ({'a': ('cy',), 'b': ('cy',)}, 'is in a and'),
  ):
    with pytest.raises(KdjaxError, match=says):
      digits.by_speaker(result, names)
  with pytest.raises(KdjaxError, match='do not say every digit'):
    digits.by_speaker(result[:60], {'test': ('dee',)})
  with pytest.raises(KdjaxError, match='DIGIT_SPEAKER_NUMBER'):
    digits.recordings([{'audio/filename': b'seven.wav', 'audio': np.zeros(3)}])


def test_pairs_are_of_one_digit_and_repeat_themselves():
  part = digits.by_speaker(digits.recordings(spoken()), {})['train']
  images = [(np.full((28, 28, 1), 20 * (i % 10), np.uint8), i % 10) for i in range(200)]
  plain, noisy = (digits.Pairs(images, part, 0, 100, *noise) for noise in ((0.0, None), (0.3, 10.0)))
  chosen = set()
  for i in range(200):
    example = plain[i]
    digit = example['label']
    assert example['image'][0, 0, 0] == 20 * digit and example['id'] == i
    assert example['audio'].shape == (100,) and example['audio'].dtype == np.float32
    assert round(float(example['audio'][0]) * 2**15) // 100 == digit
    chosen.add(float(example['audio'][0]))
  assert len(chosen) > 90  # of 120 recordings
  a, b = noisy[7], noisy[np.int64(7)]
  assert all(np.array_equal(a[k], b[k]) for k in a)
  others = digits.Pairs(images, part, 1, 100, 0.3, 10.0)[7]
  assert not np.array_equal(a['image'], others['image']) and a['image'].dtype == np.uint8


def test_noise_is_as_loud_as_it_says():
  part = [[np.sin(np.arange(4000) / 5).astype(np.float32)] for _ in range(10)]
  images = [(np.full((28, 28, 1), 128, np.uint8), 0)] * 20
  clean, noisy = (digits.Pairs(images, part, 0, 4000, s, db) for s, db in ((0.0, None), (0.1, 6.0)))
  added = noisy[3]['audio'] - clean[3]['audio']
  assert 10 * np.log10(np.mean(clean[3]['audio'] ** 2) / np.mean(added**2)) == pytest.approx(6, abs=0.3)
  spread = np.std([noisy[i]['image'] / 255.0 for i in range(20)])
  assert spread == pytest.approx(0.1, rel=0.03)


def write(folder, name, version, features, splits):
  """A prepared TFDS folder, made without TensorFlow."""

  class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(version)

    def _info(self):
      return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
      return {split: self._generate_examples(rows) for split, rows in splits.items()}

    def _generate_examples(self, rows):
      yield from enumerate(rows)

  Made.name = name
  builder = Made(data_dir=folder, file_format='array_record')
  with tfds_source.quiet_tfds(name):
    builder.download_and_prepare(file_format='array_record')
  return folder / name / version


def png(i):
  file = io.BytesIO()
  Image.fromarray(np.full((28, 28), 5 * i, np.uint8)).save(file, 'PNG')
  file.seek(0)
  return file


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """Both data sets as TFDS leaves them, with thirty images of a split and three speakers."""
  folder = tmp_path_factory.mktemp('tfds')
  label = tfds.features.ClassLabel(num_classes=10)
  features = {'image': tfds.features.Image(shape=(28, 28, 1), encoding_format='png'), 'label': label}
  images = {s: [{'image': png(i), 'label': i % 10} for i in range(30)] for s in ('train', 'test')}
  write(folder, 'mnist', '3.0.1', features, images)
  rows = [r | {'label': int(r['audio/filename'][:1])} for r in spoken(('ann', 'theo', 'yweweler'))]
  features = {'audio': tfds.features.Tensor(shape=(None,), dtype=np.int64), 'label': label}
  features |= {'audio/filename': tfds.features.Text()}
  where = write(folder, 'spoken_digit', '1.0.9', features, {'train': rows}) / 'features.json'
  kept = json.loads(where.read_text())
  name = 'tensorflow_datasets.core.features.audio_feature.Audio'
  content = {'shape': {'dimensions': ['-1']}, 'dtype': 'int64', 'fileFormat': 'wav', 'sampleRate': '8000'}
  kept['featuresDict']['features']['audio'] = {'audio': content, 'pythonClassName': name}
  where.write_text(json.dumps(kept))  # as TFDS writes it where there is TensorFlow
  return folder


def test_the_data_set(prepared, monkeypatch):
  monkeypatch.setattr(digits, 'IMAGES', 20)
  inputs = {'data_dir': str(prepared), 'validation': 10, 'test': 30, 'samples': 60}
  dataset = digits.av_digits(train=20, **inputs)
  assert {k: len(v) for k, v in dataset.splits.items()} == {'train': 20, 'validation': 10, 'test': 30}
  seen = {}
  for split, speaker in (('train', 0), ('validation', 1), ('test', 2)):
    examples = [dataset.splits[split][i] for i in range(len(dataset.splits[split]))]
    seen[split] = {int(e['image'][0, 0, 0]) // 5 for e in examples}  # TFDS keeps an order of its own
    for e in examples:
      assert (e['image'] == e['image'][0, 0, 0]).all() and e['label'] == e['image'][0, 0, 0] // 5 % 10
      assert round(float(e['audio'][0]) * 2**15) // 10 == 10 * e['label'] + speaker
  assert seen['train'] | seen['validation'] == seen['test'] and len(seen['train']) == 20
  assert dataset.classes == tuple('0123456789') and dataset.rate == digits.RATE  # `predict` reads files by it
  assert dataset.fingerprint != digits.av_digits(train=20, image_noise=0.1, **inputs).fingerprint


def test_prepared_sounds_need_no_tensorflow(prepared):
  dataset = load.dataset({'name': 'spoken_digit'}, str(prepared))
  example = dataset.splits['train'][4]
  assert example.keys() == {'audio', 'label', 'id'} and example['audio'].dtype == np.int64


def test_an_unknown_size():
  for inputs in ({'train': 60_000}, {'test': 0}, {'samples': 0}):
    with pytest.raises(KdjaxError, match=f'{next(iter(inputs))}='):
      digits.av_digits(**inputs)


@pytest.mark.parametrize(
  ('suffix', 'error'), [('flac', 1e-4), ('aiff', 1e-4), ('ogg', 0.1), ('opus', 0.2), ('mp3', 0.1)]
)
def test_compressed_sounds_are_those_of_their_wav_file(tmp_path, suffix, error):
  """Two channels at 24 kHz; Vorbis, Opus and MP3 lose a little, and MP3 is padded."""
  soundfile, path = pytest.importorskip('soundfile'), tmp_path / f'a.{suffix}'
  t = np.arange(24_000) / 24_000
  sound = 0.4 * np.stack([np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 220 * t)], 1).astype(np.float32)
  kind = {'opus': ('OGG', 'OPUS'), 'ogg': ('OGG', 'VORBIS'), 'mp3': ('MP3', None)}.get(suffix, (None, None))
  soundfile.write(path, sound, 24_000, format=kind[0], subtype=kind[1])
  wavfile.write(tmp_path / 'a.wav', 24_000, sound)
  expected = audio_files.read_sound(tmp_path / 'a.wav', 16_000, 'row 1')
  for source in (path, path.read_bytes()):
    read = audio_files.read_sound(source, 16_000, 'row 1')
    assert read.dtype == np.float32 and abs(len(read) - 16_000) < 2000
    shift = np.argmax(np.correlate(read[:8000], expected[1000:3000], 'valid')) - 1000
    np.testing.assert_allclose(read[2000 + shift : 6000 + shift], expected[2000:6000], atol=error)


@pytest.mark.parametrize(
  'content', [b'fLaC', b'OggS' + bytes(100), b'ID3' + bytes(200), b'FORM', b'MThd', b'']
)
def test_sounds_that_cannot_be_read_are_one_line(tmp_path, content):
  path = tmp_path / 'a.flac'
  path.write_bytes(content)
  with pytest.raises(KdjaxError, match='row 1: .*a.flac is not a readable sound|needs the package'):
    audio_files.read_sound(path, 16_000, 'row 1')


def test_a_compressed_sound_without_its_package(tmp_path, monkeypatch):
  (tmp_path / 'a.flac').write_bytes(b'fLaC' + bytes(64))
  monkeypatch.setitem(sys.modules, 'soundfile', None)
  with pytest.raises(KdjaxError, match='row 1: .*needs the package soundfile .*pip install soundfile'):
    audio_files.read_sound(tmp_path / 'a.flac', 16_000, 'row 1')
