"""CLAP against transformers, from the sounds on."""

import json

import numpy as np
import pytest
from attention_scores import watch

from kdjax.nn.log_mel import PRESETS, filters, log_mel, read_mel

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
AUDIO = {'spec_size': 64, 'num_mel_bins': 16, 'patch_embeds_hidden_size': 8, 'depths': [2, 3, 1]}
AUDIO |= {'num_attention_heads': [2, 4, 4], 'window_size': 4, 'hidden_size': 32, 'mlp_ratio': 2.0}
TEXT = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
TEXT |= {'vocab_size': 50, 'max_position_embeddings': 14}
RATE = 8000
LENGTHS = np.array([16_000, 5000, 700])  # the second is repeated three times, the last 22 times
EXTRACTOR = {'feature_size': 16, 'sampling_rate': RATE, 'hop_length': 80, 'fft_window_size': 256}
EXTRACTOR |= {'max_length_s': 2, 'frequency_min': 50, 'frequency_max': 3500, 'truncation': 'rand_trunc'}


def sounds(lengths, rate=RATE):
  rng, t = np.random.default_rng(0), np.arange(lengths.max()) / rate
  x = 0.4 * np.sin(2 * np.pi * (300 + 200 * t) * t) + 0.05 * rng.normal(size=(len(lengths), len(t)))
  mask = np.arange(len(t)) < lengths[:, None]
  return (x * mask).astype(np.float32), mask


@pytest.mark.parametrize('padding', ['repeatpad', 'pad'])
def test_every_tap(published, agree, randomised, padding):
  config = transformers.ClapConfig(text_config=TEXT, audio_config=AUDIO, projection_dim=20)
  module = randomised(transformers.ClapModel(config), 0.1)
  extractor = transformers.ClapFeatureExtractor(**EXTRACTOR, padding=padding)
  audio, audio_mask = sounds(LENGTHS)
  rows = [x[:n] for x, n in zip(audio, LENGTHS, strict=True)]
  mel = extractor(rows, sampling_rate=RATE, return_tensors='pt')['input_features'].float()
  lengths = np.array([9, 4, 7])
  mask = np.arange(9) < lengths[:, None]
  ids = np.where(mask, np.random.default_rng(0).integers(2, 50, (3, 9)), 1).astype(np.int32)
  taps, body, text = {}, module.audio_model.audio_encoder, module.text_model

  def keep(name, side):
    def hook(_, __, y):
      y = y[0] if isinstance(y, tuple) else y
      taps[name] = y.unflatten(1, (side, side)).permute(0, 3, 1, 2)

    return hook

  body.patch_embed.register_forward_hook(keep('audio/stem', 16))
  for i, stage in enumerate(body.layers):
    stage.blocks[-1].register_forward_hook(keep(f'audio/stage{i + 1}', 16 // 2**i))
  body.norm.register_forward_hook(keep('audio/tokens', 4))
  text.embeddings.register_forward_hook(lambda _, __, y: taps.__setitem__('text/embeddings', y))
  for i, layer in enumerate(text.encoder.layer, 1):
    layer.register_forward_hook(lambda _, __, y, i=i: taps.__setitem__(f'text/block{i}', y))
  scores = watch([(x.attention.self.query, x.attention.self.key) for x in text.encoder.layer], 4)
  with torch.no_grad():
    heard = module.audio_model(input_features=mel)
    read = text(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    taps['audio/embed'] = module.audio_projection(heard.pooler_output)
    taps['text/embed'] = module.text_projection(read.pooler_output)
  taps |= {'text/tokens': read.last_hidden_state} | {f'text/{k}': v for k, v in scores().items()}
  taps |= {'logit_scale': module.logit_scale_a, 'logit_scale_text': module.logit_scale_t}
  batch = {'audio': audio, 'audio/mask': audio_mask, 'text': ids, 'text/mask': mask}
  files = {'preprocessor_config.json': json.loads(extractor.to_json_string())}
  agree(published('clap', module, batch, files=files), taps)


def test_its_spectrograms():
  """The preset, for 10 s at 48 kHz: a whole sound, and one that is repeated."""
  theirs = transformers.ClapFeatureExtractor(frequency_min=50, truncation='rand_trunc')
  how = PRESETS['clap']
  np.testing.assert_allclose(filters(how), theirs.mel_filters_slaney, atol=1e-7)
  x, mask = sounds(np.array([480_000, 200_000]), 48_000)
  expected = theirs([x[0], x[1, :200_000]], sampling_rate=48_000, return_tensors='np')['input_features'][:, 0]
  np.testing.assert_allclose(read_mel({'audio': x, 'audio/mask': mask}, how)[0], expected, atol=2e-3)
  short = log_mel(x[1:, :200_000], how._replace(repeat=False))
  assert short.shape == (1, 1001, 64) and (short[0, 500:] == -100).all()
