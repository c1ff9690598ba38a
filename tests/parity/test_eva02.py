"""EVA-02 and the image tower of its CLIP against timm."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
timm = pytest.importorskip('timm')
pytestmark = pytest.mark.parity
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
SCALING = {'mean': MEAN, 'std': STD, 'input_size': [3, 56, 56], 'crop_pct': 1.0}
HEADS = 3


def scores(block, x, turns):
  """What the softmax gets, from the input of a block's attention."""
  attention = block.attn
  if attention.qkv is None:
    q, k = attention.q_proj(x), attention.k_proj(x)
  else:
    q, k, _ = torch.nn.functional.linear(x, attention.qkv.weight).chunk(3, -1)
    q = q + attention.q_bias
  q, k = (y.unflatten(-1, (HEADS, -1)).transpose(1, 2) for y in (q, k))
  turned = timm.layers.apply_rot_embed_cat
  q, k = (torch.cat([y[:, :, :1], turned(y[:, :, 1:], turns)], 2) for y in (q, k))
  return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('eva02_tiny_patch14_224', (56, 56)),
    ('eva02_small_patch14_336', (42, 70)),
    ('eva02_base_patch14_448', (56, 56)),
    ('eva02_large_patch14_448', (84, 56)),
    ('eva02_base_patch16_clip_224', (64, 64)),
    ('eva02_large_patch14_clip_336', (56, 56)),
  ],
)
def test_every_tap(published, agree, randomised, name, shape):
  sizes = {'embed_dim': 48, 'depth': 2, 'num_heads': HEADS, 'img_size': 64 if 'patch16' in name else 56}
  module = timm.create_model(name, **sizes, num_classes=5, dynamic_img_size=True)
  module = randomised(module, 0.2)
  image = np.random.default_rng(0).integers(0, 256, (2, *shape, 3)).astype(np.uint8)
  x = torch.tensor(((image / 255 - MEAN) / STD).transpose(0, 3, 1, 2)).float()
  patch = module.patch_embed.patch_size[0]
  theirs, turns = {}, module.rope.get_embed(shape=(shape[0] // patch, shape[1] // patch))
  module.blocks[0].register_forward_pre_hook(lambda _, inputs: theirs.__setitem__('embeddings', inputs[0]))
  for i, block in enumerate(module.blocks, 1):
    block.register_forward_hook(lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y))
    block.norm1.register_forward_hook(
      lambda _, __, y, i=i, block=block: theirs.__setitem__(f'attention{i}', scores(block, y, turns))
    )
  with torch.no_grad():
    theirs['logits'] = module(x)
    theirs['tokens'] = tokens = module.forward_features(x)
    theirs['embed'] = module.forward_head(tokens, pre_logits=True)
  config = {'architecture': name, 'num_classes': 5, 'model_args': sizes, 'pretrained_cfg': SCALING}
  config['model_args'] = sizes | {'dynamic_img_size': True}
  agree(published('eva02', module, {'image': image}, 5, {'config.json': config}), theirs)
