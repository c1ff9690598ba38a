"""Whisper's encoder against transformers."""

import numpy as np
import pytest
from attention_scores import watch

from kdjax.models.audio.whisper_encoder import sinusoids

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SMALL = {
  'vocab_size': 60,
  'num_mel_bins': 10,
  'd_model': 32,
  'encoder_layers': 3,
  'encoder_attention_heads': 4,
  'encoder_ffn_dim': 48,
  'decoder_layers': 1,
  'decoder_attention_heads': 4,
  'decoder_ffn_dim': 48,
  'max_source_positions': 12,
  'max_target_positions': 8,
  'pad_token_id': 0,
  'bos_token_id': 1,
  'eos_token_id': 2,
  'decoder_start_token_id': 1,
}
MEL = np.random.default_rng(0).normal(size=(3, 24, 10)).astype(np.float32)


@pytest.mark.parametrize('kind', ['WhisperModel', 'WhisperForConditionalGeneration'])
def test_every_tap(saved, agree, randomised, kind):
  config = transformers.WhisperConfig(**SMALL)
  module = getattr(transformers, kind)(config)
  encoder = module.get_encoder()
  table = encoder.embed_positions.weight.detach().numpy()
  np.testing.assert_allclose(sinusoids(12, 32), table, atol=1e-6)
  randomised(module)
  theirs = {}
  for i, layer in enumerate(encoder.layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
  encoder.layers[0].register_forward_pre_hook(lambda _, x: theirs.__setitem__('embeddings', x[0]))
  scores = watch([(layer.self_attn.q_proj, layer.self_attn.k_proj) for layer in encoder.layers], 4)
  with torch.no_grad():
    tokens = encoder(torch.tensor(MEL.transpose(0, 2, 1))).last_hidden_state
  mask = np.arange(24) < np.array([24, 9, 16])[:, None]
  kept = torch.tensor(mask[:, ::2])[..., None]
  theirs |= {'tokens': tokens, 'embed': (tokens * kept).sum(1) / kept.sum(1)} | scores()
  agree(saved('whisper_encoder', {}, module, {'mel': MEL, 'mel/mask': mask}), theirs)
