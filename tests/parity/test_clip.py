"""CLIP against transformers."""

import numpy as np
import pytest
from attention_scores import watch

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SIZES = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
WORDS = {'vocab_size': 50, 'max_position_embeddings': 12, 'eos_token_id': 49, 'bos_token_id': 48}
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3)).astype(np.uint8)
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]


def tower(module, name, taps):
  """Hooks that keep what the taps of one tower are."""
  layers = module.encoder.layers
  for i, layer in enumerate(layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: taps.__setitem__(f'{name}/block{i}', y[0] if isinstance(y, tuple) else y)
    )
  at = module.pre_layrnorm if name == 'image' else module.embeddings
  at.register_forward_hook(lambda _, __, y: taps.__setitem__(f'{name}/embeddings', y))
  return watch([(layer.self_attn.q_proj, layer.self_attn.k_proj) for layer in layers], 4)


def test_every_tap(saved, agree, randomised):
  config = transformers.CLIPConfig(
    text_config=SIZES | WORDS,
    vision_config=SIZES | {'image_size': 24, 'patch_size': 8, 'num_hidden_layers': 3},
    projection_dim=20,
  )
  module = randomised(transformers.CLIPModel(config))
  rng, lengths = np.random.default_rng(0), np.array([9, 4, 7])
  mask = np.arange(9) < lengths[:, None]
  ids = rng.integers(1, 48, (3, 9))
  ids[np.arange(3), lengths - 1] = 49
  ids = (ids * mask).astype(np.int32)
  taps, vision, text = {}, module.vision_model, module.text_model
  scores = {'image': tower(vision, 'image', taps), 'text': tower(text, 'text', taps)}
  x = (torch.tensor(IMAGE.transpose(0, 3, 1, 2)) / 255 - MEAN) / STD
  with torch.no_grad():
    seen = vision(x)
    read = text(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    taps['image/tokens'] = vision.post_layernorm(seen.last_hidden_state)
    taps['text/tokens'] = read.last_hidden_state
    taps['image/embed'] = module.visual_projection(seen.pooler_output)
    taps['text/embed'] = module.text_projection(read.pooler_output)
  taps['logit_scale'] = module.logit_scale
  taps |= {f'{name}/{k}': v for name, result in scores.items() for k, v in result().items()}
  agree(saved('clip', {}, module, {'image': IMAGE, 'text': ids, 'text/mask': mask}), taps)
