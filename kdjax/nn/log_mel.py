"""Log-mel spectrograms of sound, in JAX: frames, window, power spectrum, mel filters, logarithm."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.nn.conv import portable
from kdjax.nn.layers import COMPUTED, read
from kdjax.nn.taps import raise_precision
from kdjax.types import Array

FRONT_END = 'front_end'  # the scope of matmuls that no export rounds


class Mel(NamedTuple):
  """Settings of a log-mel spectrogram.

  Attributes:
    rate: samples a second of the sound.
    n_fft: samples of a frame, all of them under the window.
    hop: samples from one frame to the next.
    mels: filters, M.
    low, high: Hz where the first filter begins and the last ends; 0 for `high` is half the rate.
    scale: 'slaney' (linear up to 1 kHz, logarithmic above) or 'htk' (2595 log10(1 + f / 700)).
    area: whether every filter is divided by half its width in Hz, so that all have one area.
    floor: the least power whose logarithm is taken.
    span: dynamic range below the loudest value of an example, in powers of ten; 0 for no limit.
    levelled: whether the loudest value of every example becomes 1, so that loudness is lost.
    length: frames, of the sound cut or padded with silence; 0 for all frames of the sound.
    end: whether there is one more frame, whose middle is at the end of the sound.
    repeat: whether a sound shorter than `length` is repeated, as many whole times as fit, before the silence.
    decibel: whether the logarithm is taken times ten.
  """

  rate: int = 16_000
  n_fft: int = 400
  hop: int = 160
  mels: int = 80
  low: float = 0.0
  high: float = 0.0
  scale: str = 'slaney'
  area: bool = True
  floor: float = 1e-10
  span: float = 8.0
  levelled: bool = False
  length: int = 0
  end: bool = False
  repeat: bool = False
  decibel: bool = False


class Fbank(NamedTuple):
  """Kaldi's filter banks, as the Audio Spectrogram Transformer takes them (Gong et al., 2104.01778).

  Attributes:
    rate: samples a second of the sound.
    window: samples of a frame.
    n_fft: samples that a frame is padded to with zeros.
    hop: samples from one frame to the next.
    mels: filters, M.
    low, high: Hz where the first filter begins and the last ends; 0 for `high` is half the rate.
    emphasis: of the pre-emphasis x[n] - emphasis · x[n - 1].
    floor: the least power whose logarithm is taken.
    length: frames, cut or padded with zeros; 0 for all frames of the sound.
    mean, std: of AudioSet, for the normalisation (x - mean) / (2 std).
  """

  rate: int = 16_000
  window: int = 400
  n_fft: int = 512
  hop: int = 160
  mels: int = 128
  low: float = 20.0
  high: float = 0.0
  emphasis: float = 0.97
  floor: float = 2.0**-23
  length: int = 1024
  mean: float = -4.2677393
  std: float = 4.5689974


# whisper: Radford et al., 2212.04356, section 2.2, and the code they published.
# clap: the unfused CLAP of LAION (Wu et al., 2211.06687), for 10 s; the sound's beginning, not a random part.
# digits: for short words at 8 kHz from speakers of very different loudness.
PRESETS = {
  'whisper': Mel(),
  'ast': Fbank(),
  'clap': Mel(48_000, 1024, 480, 64, 50, 14_000, span=0.0, length=1000, end=True, repeat=True, decibel=True),
  'digits': Mel(8000, 256, 128, 40, scale='htk', area=False, span=4.0, levelled=True),
}


def settings(front_end: str | Mapping[str, Any] | Mel | Fbank) -> Mel | Fbank:
  """A preset by its name, `{'preset': its name, field: value, ...}`, or settings as they are.

  Raises:
    KdjaxError: for an unknown preset or field.
  """
  if isinstance(front_end, Mel | Fbank):
    return front_end
  changes = {'preset': front_end} if isinstance(front_end, str) else dict(front_end)
  preset = changes.pop('preset', 'whisper')
  if preset not in PRESETS:
    raise unknown('preset of mel spectrograms', preset, PRESETS)
  preset_settings = PRESETS[preset]
  for name in changes:
    if name not in preset_settings._fields:
      raise unknown(f'setting of the mel spectrogram {preset!r}', name, ('preset', *preset_settings._fields))
  return preset_settings._replace(**changes)


def to_mel(hz, scale: str):
  """Hz on the mel scale `scale`, 'slaney' or 'htk'."""
  hz = np.asarray(hz, np.float64)
  if scale == 'htk':
    return 2595 * np.log10(1 + hz / 700)
  if scale == 'slaney':
    return np.where(hz < 1000, hz * 3 / 200, 15 + 27 * np.log(np.maximum(hz, 1000) / 1000) / np.log(6.4))
  raise unknown('mel scale', scale, ('slaney', 'htk'))


def to_hz(mel, scale: str):
  """The inverse of `to_mel`."""
  mel = np.asarray(mel, np.float64)
  if scale == 'htk':
    return 700 * (10 ** (mel / 2595) - 1)
  return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((np.maximum(mel, 15) - 15) * np.log(6.4) / 27))


def filters(config: Mel | Fbank) -> np.ndarray:
  """f64 [n_fft // 2 + 1, M]: triangles whose corners are evenly spaced on the mel scale.

  Their sides are straight over Hz, those of a `Fbank` over mels.

  Raises:
    KdjaxError: if the band is empty, or a filter so narrow that no frequency falls in it.
  """
  low, high = config.low, config.high or config.rate / 2
  if not 0 <= low < high <= config.rate / 2:
    raise KdjaxError(f'mel filters from {low:g} to {high:g} Hz do not fit a rate of {config.rate}.')
  kaldi = isinstance(config, Fbank)
  scale = 'htk' if kaldi else config.scale
  first, last = to_mel([low, high], scale)
  corners = np.linspace(first, last, config.mels + 2)
  x = np.arange(config.n_fft // 2 + 1) * config.rate / config.n_fft
  corners, x = (corners, to_mel(x, scale)) if kaldi else (to_hz(corners, scale), x)
  left, middle, right = corners[:-2], corners[1:-1], corners[2:]
  rise, fall = (x[:, None] - left) / (middle - left), (right - x[:, None]) / (right - middle)
  weights = np.maximum(np.minimum(rise, fall), 0)
  if not kaldi and not weights.any(0).all():  # some of those of the AST are empty
    raise KdjaxError(
      f'mel: {config.mels} mels are too many for n_fft={config.n_fft} at {config.rate} samples a second.'
    )
  return weights * 2 / (right - left) if not kaldi and config.area else weights


def frames(x: Array, size: int, hop: int, count: int) -> Array:
  """`[B, N]` -> `[B, count, size]`, frame t from sample t · hop on; zeros follow the last sample."""
  pieces = -(-size // hop)  # slices, since a gather is slow
  length = (count + pieces - 1) * hop
  x = jnp.pad(x, ((0, 0), (0, max(length - x.shape[1], 0))))[:, :length]
  x = x.reshape(x.shape[0], -1, hop)
  return jnp.concatenate([x[:, i : i + count] for i in range(pieces)], -1)[..., :size]


def long_enough(audio: Array, least: int) -> Array:
  """`audio` `[B, N]` in >= float32.

  Raises:
    KdjaxError: if it is of another shape, or N is less than `least`.
  """
  if audio.ndim != 2 or audio.shape[1] < least:
    raise KdjaxError(f'mel: audio {list(audio.shape)} is not [B, N] with {least} samples or more.')
  return raise_precision(audio)


def mel_power(windowed: Array, config: Mel | Fbank) -> Array:
  """`[B, T, n]` -> `[B, T, M]`: the power spectrum of each frame through the filters."""
  if portable.value:  # few runtimes have the FFT of every size
    angles = 2 * np.pi / config.n_fft * np.outer(np.arange(windowed.shape[-1]), range(config.n_fft // 2 + 1))
    bases = (jnp.asarray(f(angles), windowed.dtype) for f in (np.cos, np.sin))
    with jax.named_scope(FRONT_END):
      real, imaginary = (jnp.matmul(windowed, base, precision='highest') for base in bases)
    power = jnp.square(real) + jnp.square(imaginary)
  else:
    spectrum = jnp.fft.rfft(windowed, config.n_fft, axis=-1)
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  bank = jnp.asarray(filters(config), power.dtype)
  with jax.named_scope(FRONT_END):
    return jnp.matmul(power, bank, precision=jax.lax.Precision.HIGHEST)


def log_mel(audio: Array, config: Mel) -> Array:
  """The log-mel spectrogram `[B, T, M]` of sound `[B, N]` in [-1, 1], T = N // hop + end, in >= float32.

  Frame t has its middle at sample t · hop; past its ends the sound is mirrored. Base 10, of the power
  under a periodic Hann window. With a `span` of s, what lies more than s under the loudest of its
  example is raised to that; then (x + s / 2) / (s / 2), which for s = 8 is Whisper's (x + 4) / 4.
  `levelled` subtracts the loudest of the example before: all values lie in [-1, 1]. With a
  `length`, T is that + `end`.

  Raises:
    KdjaxError: for settings or a length that make no spectrogram.
  """
  half = config.n_fft // 2
  x = long_enough(audio, 1 if config.length else max(half + 1, config.hop))
  n = config.length * config.hop or x.shape[1]
  x = jnp.pad(x, ((0, 0), (0, max(n - x.shape[1], 0))))[:, :n]
  x = jnp.pad(x, ((0, 0), (half, half)), 'reflect')
  x = frames(x, config.n_fft, config.hop, n // config.hop + config.end)
  window = np.hanning(config.n_fft + 1)[:-1]
  x = mel_power(x * jnp.asarray(window, x.dtype), config)
  x = jnp.log10(jnp.maximum(x, config.floor)) * (10 if config.decibel else 1)
  loudest = jnp.max(x, (1, 2), keepdims=True)
  x = jnp.maximum(x, loudest - config.span) if config.span else x
  x = x - loudest if config.levelled else x
  return (x + config.span / 2) / (config.span / 2) if config.span else x


def fbank(audio: Array, config: Fbank) -> Array:
  """Kaldi's log filter banks `[B, T, M]` of sound `[B, N]`, normalised for the AST, in >= float32.

  Frames lie within the sound. Each loses its mean, is emphasised (its first sample by itself) and goes
  under a symmetric Hann window. Natural logarithm. No dither.

  Raises:
    KdjaxError: for settings or a length that make no spectrogram.
  """
  x = long_enough(audio, config.window)
  x = frames(x, config.window, config.hop, 1 + (audio.shape[1] - config.window) // config.hop)
  x = x - x.mean(-1, keepdims=True)
  x = x - config.emphasis * jnp.concatenate([x[..., :1], x[..., :-1]], -1)
  x = mel_power(x * jnp.asarray(np.hanning(config.window), x.dtype), config)
  x = jnp.log(jnp.maximum(x, config.floor))
  if config.length:
    x = jnp.pad(x, ((0, 0), (0, max(config.length - x.shape[1], 0)), (0, 0)))[:, : config.length]
  return (x - config.mean) / (2 * config.std)


def repeated(audio: Array, mask: Array | None, size: int) -> tuple[Array, Array | None]:
  """Sound `[B, N]` as many whole times as `size` samples hold, then silence, and its validity, `[B, size]`.

  Without a mask all of it is valid, and the result may be shorter, or longer than `size`.
  """
  if mask is None:
    b, length = audio.shape
    return jnp.broadcast_to(audio[:, None], (b, max(size // length, 1), length)).reshape(b, -1), None
  count = jnp.clip((mask > 0).sum(1, dtype=jnp.int32), 1, min(size, audio.shape[1]))[:, None]
  index = jnp.arange(size, dtype=jnp.int32)
  valid = index < count * (size // count)
  return jnp.where(valid, jnp.take_along_axis(audio, index % count, 1), 0), valid


def frame_mask(mask: Array, config: Mel | Fbank) -> Array:
  """Validity of frames `[B, T]`, that of the sample in the middle of each, from `mask` `[B, N]`."""
  if isinstance(config, Mel):
    count = (config.length or mask.shape[1] // config.hop) + config.end
    frames = mask[:, :: config.hop][:, :count]
    return jnp.pad(frames, ((0, 0), (0, count - frames.shape[1])))
  count = 1 + (mask.shape[1] - config.window) // config.hop
  frames = mask[:, config.window // 2 :: config.hop][:, :count]
  length = config.length or count
  return jnp.pad(frames, ((0, 0), (0, max(length - count, 0))))[:, :length]


def read_mel(inputs: Mapping[str, Array], config: Mel | Fbank) -> tuple[Array, Array | None]:
  """A model's spectrogram `[B, T, M]` and the validity of its frames `[B, T]`, or None.

  `inputs['mel']` as it is, with its 'mel/mask', or computed from `inputs['audio']` and its 'audio/mask'.

  Raises:
    KdjaxError: if there is neither, or as `log_mel` and `fbank` do.
  """
  if 'mel' in inputs:
    return inputs['mel'], inputs.get('mel/mask')
  audio, mask = read(inputs, 'audio'), inputs.get('audio/mask')
  dtype = inputs.get(f'audio{COMPUTED}', audio).dtype
  if isinstance(config, Mel) and config.repeat:
    audio, mask = repeated(audio, mask, config.length * config.hop)
  mel = (log_mel(audio, config) if isinstance(config, Mel) else fbank(audio, config)).astype(dtype)
  return mel, None if mask is None else frame_mask(mask, config)
