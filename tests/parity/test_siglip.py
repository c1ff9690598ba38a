"""SigLIP and SigLIP 2 against transformers."""

import json

import numpy as np
import pytest
from attention_scores import watch

from kdjax.pretrained import texts

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SIZES = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3)).astype(np.uint8)
IDS = np.random.default_rng(1).integers(0, 50, (3, 12)).astype(np.int32)


def tower(module, name, taps):
  """Hooks that keep what the taps of one tower are."""
  layers = module.encoder.layers
  for i, layer in enumerate(layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: taps.__setitem__(f'{name}/block{i}', y[0] if isinstance(y, tuple) else y)
    )
  module.embeddings.register_forward_hook(lambda _, __, y: taps.__setitem__(f'{name}/embeddings', y))
  return watch([(layer.self_attn.q_proj, layer.self_attn.k_proj) for layer in layers], 4)


@pytest.mark.parametrize('wider', [False, True])
def test_every_tap(saved, agree, randomised, wider):
  """The text tower as wide as the image tower, or wider and projected."""
  words = {'vocab_size': 50, 'max_position_embeddings': 12}
  if wider:
    words |= {'hidden_size': 40, 'projection_size': 32, 'hidden_act': 'gelu'}
  config = transformers.SiglipConfig(
    text_config=SIZES | words,
    vision_config=SIZES | {'image_size': 24, 'patch_size': 8, 'num_hidden_layers': 3},
  )
  module = randomised(transformers.SiglipModel(config))
  compared(saved, agree, module, {})


def compared(saved, agree, module, changes):
  """`changes` are the arguments of the image tower that differ from those of SigLIP."""
  taps, vision, text = {}, module.vision_model, module.text_model
  scores = {'image': tower(vision, 'image', taps), 'text': tower(text, 'text', taps)}
  pixels = {'pixel_values': torch.tensor(IMAGE.transpose(0, 3, 1, 2) / 127.5 - 1).float()} | changes
  with torch.no_grad():
    pairs = module(input_ids=torch.tensor(IDS).long(), **pixels).logits_per_image
    seen, read = vision(**pixels), text(torch.tensor(IDS).long())
  for name, result in (('image', seen), ('text', read)):
    taps |= {f'{name}/tokens': result.last_hidden_state, f'{name}/embed': result.pooler_output}
    taps |= {f'{name}/{k}': v for k, v in scores[name]().items()}
  taps |= {'logit_scale': module.logit_scale[0], 'logit_bias': module.logit_bias[0]}
  ours = saved('siglip', {}, module, {'image': IMAGE, 'text': IDS, 'text/mask': IDS > 10})
  agree(ours, taps)
  a, b = (np.asarray(ours[k]) for k in ('image/embed', 'text/embed'))
  cosine = (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
  logits = np.exp(ours['logit_scale']) * cosine + ours['logit_bias']
  np.testing.assert_allclose(logits, pairs.numpy(), atol=1e-4)


def test_every_tap_of_siglip2(saved, agree, randomised, tmp_path):
  """The checkpoints of one resolution are SigLIP's, with a vocabulary of Gemma's size."""
  words = {'vocab_size': 256_000, 'max_position_embeddings': 12, 'hidden_size': 8, 'projection_size': 32}
  config = transformers.SiglipConfig(
    text_config=SIZES | words, vision_config=SIZES | {'image_size': 24, 'patch_size': 8}
  )
  compared(saved, agree, randomised(transformers.SiglipModel(config)), {})


def test_every_tap_of_naflex(saved, agree, randomised):
  """Patches in place of images, of a square of as many as it was trained on."""
  config = transformers.Siglip2Config(
    text_config=SIZES | {'vocab_size': 50, 'max_position_embeddings': 12},
    vision_config=SIZES | {'num_patches': 9, 'patch_size': 8},
  )
  module = randomised(transformers.Siglip2Model(config))
  patches = (IMAGE / 127.5 - 1).reshape(3, 3, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(3, 9, -1)
  changes = {'pixel_values': torch.tensor(patches).float(), 'spatial_shapes': torch.tensor([[3, 3]] * 3)}
  compared(saved, agree, module, changes | {'pixel_attention_mask': torch.ones(3, 9).long()})


def test_the_texts_of_siglip2(tmp_path):
  """As published: the tokenizer.json of Gemma, and a library that makes the texts lower case."""
  words = ['<pad>', '<eos>', '<bos>', '<unk>', '<mask>', '▁', *'abcdert', 'at', 'cat', 'red']
  merges = [('a', 't'), ('c', 'at'), ('r', 'e'), ('re', 'd')]
  vocabulary = {w: i for i, w in enumerate([*words, 're'])}
  theirs = transformers.Siglip2Tokenizer(vocab=vocabulary, merges=merges)
  theirs.save_pretrained(tmp_path)
  state = json.loads((tmp_path / 'tokenizer.json').read_text())
  state['normalizer'] = {'type': 'Replace', 'pattern': {'String': ' '}, 'content': '▁'}
  (tmp_path / 'tokenizer.json').write_text(json.dumps(state))
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'siglip'}))
  for kind in ('GemmaTokenizer', 'Siglip2Tokenizer'):
    settings = {'tokenizer_class': kind, 'pad_token': '<pad>'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
    ours = texts.load(tmp_path / 'tokenizer.json')
    for text in ('A Red CAT', 'the cat', 'RED'):
      assert ours.encode(text).ids == theirs(text).input_ids
