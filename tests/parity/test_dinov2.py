"""DINOv2, with and without registers, against transformers."""

import numpy as np
import pytest
from attention_scores import watch

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SIZES = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'patch_size': 7}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
FILES = {'preprocessor_config.json': {'image_mean': MEAN, 'image_std': STD}}


@pytest.mark.parametrize('sides', [(28, 28), (21, 42), (63, 56)])
@pytest.mark.parametrize('registers', [None, 4])
@pytest.mark.parametrize('classes, gated', [(3, False), (None, False), (3, True)])
def test_every_tap(published, agree, randomised, registers, classes, gated, sides):
  kind = 'Dinov2WithRegisters' if registers else 'Dinov2'
  options = SIZES | {'use_swiglu_ffn': gated} | ({'num_register_tokens': registers} if registers else {})
  config = getattr(transformers, f'{kind}Config')(**options, image_size=28, num_labels=3)
  name = f'{kind}ForImageClassification' if classes else f'{kind}Model'
  module = randomised(getattr(transformers, name)(config), 0.2)
  image = np.random.default_rng(0).integers(0, 256, (2, *sides, 3)).astype(np.uint8)
  pixels = torch.tensor(((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
  body = getattr(module, module.base_model_prefix) if classes else module
  theirs = {}
  layers = body.encoder.layer if hasattr(body.encoder, 'layer') else body.encoder.layers
  for i, layer in enumerate(layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
  body.embeddings.register_forward_hook(lambda _, __, y: theirs.__setitem__('embeddings', y))
  scores = watch([projections(layer) for layer in layers], 4)
  with torch.no_grad():
    tokens = theirs['tokens'] = body(pixels).last_hidden_state
    theirs |= scores()
    theirs['embed'] = tokens[:, 0]
    if classes:
      mean = tokens[:, 1 + (registers or 0) :].mean(1)
      theirs |= {'logits': module(pixels).logits, 'embed': torch.cat([tokens[:, 0], mean], -1)}
  agree(published('dinov2', module, {'image': image}, classes, FILES), theirs)


def projections(layer):
  """The query and key of a layer, whose attention has them in itself or one deeper."""
  inner = getattr(layer.attention, 'attention', layer.attention)
  return (inner.q_proj, inner.k_proj) if hasattr(inner, 'q_proj') else (inner.query, inner.key)
