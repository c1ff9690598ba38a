"""Decoders of the Llama family against transformers."""

import importlib

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SIZES = {'vocab_size': 50, 'hidden_size': 32, 'num_attention_heads': 4, 'num_key_value_heads': 2}
SIZES |= {'num_hidden_layers': 3, 'intermediate_size': 48, 'max_position_embeddings': 40}
LENGTHS = np.array([9, 4, 7])
LLAMA3 = {'rope_type': 'llama3', 'factor': 4.0, 'low_freq_factor': 1.0, 'high_freq_factor': 4.0}
LLAMA3 |= {'original_max_position_embeddings': 16, 'rope_theta': 500.0}
LINEAR = {'rope_type': 'linear', 'factor': 2.0, 'rope_theta': 500.0}
WINDOW = {'head_dim': 16, 'sliding_window': 3, 'query_pre_attn_scalar': 20}
LOCAL = {'full_attention': LINEAR, 'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0}}
CASES = {
  'llama': ('Llama', {}),
  'smollm': ('Llama', {'tie_word_embeddings': True, 'rope_parameters': {'rope_theta': 100.0}}),
  'llama3': ('Llama', {'rope_parameters': LLAMA3, 'attention_bias': True}),
  'linear': ('Llama', {'rope_parameters': LINEAR, 'head_dim': 6}),
  'mistral': ('Mistral', {'sliding_window': 3}),
  'qwen2': ('Qwen2', {'tie_word_embeddings': True}),
  'qwen3': ('Qwen3', {'head_dim': 16}),
  'gemma': ('Gemma', {'head_dim': 16}),
  'gemma2': ('Gemma2', WINDOW | {'attn_logit_softcapping': 2.0, 'final_logit_softcapping': 3.0}),
  'gemma3': ('Gemma3', WINDOW | {'layer_types': ['sliding_attention'] * 2 + ['full_attention']}),
  'gemma3_rope': ('Gemma3', WINDOW | {'rope_parameters': LOCAL, 'sliding_window_pattern': 2}),
}


def scores(module, attention, x, cos, sin):
  """What the softmax gets but for the mask, from the input of an attention."""
  file = importlib.import_module(module.__class__.__module__)
  q, k = (f(x).unflatten(-1, (-1, attention.head_dim)) for f in (attention.q_proj, attention.k_proj))
  if hasattr(attention, 'q_norm'):
    q, k = attention.q_norm(q), attention.k_norm(k)
  q, k = file.apply_rotary_pos_emb(q.transpose(1, 2), k.transpose(1, 2), cos, sin)
  y = q @ k.repeat_interleave(2, 1).transpose(-1, -2) * attention.scaling
  cap = getattr(attention, 'attn_logit_softcapping', None)
  return (y / cap).tanh() * cap if cap else y


@pytest.mark.parametrize('name', CASES)
def test_every_tap(published, agree, randomised, name):
  kind, changes = CASES[name]
  sizes = SIZES | changes | {'attn_implementation': 'eager', 'pad_token_id': 0}
  config = getattr(transformers, f'{kind}TextConfig' if kind == 'Gemma3' else f'{kind}Config')(**sizes)
  module = randomised(getattr(transformers, f'{kind}ForCausalLM')(config), 0.2)
  mask = np.arange(9) < LENGTHS[:, None]
  ids = (np.random.default_rng(0).integers(0, 50, (3, 9)) * mask).astype(np.int32)
  theirs = {}

  def keep(i):
    def hook(attention, args, kwargs):
      x = kwargs['hidden_states'] if 'hidden_states' in kwargs else args[0]
      theirs[f'attention{i}'] = scores(module, attention, x, *kwargs['position_embeddings'])

    return hook

  for i, layer in enumerate(module.model.layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
    layer.self_attn.register_forward_pre_hook(keep(i), with_kwargs=True)
  module.model.layers[0].register_forward_pre_hook(lambda _, x: theirs.__setitem__('embeddings', x[0]))
  module.model.norm.register_forward_hook(lambda _, __, y: theirs.__setitem__('tokens', y))
  with torch.no_grad():
    inputs = {'input_ids': torch.tensor(ids).long(), 'attention_mask': torch.tensor(mask).long()}
    theirs['logits'] = module(**inputs).logits
  theirs['embed'] = theirs['tokens'][torch.arange(3), torch.tensor(LENGTHS - 1)]
  likelihood = theirs['logits'].log_softmax(-1)[:, :-1].gather(-1, torch.tensor(ids[:, 1:, None]).long())
  theirs['likelihood'] = torch.nn.functional.pad(likelihood[..., 0], (0, 1))
  theirs['best'] = theirs['logits'].argmax(-1)
  theirs['words'], theirs['head'] = module.model.embed_tokens.weight[None], module.lm_head.weight[None]
  agree(published('llama', module, {'text': ids, 'text/mask': mask}), theirs)
