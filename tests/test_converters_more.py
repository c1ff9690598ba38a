"""The names and layouts of SigLIP, GPT-2, Whisper and AST checkpoints, on random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import hf_folders
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.models.audio.whisper_encoder import sinusoids
from kdjax.nn import functional
from kdjax.pretrained import ast, gpt2, images, siglip, whisper_encoder

RNG = np.random.default_rng(0)


def dense(*names, into=8, out=8):
  return {f'{n}.{leaf}': shape for n in names for leaf, shape in (('weight', (out, into)), ('bias', (out,)))}


def norms(*names):
  return {f'{n}.{leaf}': (8,) for n in names for leaf in ('weight', 'bias')}


def mlp(first, second):
  return dense(first, out=12) | dense(second, into=12)


def tower(prefix, n):
  collected = {}
  for i in range(n):
    at = f'{prefix}.{i}.'
    collected |= dense(*(f'{at}self_attn.{k}' for k in ('q_proj', 'k_proj', 'v_proj', 'out_proj')))
    collected |= norms(f'{at}layer_norm1', f'{at}layer_norm2') | mlp(f'{at}mlp.fc1', f'{at}mlp.fc2')
  return collected


def siglip_tensors():
  head = 'vision_model.head.'
  wanted = tower('vision_model.encoder.layers', 2) | tower('text_model.encoder.layers', 1)
  wanted |= norms('vision_model.post_layernorm', 'text_model.final_layer_norm', f'{head}layernorm')
  wanted |= mlp(f'{head}mlp.fc1', f'{head}mlp.fc2') | dense(f'{head}attention.out_proj', 'text_model.head')
  return wanted | {
    f'{head}probe': (1, 1, 8),
    f'{head}attention.in_proj_weight': (24, 8),
    f'{head}attention.in_proj_bias': (24,),
    'vision_model.embeddings.patch_embedding.weight': (8, 3, 8, 8),
    'vision_model.embeddings.patch_embedding.bias': (8,),
    'vision_model.embeddings.position_embedding.weight': (4, 8),
    'vision_model.embeddings.position_ids': (1, 4),
    'text_model.embeddings.token_embedding.weight': (20, 8),
    'text_model.embeddings.position_embedding.weight': (6, 8),
    'logit_scale': (1,),
    'logit_bias': (1,),
  }


def gpt2_tensors():
  wanted = {'wte.weight': (20, 8), 'wpe.weight': (7, 8)} | norms('ln_f')
  for i in range(2):
    at = f'h.{i}.'
    wanted |= norms(f'{at}ln_1', f'{at}ln_2') | {f'{at}attn.bias': (1, 1, 7, 7), f'{at}attn.masked_bias': ()}
    for name, into, out in (('attn.c_attn', 8, 24), ('attn.c_proj', 8, 8), ('mlp.c_fc', 8, 12)):
      wanted |= {f'{at}{name}.weight': (into, out), f'{at}{name}.bias': (out,)}
    wanted |= {f'{at}mlp.c_proj.weight': (12, 8), f'{at}mlp.c_proj.bias': (8,)}
  return {f'transformer.{name}': shape for name, shape in wanted.items()}


def whisper_tensors():
  wanted = {'conv1.weight': (8, 5, 3), 'conv2.weight': (8, 8, 3), 'embed_positions.weight': (6, 8)}
  wanted |= {'conv1.bias': (8,), 'conv2.bias': (8,)} | norms('layer_norm')
  for i in range(2):
    at = f'layers.{i}.'
    wanted |= dense(*(f'{at}self_attn.{k}' for k in ('q_proj', 'k_proj', 'v_proj', 'out_proj')))
    del wanted[f'{at}self_attn.k_proj.bias']
    wanted |= norms(f'{at}self_attn_layer_norm', f'{at}final_layer_norm') | mlp(f'{at}fc1', f'{at}fc2')
  wanted = {f'model.encoder.{name}': shape for name, shape in wanted.items()}
  return wanted | {'model.decoder.layers.0.fc1.weight': (3, 2), 'proj_out.weight': (20, 8)}


def ast_tensors():
  wanted = norms('layernorm')
  for i in range(2):
    at = f'encoder.layer.{i}.'
    wanted |= dense(*(f'{at}attention.attention.{k}' for k in ('query', 'key', 'value')))
    wanted |= dense(f'{at}attention.output.dense') | mlp(f'{at}intermediate.dense', f'{at}output.dense')
    wanted |= norms(f'{at}layernorm_before', f'{at}layernorm_after')
  wanted |= {'embeddings.cls_token': (1, 1, 8), 'embeddings.distillation_token': (1, 1, 8)}
  wanted['embeddings.position_embeddings'] = (1, 2 + 2 * 3, 8)
  wanted |= {
    'embeddings.patch_embeddings.projection.weight': (8, 1, 4, 4),
    'embeddings.patch_embeddings.projection.bias': (8,),
  }
  wanted = {f'audio_spectrogram_transformer.{name}': shape for name, shape in wanted.items()}
  return wanted | norms('classifier.layernorm') | dense('classifier.dense', out=5)


HF = {'hidden_size': 8, 'num_attention_heads': 2, 'intermediate_size': 12, 'patch_size': 8}
WORDS = HF | {'num_hidden_layers': 1, 'vocab_size': 20, 'max_position_embeddings': 6, 'projection_size': 8}
SIGLIP = {'model_type': 'siglip', 'vision_config': HF | {'num_hidden_layers': 2}, 'text_config': WORDS}
GPT2 = {'n_embd': 8, 'n_layer': 2, 'n_head': 2, 'n_inner': 12, 'n_positions': 7, 'vocab_size': 20}
WHISPER = {'model_type': 'whisper', 'd_model': 8, 'encoder_layers': 2, 'encoder_attention_heads': 2}
WHISPER |= {'encoder_ffn_dim': 12, 'max_source_positions': 6, 'activation_function': 'gelu'}
AST = HF | {'model_type': 'audio-spectrogram-transformer', 'num_hidden_layers': 2, 'patch_size': 4}
AST |= {'time_stride': 2, 'frequency_stride': 3}
IMAGE = {'image': jnp.zeros((1, 16, 16, 3), jnp.uint8)}
TEXT = {'text': jnp.ones((1, 6), jnp.int32)}
CASES = {  # tensors, config.json, batch, attributes
  'siglip': (siglip_tensors(), SIGLIP, IMAGE | TEXT, {}),
  'gpt2': (gpt2_tensors(), GPT2, TEXT, {}),
  'whisper_encoder': (whisper_tensors(), WHISPER, {'mel': jnp.zeros((1, 12, 5))}, {}),
  'ast': (ast_tensors(), AST, {'mel': jnp.zeros((1, 9, 8))}, {'num_classes': 5}),
}


def saved(folder, name):
  """(tensors, the folder's path, the completed config, the shapes it wants) of a checkpoint made up."""
  wanted, message, batch, inputs = CASES[name]
  tensors = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in wanted.items()}
  (folder / 'config.json').write_text(json.dumps(message))
  save_file({k: np.ascontiguousarray(x) for k, x in tensors.items()}, folder / 'model.safetensors')
  model = pretrained.complete(str(folder), {'model': name, **inputs})
  like = jax.eval_shape(build.module(model, {}).init, jax.random.key(0), batch)
  return tensors, str(folder), model, like


@pytest.mark.parametrize('name', CASES)
def test_missing_extra_and_of_another_shape(tmp_path, name):
  tensors, path, model, like = saved(tmp_path, name)
  pretrained.load(path, model, like)

  def refuse(match, changed):
    save_file(changed, tmp_path / 'model.safetensors')
    with pytest.raises(KdjaxError, match=match) as error:
      pretrained.load(path, model, like)
    assert '\n' not in str(error.value)

  read = [k for k in tensors if not k.startswith(('model.decoder', 'proj_out')) and 'position_ids' not in k]
  read = [k for k in read if not k.endswith(('attn.bias', 'masked_bias'))]
  for key in read:
    refuse('1 missing|3 missing|2 missing', {k: x for k, x in tensors.items() if k != key})
  refuse(r'is not of this architecture: 1 extra \(another.weight\)', tensors | {'another.weight': np.ones(2)})
  for key in read:
    x = tensors[key]
    wrong = 'is not of this architecture|[0-9] classes, and'
    refuse(wrong, tensors | {key: np.zeros((*x.shape[:-1], x.shape[-1] + 1))})


def test_siglip(tmp_path):
  tensors, path, model, like = saved(tmp_path, 'siglip')
  assert model['image'] == {
    'model': 'siglip_image',
    'width': 8,
    'depth': 2,
    'heads': 2,
    'mlp': 12,
    'patch': 8,
  }
  assert 'project' not in model['text'] and model['text']['positions'] == 6
  loaded = pretrained.load(path, model, like)['params']
  fused = tensors['vision_model.head.attention.in_proj_weight']
  np.testing.assert_array_equal(loaded['image']['pool']['key']['kernel'], fused[8:16].T)
  np.testing.assert_array_equal(loaded['text']['project']['kernel'], tensors['text_model.head.weight'].T)
  assert loaded['logit_bias'] == tensors['logit_bias'][0] and loaded['logit_scale'].shape == ()
  wider = SIGLIP | {'text_config': WORDS | {'projection_size': 24}}
  assert siglip.config(wider, tmp_path)['text']['project'] == 24
  with pytest.raises(KdjaxError, match='vision_use_head is false'):
    siglip.config({'vision_config': {'vision_use_head': False}}, tmp_path)
  with pytest.raises(KdjaxError, match="unknown model_type for the model siglip: 'clip'"):
    siglip.config({'model_type': 'clip'}, tmp_path)
  with pytest.raises(KdjaxError, match='an image of 15×16 does not divide into patches of 8×8'):
    jax.eval_shape(
      build.module(model, {}).init, jax.random.key(0), TEXT | {'image': jnp.zeros((1, 15, 16, 3))}
    )
  with pytest.raises(KdjaxError, match='a text of 7 tokens is longer than the 6 positions'):
    long = IMAGE | {'text': jnp.ones((1, 7), jnp.int32)}
    jax.eval_shape(build.module(model, {}).init, jax.random.key(0), long)


def test_the_naflex_of_siglip_2(tmp_path):
  """Its patches are rows of pixels, red, green and blue of each, through a dense layer."""
  changes = {'model_type': 'siglip2', 'vision_config': SIGLIP['vision_config'] | {'num_patches': 4}}
  name = 'vision_model.embeddings.patch_embedding.weight'
  tensors = {k: RNG.normal(size=shape).astype(np.float32) for k, shape in siglip_tensors().items()}
  tensors[name] = RNG.normal(size=(8, 8 * 8 * 3)).astype(np.float32)
  hf_folders.write(tmp_path, {'x': (1,)}, SIGLIP | changes)
  save_file(tensors, tmp_path / 'model.safetensors')
  preprocessor = {'max_num_patches': 4, 'patch_size': 8, 'resample': 2, 'image_mean': [0.4] * 3}
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
  assert pretrained.architecture(str(tmp_path)) == {'model': 'siglip'}
  config, _, variables = hf_folders.load(tmp_path, IMAGE | TEXT)
  assert config['image']['mean'] == (0.4,) * 3
  kernel = variables['params']['image']['patch']['kernel']
  np.testing.assert_array_equal(kernel[2, 5, 1], tensors[name][:, (2 * 8 + 5) * 3 + 1])
  reading = images.read({}, tmp_path)
  assert reading.size == (16, 16) and reading.resizing == 'bilinear, with the proportions kept'
  with pytest.raises(KdjaxError, match='has positions for 4 patches .* have 6: set data.image_size=16'):
    hf_folders.load(tmp_path, TEXT | {'image': jnp.zeros((1, 16, 24, 3))})
  with pytest.raises(KdjaxError, match='num_patches 5, which are no square: take a SigLIP 2 of one'):
    siglip.config({'model_type': 'siglip2', 'vision_config': {'num_patches': 5}}, tmp_path)


def test_gpt2(tmp_path):
  tensors, path, model, like = saved(tmp_path, 'gpt2')
  loaded = pretrained.load(path, model, like)['params']
  block = loaded['block2']
  fused = tensors['transformer.h.1.attn.c_attn.weight']
  np.testing.assert_array_equal(block['attention']['value']['kernel'], fused[:, 16:])
  np.testing.assert_array_equal(block['mlp_in']['kernel'], tensors['transformer.h.1.mlp.c_fc.weight'])
  np.testing.assert_array_equal(block['mlp_out']['kernel'], tensors['transformer.h.1.mlp.c_proj.weight'])
  tied = tensors | {'lm_head.weight': tensors['transformer.wte.weight']}
  assert gpt2.convert(tied, model).keys() == gpt2.convert(tensors, model).keys()
  with pytest.raises(KdjaxError, match='lm_head.weight is not wte.weight'):
    gpt2.convert(tensors | {'lm_head.weight': np.ones((20, 8))}, model)
  assert gpt2.config({'n_embd': 8, 'n_inner': None}, tmp_path) == {'width': 8, 'mlp': 32}
  with pytest.raises(KdjaxError, match='scale_attn_by_inverse_layer_idx is True in the config.json'):
    gpt2.config({'scale_attn_by_inverse_layer_idx': True}, tmp_path)
  with pytest.raises(KdjaxError, match="unknown model_type for the model gpt2: 'gptj'"):
    gpt2.config({'model_type': 'gptj'}, tmp_path)


def test_gpt2_sees_nothing_of_what_follows():
  config = {'model': 'gpt2', 'vocab_size': 20, 'width': 8, 'depth': 2, 'heads': 2, 'mlp': 12, 'positions': 7}
  net = build.module(config, {})
  ids, mask = jnp.array([[3, 4, 5, 6, 0]]), jnp.array([[1, 1, 1, 1, 0]])
  like, apply = jax.eval_shape(net.init, jax.random.key(0), {'text': ids}), jax.jit(net.apply)
  variables = jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), like)
  taps = apply(variables, {'text': ids, 'text/mask': mask})
  other = apply(variables, {'text': np.array([[3, 4, 5, 9, 9]]), 'text/mask': mask})
  np.testing.assert_allclose(taps['logits'][:, :3], other['logits'][:, :3], atol=1e-5)
  assert np.abs(taps['logits'][:, 3] - other['logits'][:, 3]).max() > 1e-3
  np.testing.assert_array_equal(taps['embed'], taps['tokens'][:, 3])
  assert taps['logits'].shape == (1, 5, 20)


def test_whisper_encoder(tmp_path):
  tensors, path, model, like = saved(tmp_path, 'whisper_encoder')
  loaded = pretrained.load(path, model, like)
  kernel = tensors['model.encoder.conv1.weight']
  np.testing.assert_array_equal(loaded['params']['conv1']['kernel'][:, 0], kernel.transpose(2, 1, 0))
  np.testing.assert_array_equal(
    loaded['buffers']['positions'], tensors['model.encoder.embed_positions.weight']
  )
  assert not loaded['params']['block2']['attention']['key']['bias'].any()
  bare = {k.removeprefix('model.'): x for k, x in tensors.items()}
  assert (
    whisper_encoder.convert(bare, {'num_classes': None}).keys()
    == whisper_encoder.convert(tensors, {'num_classes': None}).keys()
  )
  with pytest.raises(KdjaxError, match="unknown model_type for the model whisper_encoder: 'wav2vec2'"):
    whisper_encoder.config({'model_type': 'wav2vec2'}, tmp_path)
  net = build.module(model, {})
  with pytest.raises(KdjaxError, match='13 mel frames are more than the model reads: cut them to 12, or set'):
    jax.eval_shape(net.init, jax.random.key(0), {'mel': jnp.zeros((1, 13, 5))})
  mel = jnp.array(RNG.normal(size=(2, 11, 5)), jnp.float32)
  mask = jnp.arange(11) < jnp.array([[11], [5]])
  taps = jax.jit(net.apply)(loaded, {'mel': mel, 'mel/mask': mask})
  assert taps['tokens'].shape == (2, 6, 8)
  np.testing.assert_allclose(taps['embed'][0], taps['tokens'][0].mean(0), atol=1e-5)
  np.testing.assert_allclose(taps['embed'][1], taps['tokens'][1, :3].mean(0), atol=1e-5)


def test_the_positions_of_whisper_are_not_trained():
  angles = np.arange(6)[:, None] / 10000 ** (np.arange(4) / 3)
  np.testing.assert_allclose(sinusoids(6, 8), np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-6)
  config = {'model': 'whisper_encoder', 'width': 8, 'depth': 1, 'heads': 2, 'mlp': 12, 'positions': 6}
  model, batch = functional.functions(build.module(config, {}), {}), {'mel': jnp.ones((1, 12, 5))}
  variables = jax.jit(model.init)(jax.random.key(0), batch)
  assert 'positions' not in variables['params']
  _, stats = jax.jit(lambda v: model.apply(v, batch, train=True, rng=jax.random.key(1)))(variables)
  np.testing.assert_array_equal(stats['buffers']['positions'], variables['buffers']['positions'])


def test_ast(tmp_path):
  tensors, path, model, like = saved(tmp_path, 'ast')
  assert model['time_stride'] == 2 and model['frequency_stride'] == 3 and model['patch'] == 4
  loaded = pretrained.load(path, model, like)['params']
  kernel = tensors['audio_spectrogram_transformer.embeddings.patch_embeddings.projection.weight']
  np.testing.assert_array_equal(loaded['patch']['kernel'], kernel.transpose(2, 3, 1, 0))
  np.testing.assert_array_equal(loaded['head']['linear']['kernel'], tensors['classifier.dense.weight'].T)
  encoder = model | {'num_classes': None}
  assert not any(k.startswith('params/head') for k in ast.convert(tensors, encoder))
  with pytest.raises(KdjaxError, match="unknown model_type for the model ast: 'vit'"):
    ast.config({'model_type': 'vit'}, tmp_path)
  with pytest.raises(
    KdjaxError, match='a spectrogram of 3 frames and 8 mels holds no patch of 4×4: set patch'
  ):
    jax.eval_shape(build.module(model, {}).init, jax.random.key(0), {'mel': jnp.zeros((1, 3, 8))})
