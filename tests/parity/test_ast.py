"""The Audio Spectrogram Transformer against transformers."""

import numpy as np
import pytest
from attention_scores import watch

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SMALL = {
  'hidden_size': 32,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'intermediate_size': 48,
  'patch_size': 8,
  'frequency_stride': 5,
  'time_stride': 6,
  'max_length': 40,
  'num_mel_bins': 20,
}
MEL = np.random.default_rng(0).normal(size=(3, 40, 20)).astype(np.float32)


@pytest.mark.parametrize('classes', [None, 5])
def test_every_tap(saved, agree, randomised, classes):
  config = transformers.ASTConfig(**SMALL, num_labels=5)
  module = randomised(
    transformers.ASTForAudioClassification(config) if classes else transformers.ASTModel(config)
  )
  body, theirs = module.audio_spectrogram_transformer if classes else module, {}
  for i, layer in enumerate(body.layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
  body.embeddings.register_forward_hook(lambda _, __, y: theirs.__setitem__('embeddings', y))
  scores = watch([(layer.attention.q_proj, layer.attention.k_proj) for layer in body.layers], 4)
  with torch.no_grad():
    result = body(torch.tensor(MEL))
    if classes:
      theirs['logits'] = module(torch.tensor(MEL)).logits
  theirs |= {'tokens': result.last_hidden_state, 'embed': result.pooler_output} | scores()
  agree(saved('ast', {'num_classes': classes}, module, {'mel': MEL}), theirs)
