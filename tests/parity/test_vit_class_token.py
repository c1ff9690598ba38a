"""Vision Transformers against transformers and timm."""

import numpy as np
import pytest
from attention_scores import watch

from kdjax.pretrained import vit_class_token

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3)).astype(np.uint8)
PIXELS = torch.tensor(IMAGE.transpose(0, 3, 1, 2) / 127.5 - 1).float()


@pytest.mark.parametrize('act', ['gelu', 'quick_gelu'])
def test_transformers(saved, agree, randomised, act):
  sizes = {'hidden_size': 32, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'intermediate_size': 48}
  config = transformers.ViTConfig(**sizes, image_size=24, patch_size=8, hidden_act=act, num_labels=5)
  module = randomised(transformers.ViTForImageClassification(config))
  scores = watch([(layer.attention.q_proj, layer.attention.k_proj) for layer in module.vit.layers], 4)
  with torch.no_grad():
    result = module(PIXELS, output_hidden_states=True)
    hidden = result.hidden_states
    tokens = module.vit(PIXELS).last_hidden_state
    blocks = {f'block{i}': x for i, x in enumerate(hidden[1:], 1)}
    theirs = {'embeddings': hidden[0], **blocks, **scores(), 'tokens': tokens, 'embed': tokens[:, 0]}
  agree(
    saved('vit_class_token', {'num_classes': 5}, module, {'image': IMAGE}), theirs | {'logits': result.logits}
  )


def test_timm(ours, agree, randomised, tmp_path):
  module = timm.create_model('vit_tiny_patch16_224', img_size=32, depth=2, num_classes=5)
  module, image = randomised(module), np.zeros((2, 32, 32, 3), np.uint8)
  image[:, 4:28, 4:28] = IMAGE
  x, theirs = torch.tensor(image.transpose(0, 3, 1, 2) / 127.5 - 1).float(), {}
  hooked = {f'block{i}': block for i, block in enumerate(module.blocks, 1)} | {'tokens': module.norm}
  for name, part in hooked.items():
    part.register_forward_hook(lambda _, __, y, name=name: theirs.__setitem__(name, y))
  module.norm_pre.register_forward_hook(lambda _, __, y: theirs.__setitem__('embeddings', y))
  fused = {}
  for i, block in enumerate(module.blocks, 1):
    block.attn.qkv.register_forward_hook(lambda _, __, y, i=i: fused.__setitem__(i, y))
  with torch.no_grad():
    theirs['logits'] = module(x)
  for i, y in fused.items():
    q, k, _ = y.unflatten(-1, (3, 3, -1)).permute(2, 0, 3, 1, 4)
    theirs[f'attention{i}'] = q @ k.transpose(-1, -2) / 8
  theirs['embed'] = theirs['tokens'][:, 0]
  known = vit_class_token.config({'architecture': 'vit_tiny_patch16_224.augreg'}, tmp_path)
  agree(
    ours('vit_class_token', known | {'depth': 2, 'num_classes': 5}, module.state_dict(), {'image': image}),
    theirs,
  )
