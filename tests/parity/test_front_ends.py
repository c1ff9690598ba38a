"""Spectrograms against those that transformers makes."""

import numpy as np
import pytest

from kdjax.nn.log_mel import PRESETS, fbank, filters, log_mel

pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity


def made_sound(rows=2, seconds=30):
  rng, t = np.random.default_rng(0), np.arange(16_000 * seconds) / 16_000
  x = 0.4 * np.sin(2 * np.pi * (300 + 200 * t) * t) * np.exp(-0.2 * t) + 0.02 * rng.normal(
    size=(rows, len(t))
  )
  return x.astype(np.float32)


@pytest.mark.parametrize('mels', [80, 128])
def test_whisper(mels):
  theirs, how = (
    transformers.WhisperFeatureExtractor(feature_size=mels),
    PRESETS['whisper']._replace(mels=mels),
  )
  np.testing.assert_allclose(filters(how), theirs.mel_filters, atol=1e-7)
  x = made_sound()  # of 30 s, as Whisper takes it
  expected = theirs(list(x), sampling_rate=16_000, return_tensors='np').input_features
  np.testing.assert_allclose(log_mel(x, how), expected.transpose(0, 2, 1), atol=1e-3)


def test_ast():
  x = made_sound(seconds=3)
  theirs = transformers.ASTFeatureExtractor()(list(x), sampling_rate=16_000, return_tensors='np').input_values
  np.testing.assert_allclose(fbank(x, PRESETS['ast']), theirs, atol=1e-4)
