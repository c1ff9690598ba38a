"""SmolVLM and Idefics3 against transformers."""

import numpy as np
import pytest
from attention_scores import watch
from test_llama import scores

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
VISION = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
VISION |= {'image_size': 32, 'patch_size': 8}
WORDS = {'model_type': 'llama', 'vocab_size': 50, 'hidden_size': 24, 'num_attention_heads': 4}
WORDS |= {'num_hidden_layers': 3, 'intermediate_size': 48, 'max_position_embeddings': 40}
WORDS |= {'num_key_value_heads': 2, 'pad_token_id': 0, 'rms_norm_eps': 1e-5, 'rope_theta': 500.0}
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
LENGTHS = np.array([11, 6, 8])
TOKEN, COUNT = 49, 4  # of 4×4 patches, 2×2 of them in each


def model(kind, randomised, tied):
  config = getattr(transformers, f'{kind}Config')(
    vision_config=VISION,
    text_config=WORDS | {'tie_word_embeddings': tied},
    tie_word_embeddings=tied,
    scale_factor=2,
    image_token_id=TOKEN,
    attn_implementation='eager',
  )
  return randomised(getattr(transformers, f'{kind}ForConditionalGeneration')(config), 0.1)


def theirs(module, ids, mask):
  """Every tap, of a text with its image tokens."""
  taps, vision, text = {}, module.model.vision_model, module.model.text_model

  def keep(name):
    return lambda _, __, y: taps.__setitem__(name, y[0] if isinstance(y, tuple) else y)

  def keep_scores(i):
    def hook(attention, args, kwargs):
      x = kwargs['hidden_states'] if 'hidden_states' in kwargs else args[0]
      taps[f'attention{i}'] = scores(text.layers[0].self_attn, attention, x, *kwargs['position_embeddings'])

    return hook

  vision.embeddings.register_forward_hook(keep('image/embeddings'))
  for i, layer in enumerate(vision.encoder.layers, 1):
    layer.register_forward_hook(keep(f'image/block{i}'))
  vision.post_layernorm.register_forward_hook(keep('image/tokens'))
  seen = watch([(layer.self_attn.q_proj, layer.self_attn.k_proj) for layer in vision.encoder.layers], 4)
  module.model.connector.register_forward_hook(keep('image_tokens'))
  for i, layer in enumerate(text.layers, 1):
    layer.register_forward_hook(keep(f'block{i}'))
    layer.self_attn.register_forward_pre_hook(keep_scores(i), with_kwargs=True)
  text.layers[0].register_forward_pre_hook(lambda _, x: taps.__setitem__('embeddings', x[0]))
  text.norm.register_forward_hook(keep('tokens'))
  pixels = torch.tensor(IMAGE.transpose(0, 3, 1, 2) / 127.5 - 1).float()[:, None]
  with torch.no_grad():
    inputs = {'input_ids': torch.tensor(ids).long(), 'attention_mask': torch.tensor(mask).long()}
    taps['logits'] = module(**inputs, pixel_values=pixels).logits
  taps |= {f'image/{k}': v for k, v in seen().items()} | {'image/embed': taps['image/tokens'].mean(1)}
  last = torch.tensor(np.max(np.where(mask, np.arange(mask.shape[1]), 0), 1))
  taps['embed'] = taps['tokens'][torch.arange(3), last]
  likelihood = taps['logits'].log_softmax(-1)[:, :-1].gather(-1, torch.tensor(ids[:, 1:, None]).long())
  taps['likelihood'] = torch.nn.functional.pad(likelihood[..., 0], (0, 1))
  taps |= {'words': text.embed_tokens.weight[None], 'head': module.lm_head.weight[None]}
  return taps | {'best': taps['logits'].argmax(-1)}


def texts():
  mask = np.arange(11) < LENGTHS[:, None]
  return (np.random.default_rng(1).integers(1, TOKEN, (3, 11)) * mask).astype(np.int32), mask


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('kind', ['SmolVLM', 'Idefics3'])
def test_image_tokens_within_the_text(saved, agree, randomised, kind, tied):
  module, (ids, mask) = model(kind, randomised, tied), texts()
  for row, start in enumerate((0, 1, 3)):
    ids[row, start : start + COUNT] = TOKEN
  expected = theirs(module, ids, mask)
  batch = {'image': IMAGE, 'text': ids, 'text/mask': mask}
  agree(saved('vision_language', {'prefix': False}, module, batch), expected)


def test_empty_places_before_the_text(published, agree, randomised):
  """A text with image tokens gives the same with the places before it, whose scores nothing reads."""
  module, (ids, mask) = model('SmolVLM', randomised, False), texts()
  ids[:, 1 : 1 + COUNT] = TOKEN
  expected = theirs(module, ids, mask)
  agree(published('vision_language', module, {'image': IMAGE, 'text': ids, 'text/mask': mask}), expected)


def test_an_image_before_the_text(published, agree, randomised):
  module, (ids, mask) = model('SmolVLM', randomised, False), texts()
  longer = np.concatenate([np.full((3, COUNT), TOKEN, np.int32), ids], 1)
  expected = theirs(module, longer, np.pad(mask, ((0, 0), (COUNT, 0)), constant_values=True))
  for name, x in expected.items():
    if name.startswith('attention'):
      expected[name] = x[..., COUNT:, COUNT:]
    elif not name.startswith('image') and name not in ('embed', 'words', 'head'):
      expected[name] = x[:, COUNT:]
  agree(published('vision_language', module, {'image': IMAGE, 'text': ids, 'text/mask': mask}), expected)
