"""CLIP and SigLIP in the names of open_clip, SigLIP 2, CLAP: files, tensors, texts, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import hf_folders
from hf_folders import dense, norms
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.models.audio import htsat
from kdjax.nn import log_mel
from kdjax.pretrained import find, open_clip, texts

IMAGE = {'image': jnp.zeros((1, 16, 16, 3), jnp.uint8)}
TEXT = {'text': jnp.array([[3, 5, 6, 2, 1, 1]])}
VISION = {'image_size': 16, 'layers': 1, 'width': 8, 'head_width': 4, 'patch_size': 8}
WORDS = {'context_length': 6, 'vocab_size': 20, 'width': 8, 'heads': 2, 'layers': 1}
CLIP = {'embed_dim': 8, 'vision_cfg': VISION, 'text_cfg': WORDS}
PREPROCESS = {'mean': [0.5] * 3, 'std': [0.4] * 3, 'interpolation': 'bilinear', 'resize_mode': 'shortest'}
TIMM = {'image_size': 16, 'timm_model_name': 'vit_tiny_patch8_siglip_16', 'timm_pool': 'map'}
SIGLIP_WORDS = WORDS | {'no_causal_mask': True, 'proj_bias': True, 'pool_type': 'last'}
SIGLIP_WORDS |= {'tokenizer_kwargs': {'clean': 'canonicalize'}}
SIGLIP = {'embed_dim': 8, 'init_logit_bias': -10, 'custom_text': True, 'text_cfg': SIGLIP_WORDS}
SIGLIP |= {'vision_cfg': TIMM | {'timm_proj': 'none'}}


def resblock(prefix):
  at = f'{prefix}transformer.resblocks.0.'
  shapes = norms(f'{at}ln_1', f'{at}ln_2') | dense(f'{at}attn.out_proj')
  shapes |= {f'{at}attn.in_proj_weight': (24, 8), f'{at}attn.in_proj_bias': (24,)}
  return shapes | dense(f'{at}mlp.c_fc', out=32) | dense(f'{at}mlp.c_proj', into=32)


def words(prefix):
  shapes = {f'{prefix}token_embedding.weight': (20, 8), f'{prefix}positional_embedding': (6, 8)}
  return shapes | resblock(prefix) | norms(f'{prefix}ln_final')


def clip():
  """One layer of each tower, 8 wide, in the names of open_clip."""
  shapes = {'visual.conv1.weight': (8, 3, 8, 8), 'visual.class_embedding': (8,), 'visual.proj': (8, 8)}
  shapes |= {'visual.positional_embedding': (5, 8), 'text_projection': (8, 8), 'logit_scale': ()}
  return shapes | resblock('visual.') | norms('visual.ln_pre', 'visual.ln_post') | words('')


def siglip():
  """The same of SigLIP, whose image tower has timm's names."""
  at, pool = 'visual.trunk.blocks.0.', 'visual.trunk.attn_pool.'
  shapes = {'visual.trunk.patch_embed.proj.weight': (8, 3, 8, 8), 'visual.trunk.patch_embed.proj.bias': (8,)}
  shapes |= {'visual.trunk.pos_embed': (1, 4, 8), f'{pool}latent': (1, 1, 8)}
  shapes |= norms(f'{at}norm1', f'{at}norm2', 'visual.trunk.norm', f'{pool}norm')
  shapes |= dense(f'{at}attn.qkv', out=24) | dense(f'{at}attn.proj', f'{pool}q', f'{pool}proj')
  shapes |= dense(f'{pool}kv', out=16)
  for name in (f'{at}mlp.', f'{pool}mlp.'):
    shapes |= dense(f'{name}fc1', out=16) | dense(f'{name}fc2', into=16)
  return shapes | words('text.') | dense('text.text_projection') | {'logit_scale': (), 'logit_bias': ()}


CASES = {'clip': (clip(), CLIP), 'siglip': (siglip(), SIGLIP)}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  monkeypatch.setitem(open_clip.TIMM, 'tiny', (8, 1, 2, 2.0))


def saved(folder, name, **changes):
  """The tensors of a folder that open_clip wrote."""
  shapes, config = CASES[name]
  tensors = hf_folders.write(folder, shapes, {})
  for file in ('config.json', 'model.safetensors'):
    (folder / file).unlink()
  save_file(tensors, folder / 'open_clip_model.safetensors')
  about = {'model_cfg': config | changes, 'preprocess_cfg': PREPROCESS}
  (folder / 'open_clip_config.json').write_text(json.dumps(about))
  return tensors


@pytest.mark.parametrize('name', CASES)
def test_a_folder_of_open_clip(tmp_path, name, capsys):
  tensors = saved(tmp_path, name)
  assert pretrained.architecture(str(tmp_path)) == {'model': name}
  config, net, variables = hf_folders.load(tmp_path, IMAGE | TEXT)
  assert config['image']['mean'] == (0.5, 0.5, 0.5) and config['image']['std'] == (0.4, 0.4, 0.4)
  message = capsys.readouterr().out
  assert 'of open_clip_config.json' in message and 'bilinear, the middle square' in message
  assert all(np.isfinite(x).all() for x in jax.jit(net.apply)(variables, IMAGE | TEXT).values())
  sizes = [sum(x.size for x in xs) for xs in (jax.tree.leaves(variables), tensors.values())]
  assert sizes[0] == sizes[1]

  def refuse(match, changed):
    save_file(changed, tmp_path / 'open_clip_model.safetensors')
    with pytest.raises(KdjaxError, match=match) as error:
      hf_folders.load(tmp_path, IMAGE | TEXT)
    assert '\n' not in str(error.value)

  refuse('[1-3] extra .another.weight', tensors | {'another.weight': np.ones(2)})
  for key in tensors:
    refuse('missing', {k: x for k, x in tensors.items() if k != key})


def test_the_files_of_open_clip(tmp_path):
  """Beside the files of transformers, those are read; a path chooses the others, with their own config."""
  saved(tmp_path, 'clip')
  theirs = tmp_path / 'open_clip_config.json'
  (tmp_path / 'open_clip_pytorch_model.bin').write_bytes(b'')
  files = find.files(str(tmp_path))
  assert files.weights[0].name == 'open_clip_model.safetensors' and files.config == theirs
  (tmp_path / 'open_clip_model.safetensors').rename(tmp_path / 'a.safetensors')
  assert find.files(str(tmp_path)).weights[0].name == 'open_clip_pytorch_model.bin'
  (tmp_path / 'a.safetensors').rename(tmp_path / 'open_clip_model.safetensors')
  with pytest.raises(KdjaxError, match='has no tokenizer.json .* fetch that of hf:openai/clip-vit-base'):
    pretrained.tokenizer(str(tmp_path))
  hf_folders.write(tmp_path, {'x': (1,)}, {'model_type': 'clip'})
  assert find.files(str(tmp_path)).config == tmp_path / 'config.json'
  assert find.files(str(tmp_path / 'open_clip_model.safetensors')).config == theirs


@pytest.mark.parametrize(
  'name, changes, match',
  [
    ('clip', {'vision_cfg': VISION | {'pool_type': 'avg'}}, "pool_type 'avg'; the model clip has 'tok' only"),
    ('clip', {'vision_cfg': VISION | {'layers': [3, 4, 6, 3]}}, 'has a ResNet for its image tower'),
    ('clip', {'vision_cfg': {'timm_model_name': 'convnext_base'}}, "timm_model_name 'convnext_base'"),
    ('clip', {'vision_cfg': VISION | {'ls_init_value': 0.1}}, 'ls_init_value 0.1: the model clip does not'),
    ('clip', {'text_cfg': {'hf_model_name': 'roberta-base'}}, "hf_model_name 'roberta-base'"),
    ('clip', {'text_cfg': WORDS | {'no_causal_mask': True}}, 'no_causal_mask True; the model clip has False'),
    ('clip', {'multimodal_cfg': {'width': 8}}, 'multimodal_cfg'),
    ('clip', {'text_cfg': WORDS | {'width': 0}}, 'width is 0; it has to be a whole number from 1'),
    ('clip', {'text_cfg': 3}, 'has no model_cfg with a vision_cfg and a text_cfg'),
    ('siglip', {'vision_cfg': TIMM | {'timm_pool': 'avg'}}, "timm_pool 'avg'; the model siglip has 'map'"),
    ('siglip', {'text_cfg': WORDS}, "pool_type 'argmax'; the model siglip has 'last' only"),
    (
      'siglip',
      {'vision_cfg': TIMM | {'timm_model_name': 'vit_base_patch16_siglip_gap_224'}},
      "unknown timm_model_name for the model siglip: 'vit_base_patch16_siglip_gap_224'",
    ),
  ],
)
def test_a_config_of_open_clip_that_is_refused(tmp_path, name, changes, match):
  saved(tmp_path, name, **changes)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.architecture(str(tmp_path))
  assert '\n' not in str(error.value)


def made(folder, kind=''):
  """A tokenizer of a few words that knows no capitals."""
  names = ('[UNK]', '<pad>', 'a', 'red', 'cat', ',')
  tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token='[UNK]'))
  tokenizer.normalizer = normalizers.NFC()
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.save(str(folder / 'tokenizer.json'))
  settings = {'pad_token': '<pad>', 'tokenizer_class': kind}
  (folder / 'tokenizer_config.json').write_text(json.dumps(settings))
  return texts.load(folder / 'tokenizer.json')


def test_the_texts_of_siglip(tmp_path):
  """open_clip's are without capitals and marks, those of SigLIP 2 without capitals; others as they are."""
  assert made(tmp_path).encode('A  red_Cat,').ids == [0, 0, 5]
  saved(tmp_path, 'siglip')
  assert made(tmp_path).encode(' A  red_Cat, ').ids == [2, 3, 4]
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'siglip'}))
  assert made(tmp_path).encode('A red Cat,').ids == [0, 3, 0, 5]
  for kind in ('GemmaTokenizer', 'GemmaTokenizerFast', 'Siglip2Tokenizer'):
    tokenizer = made(tmp_path, kind)
    assert tokenizer.encode('A red Cat,').ids == [2, 3, 4, 5] and tokenizer.padding['pad_id'] == 1
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'gemma2'}))
  assert made(tmp_path, 'GemmaTokenizer').encode('A red Cat,').ids == [0, 3, 0, 5]


AUDIO = {'spec_size': 16, 'num_mel_bins': 8, 'patch_embeds_hidden_size': 8, 'depths': [1, 2]}
AUDIO |= {'num_attention_heads': [2, 2], 'window_size': 2, 'patch_size': 4, 'patch_stride': [4, 4]}
ROBERTA = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12}
ROBERTA |= {'vocab_size': 20, 'max_position_embeddings': 9}
CLAP = {'model_type': 'clap', 'audio_config': AUDIO, 'text_config': ROBERTA, 'projection_dim': 6}
PREPROCESSOR = {'feature_size': 8, 'sampling_rate': 8000, 'hop_length': 80, 'fft_window_size': 256}
PREPROCESSOR |= {'max_length_s': 1, 'frequency_min': 50, 'frequency_max': 3500, 'truncation': 'rand_trunc'}
SOUND = {'mel': jnp.zeros((1, 30, 8)), 'text/mask': jnp.ones((1, 6))}


def clap():
  """Two stages of the audio tower, 8 and 16 wide, and one layer of the text tower."""
  at = 'audio_model.audio_encoder.'
  body = {f'{at}{k.removeprefix("swin.")}': x for k, x in hf_folders.swin().items()}
  body = {k.replace('encoder.encoder', 'encoder'): x for k, x in body.items() if 'classifier' not in k}
  body = {k.replace('encoder.layernorm', 'encoder.norm'): x for k, x in body.items() if 'embeddings' not in k}
  body = {k: (9, 2) if k.endswith('bias_table') else x for k, x in body.items()}
  body |= {f'{at}batch_norm.{k}': (8,) for k in ('weight', 'bias', 'running_mean', 'running_var')}
  body |= {f'{at}patch_embed.proj.weight': (8, 1, 4, 4), f'{at}patch_embed.proj.bias': (8,)}
  body |= norms(f'{at}patch_embed.norm') | hf_folders.bert('text_model', dense('text_model.pooler.dense'), 1)
  for name, width in (('audio', 16), ('text', 8)):
    body |= dense(f'{name}_projection.linear1', into=width, out=6)
    body |= dense(f'{name}_projection.linear2', into=6, out=6)
  return body | {'logit_scale_a': (), 'logit_scale_t': ()}


def test_a_folder_of_clap(tmp_path):
  tensors = hf_folders.write(tmp_path, clap(), CLAP, {'preprocessor_config.json': PREPROCESSOR})
  tensors = {k: np.abs(x) if k.endswith('running_var') else x for k, x in tensors.items()}
  buffer = {'text_model.embeddings.position_ids': np.zeros((1, 9), np.int64)}
  save_file(tensors | buffer, tmp_path / 'model.safetensors')
  assert pretrained.architecture(str(tmp_path)) == {'model': 'clap'}
  config, net, variables = hf_folders.load(tmp_path, SOUND | TEXT)
  how = log_mel.settings(config['audio']['mel'])
  assert (how.rate, how.hop, how.n_fft, how.mels, how.low, how.high) == (8000, 80, 256, 8, 50, 3500)
  assert how.length == 100 and how.repeat and how.end and config['text']['offset'] == 2
  taps = jax.jit(net.apply)(variables, SOUND | TEXT)
  assert taps['audio/embed'].shape == taps['text/embed'].shape == (1, 6)
  assert all(np.isfinite(x).all() for x in taps.values())
  sizes = [sum(x.size for x in xs) for xs in (jax.tree.leaves(variables), tensors.values())]
  assert sizes[0] == sizes[1]

  def refuse(match, changed):
    save_file(changed, tmp_path / 'model.safetensors')
    with pytest.raises(KdjaxError, match=match) as error:
      hf_folders.load(tmp_path, SOUND | TEXT)
    assert '\n' not in str(error.value)

  for name in ('another.weight', 'text_model.another.weight', 'audio_model.audio_encoder.another.weight'):
    refuse(f'1 extra .{name}', tensors | {name: np.ones(2)})
  for key in list(tensors)[::5]:
    refuse('missing', {k: x for k, x in tensors.items() if k != key})


@pytest.mark.parametrize(
  'changes, files, match',
  [
    ({'enable_fusion': True}, {}, 'has enable_fusion, .* such as laion/clap-htsat-unfused'),
    ({'patch_stride': [2, 2]}, {}, r'patch_stride \[2, 2\]; the model clap has that of patch_size, 4'),
    ({'enable_patch_layer_norm': False}, {}, 'enable_patch_layer_norm False; the model clap has True only'),
    ({}, {'truncation': 'fusion'}, "truncation 'fusion': take one without fusion"),
    ({}, {'padding': 'repeat'}, "padding 'repeat'; it has to be 'repeatpad' or 'pad'"),
    ({}, {'sampling_rate': 0}, 'sampling_rate is 0; it has to be a whole number from 1'),
  ],
)
def test_a_config_of_clap_that_is_refused(tmp_path, changes, files, match):
  config = CLAP | {'audio_config': AUDIO | changes}
  hf_folders.write(tmp_path, {'x': (1,)}, config, {'preprocessor_config.json': PREPROCESSOR | files})
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.architecture(str(tmp_path))
  assert '\n' not in str(error.value)


def test_the_map_of_a_spectrogram():
  """Time runs through the parts one below the other, and few frames are as many as fill the map."""
  mel = jnp.arange(32.0)[:, None] + 100 * jnp.arange(8)
  image = htsat.folded(mel[None], 16)[0, :, :, 0]
  np.testing.assert_array_equal(image[0], np.arange(16))
  np.testing.assert_array_equal(image[8 + 3], 300 + np.arange(16, 32))
  ramp = htsat.folded(jnp.linspace(0, 1, 9)[None, :, None] * jnp.ones(8), 16)[0, ::8, :, 0].reshape(-1)
  np.testing.assert_allclose(ramp[4:-4], np.linspace(0, 1, 32)[4:-4], atol=0.01)
  assert ramp[0] == 0 and ramp[-1] == 1
  for shape in ((1, 33, 8), (1, 20, 7)):
    with pytest.raises(KdjaxError, match='is not folded into 16×16: side has to be a multiple of the mels'):
      htsat.folded(jnp.zeros(shape), 16)


def test_a_sound_is_repeated_before_its_silence():
  x, mask = jnp.array([[1.0, 2, 3, 9, 9], [1, 2, 3, 4, 5]]), jnp.array([[1, 1, 1, 0, 0], [1] * 5])
  sound, valid = log_mel.repeated(x, mask, 8)
  assert sound.tolist() == [[1, 2, 3, 1, 2, 3, 0, 0], [1, 2, 3, 4, 5, 0, 0, 0]]
  assert valid.sum(1).tolist() == [6, 5]
  assert log_mel.repeated(x, mask, 4)[0].tolist() == [[1, 2, 3, 0], [1, 2, 3, 4]]
  assert log_mel.repeated(x[:, :3], None, 8)[0].shape == (2, 6)
  how = log_mel.PRESETS['clap']._replace(length=4)
  frames = log_mel.frame_mask(jnp.ones((1, 960)), how)
  assert frames.tolist() == [[1, 1, 0, 0, 0]]
  assert log_mel.log_mel(jnp.ones((1, 960)), how).shape == (1, 5, 64)
