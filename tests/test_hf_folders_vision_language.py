"""SmolVLM and Idefics3: files, tensors, the places of an image's tokens, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import hf_folders
from hf_folders import dense, norms
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.models.multimodal.vision_language import without_prefix
from kdjax.pretrained import images

RNG = np.random.default_rng(0)
IMAGE = {'image': jnp.asarray(RNG.integers(0, 256, (2, 16, 16, 3)), jnp.uint8)}
TEXT = {'text': jnp.array([[3, 5, 6, 2, 0], [4, 7, 0, 0, 0]])}
TEXT |= {'text/mask': jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])}
SIZES = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12}
WORDS = SIZES | {'vocab_size': 20, 'max_position_embeddings': 12, 'num_key_value_heads': 1}
CONFIG = {'model_type': 'smolvlm', 'vision_config': SIZES | {'patch_size': 4}, 'text_config': WORDS}
CONFIG |= {'scale_factor': 2, 'image_token_id': 19}
COUNT = 4  # image tokens, of 4×4 patches


def tensors_of(tied=False):
  """One layer of each tower, 8 wide."""
  at = 'model.vision_model.encoder.layers.0.'
  shapes = dense(*(f'{at}self_attn.{k}' for k in ('q_proj', 'k_proj', 'v_proj', 'out_proj')))
  shapes |= norms(f'{at}layer_norm1', f'{at}layer_norm2', 'model.vision_model.post_layernorm')
  shapes |= dense(f'{at}mlp.fc1', out=12) | dense(f'{at}mlp.fc2', into=12)
  e = 'model.vision_model.embeddings.'
  shapes |= {f'{e}patch_embedding.weight': (8, 3, 4, 4), f'{e}patch_embedding.bias': (8,)}
  shapes |= {f'{e}position_embedding.weight': (16, 8)}
  shapes |= {'model.connector.modality_projection.proj.weight': (8, 32)}
  text = hf_folders.llama(tied=tied)
  return shapes | {k.replace('model.', 'model.text_model.'): x for k, x in text.items()}


def loaded(folder, batch, **changes):
  config = pretrained.complete(str(folder), pretrained.architecture(str(folder)) | changes)
  net = build.module(config, {})
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  return config, jax.jit(net.apply), pretrained.load(str(folder), config, like)


@pytest.mark.parametrize('kind', ['smolvlm', 'idefics3'])
@pytest.mark.parametrize('tied', [False, True])
def test_a_folder(tmp_path, kind, tied):
  config_json = CONFIG | {'model_type': kind, 'tie_word_embeddings': tied}
  tensors = hf_folders.write(tmp_path, tensors_of(tied), config_json)
  assert pretrained.architecture(str(tmp_path)) == {'model': 'vision_language'}
  config, apply, variables = loaded(tmp_path, IMAGE | TEXT)
  assert config['text']['tied'] is tied and config['text']['eps'] == 1e-5 and config['image_token'] == 19
  taps = apply(variables, IMAGE | TEXT)
  assert all(np.isfinite(x).all() for x in taps.values())
  assert taps['logits'].shape == (2, 5, 20) and taps['image_tokens'].shape == (2, COUNT, 8)
  assert taps['attention1'].shape == (2, 2, 5, 5) and taps['image/tokens'].shape == (2, 16, 8)
  sizes = [sum(x.size for x in xs) for xs in (jax.tree.leaves(variables), tensors.values())]
  assert sizes[0] == sizes[1]

  def refuse(match, changed):
    save_file(changed, tmp_path / 'model.safetensors')
    with pytest.raises(KdjaxError, match=match) as error:
      loaded(tmp_path, IMAGE | TEXT)
    assert '\n' not in str(error.value)

  for name in ('another.weight', 'text_model.another.weight', 'vision_model.head.probe'):
    refuse('1 extra', tensors | {f'model.{name}': np.ones(2)})
  for key in list(tensors)[::5]:
    refuse('missing', {k: x for k, x in tensors.items() if k != key})


def test_the_places_of_an_image(tmp_path):
  """Image tokens within the text are those before it; the text sees the image, and not what follows."""
  hf_folders.write(tmp_path, tensors_of(), CONFIG)
  _, apply, variables = loaded(tmp_path, IMAGE | TEXT)
  before = apply(variables, IMAGE | TEXT)
  ids, mask = (
    jnp.pad(TEXT[k], ((0, 0), (COUNT, 0)), constant_values=v) for k, v in (('text', 19), ('text/mask', 1))
  )
  _, inside, _ = loaded(tmp_path, IMAGE | {'text': ids, 'text/mask': mask}, prefix=False)
  within = inside(variables, IMAGE | {'text': ids, 'text/mask': mask})
  for name, x in without_prefix(
    {k: x for k, x in within.items() if not k.startswith('image')}, COUNT
  ).items():
    np.testing.assert_allclose(before[name], x, atol=1e-5, err_msg=name)
  with pytest.raises(KdjaxError, match='a text of 9 tokens behind the 4 of its image .* to 8 or less'):
    jax.eval_shape(apply, variables, IMAGE | {'text': ids, 'text/mask': mask})
  other = IMAGE | {'image': IMAGE['image'][::-1]}
  assert np.abs(apply(variables, other | TEXT)['logits'] - before['logits']).max() > 1e-3
  later = TEXT | {'text': TEXT['text'].at[0, 3].set(9)}
  np.testing.assert_allclose(
    apply(variables, IMAGE | later)['logits'][0, :3], before['logits'][0, :3], atol=1e-5
  )


def test_what_is_refused(tmp_path):
  hf_folders.write(tmp_path, tensors_of(), CONFIG)
  _, apply, variables = loaded(tmp_path, IMAGE | TEXT)

  def refuse(match, batch):
    with pytest.raises(KdjaxError, match=match) as error:
      jax.eval_shape(apply, variables, batch)
    assert '\n' not in str(error.value)

  refuse('cannot go on with a text', IMAGE | TEXT | {'text/at': TEXT['text']})
  config = CONFIG | {'scale_factor': 3}
  hf_folders.write(tmp_path, tensors_of(), config)
  with pytest.raises(
    KdjaxError, match='16 patches of an image are no square whose side divides by shuffle, 3'
  ):
    loaded(tmp_path, IMAGE | TEXT)
  hf_folders.write(tmp_path, {'x': (1,)}, CONFIG | {'vision_config': {'num_channels': 1}})
  with pytest.raises(KdjaxError, match='num_channels 1; the model vision_language has 3 only'):
    pretrained.architecture(str(tmp_path))
  hf_folders.write(tmp_path, {'x': (1,)}, CONFIG | {'text_config': {'model_type': 'mamba'}})
  with pytest.raises(KdjaxError, match="text_config: unknown model_type for the model llama: 'mamba'"):
    pretrained.architecture(str(tmp_path))


def test_the_size_of_one_image(tmp_path):
  """The processor's size is that of an image before it is split; the tower reads max_image_size."""
  sizes = {'size': {'longest_edge': 2048}, 'max_image_size': {'longest_edge': 512}, 'resample': 1}
  files = {'preprocessor_config.json': sizes | {'do_image_splitting': True, 'image_mean': [0.5] * 3}}
  hf_folders.write(tmp_path, {'x': (1,)}, CONFIG, files)
  reading = images.read(CONFIG, tmp_path)
  assert reading.size == (512, 512) and reading.resizing == 'lanczos, in parts and as a whole'
