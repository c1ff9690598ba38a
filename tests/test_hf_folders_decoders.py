"""Decoders of the Llama family: the cache, positions, heads, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import hf_folders
from hf_folder_cases import CASES, TEXT, saved
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.models.text.llama import frequencies
from kdjax.nn import generate


@pytest.mark.parametrize('name', ['llama', 'mistral', 'gemma3_text'])
def test_a_decoder_goes_on_with_a_text(tmp_path, name):
  """The likeliest tokens by the cache are those of a forward pass of the whole text for each."""
  saved(tmp_path, name)
  _, net, variables = hf_folders.load(tmp_path, TEXT)
  prompts = {'text': jnp.array([[3, 4, 5, 0], [6, 7, 0, 0]]), 'id': jnp.arange(2)}
  prompts['text/mask'] = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]])
  apply = jax.jit(net.apply)
  write = generate.make_generate(lambda v, batch: (net.apply(v, batch), {}), 19, 6, temperature=0)
  written = jax.jit(write)(variables, prompts, jax.random.key(0))
  for row, length in enumerate((3, 2)):
    text = np.zeros((1, 12), np.int32)
    text[0, :length] = prompts['text'][row, :length]
    for n in range(int(written.mask[row].sum())):
      mask = np.arange(12)[None] < length
      taps = apply(variables, {'text': text, 'text/mask': mask})
      assert taps['best'][0, length - 1] == written.ids[row, n]
      text[0, length], length = written.ids[row, n], length + 1
  assert written.mask.sum() > 4
  with pytest.raises(KdjaxError, match='a text of 13 tokens is longer than the 12 positions'):
    jax.eval_shape(net.apply, variables, {'text': jnp.ones((1, 13), jnp.int32)})


def test_the_scaling_of_positions():
  """Fast turns are kept, slow ones divided by the factor, those between in part."""
  plain, scaled = frequencies(64, 1e4), frequencies(64, 1e4, (8.0, 1.0, 4.0, 8192.0))
  turns = 8192 * plain / (2 * np.pi)
  np.testing.assert_allclose(scaled[turns > 4], plain[turns > 4])
  np.testing.assert_allclose(scaled[turns < 1], plain[turns < 1] / 8)
  between = (turns > 1) & (turns < 4)
  assert between.any() and (scaled[between] < plain[between]).all()
  assert (scaled[between] > plain[between] / 8).all()
  np.testing.assert_allclose(frequencies(64, 1e4, (2.0,)), plain / 2)


ROPE = {'rope_type': 'llama3', 'factor': 8.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}


@pytest.mark.parametrize(
  'name, changes, attributes',
  [
    ('llama', {'rope_theta': 5e5, 'rope_scaling': None}, {'theta': 5e5, 'scaling': ()}),
    ('llama', {'rope_scaling': {'type': 'linear', 'factor': 2.0}}, {'scaling': (2.0,)}),
    (
      'llama',
      {'rope_scaling': ROPE | {'original_max_position_embeddings': 8192}},
      {'scaling': (8.0, 1.0, 4.0, 8192.0)},
    ),
    ('llama', {'attention_bias': True}, {'bias': 'all'}),
    ('mistral', {'sliding_window': None}, {'tied': False}),
    ('mistral', {}, {'window': 3, 'full_every': 0}),
    ('gemma2', {}, {'window': 3, 'full_every': 2, 'cap': 50.0, 'last_cap': 30.0, 'act': 'gelu_pytorch_tanh'}),
    ('gemma3_text', {}, {'full_every': 6, 'theta': 1e6, 'local_theta': 1e4, 'scale': 4}),
    (
      'gemma3_text',
      {'num_hidden_layers': 2, 'layer_types': ['sliding_attention', 'full_attention']},
      {'full_every': 2},
    ),
  ],
)
def test_the_config_of_a_decoder(tmp_path, name, changes, attributes):
  hf_folders.write(tmp_path, {'x': (1,)}, CASES[name][2] | changes)
  config = pretrained.complete(str(tmp_path), {'model': 'llama'})
  assert config | attributes == config
  assert 'window' in config or 'window' not in attributes


@pytest.mark.parametrize(
  'name, changes, match',
  [
    ('llama', {'rope_scaling': {'rope_type': 'yarn', 'factor': 4.0}}, "unknown rope_type in .*: 'yarn'"),
    ('llama', {'rope_scaling': {'rope_type': 'llama3', 'factor': 4.0}}, 'low_freq_factor is None'),
    ('llama', {'rope_theta': 'x'}, "rope_theta is 'x'; it has to be a number from 1"),
    ('llama', {'mlp_bias': True}, 'mlp_bias True; the model llama has False only'),
    ('llama', {'partial_rotary_factor': 0.5}, 'partial_rotary_factor 0.5; the model llama has 1.0 only'),
    ('qwen2', {'use_sliding_window': True}, 'use_sliding_window True; the model llama has False only'),
    ('gemma3_text', {'layer_types': ['linear_attention']}, 'layer_types in no order'),
    ('llama', {'model_type': 'phi3'}, "unknown model_type for the model llama: 'phi3'"),
    ('llama', {'model_type': None}, "unknown model_type for the model llama: ''"),
  ],
)
def test_a_config_of_a_decoder_that_is_refused(tmp_path, name, changes, match):
  hf_folders.write(tmp_path, {'x': (1,)}, CASES[name][2] | changes)
  with pytest.raises(KdjaxError, match=match) as error:
    pretrained.complete(str(tmp_path), {'model': 'llama'})
  assert '\n' not in str(error.value)


def test_the_head_of_a_decoder(tmp_path):
  _, tensors, batch, _ = saved(tmp_path, 'qwen2')
  tied = tensors | {'lm_head.weight': tensors['model.embed_tokens.weight']}
  save_file(tied, tmp_path / 'model.safetensors')
  hf_folders.load(tmp_path, batch)
  save_file(tensors | {'lm_head.weight': np.ones((20, 8), np.float32)}, tmp_path / 'model.safetensors')
  with pytest.raises(KdjaxError, match='lm_head.weight is not embed_tokens.weight'):
    hf_folders.load(tmp_path, batch)
