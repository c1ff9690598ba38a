"""ModernBERT against transformers."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SMALL = {'vocab_size': 50, 'hidden_size': 32, 'num_hidden_layers': 4, 'num_attention_heads': 4}
SMALL |= {'intermediate_size': 48, 'max_position_embeddings': 20, 'local_attention': 4, 'num_labels': 3}
SMALL |= {'pad_token_id': 0, 'bos_token_id': 1, 'cls_token_id': 1, 'eos_token_id': 2, 'sep_token_id': 2}


@pytest.mark.parametrize(
  'kind, pool',
  [('ForSequenceClassification', 'cls')]
  + [('ForSequenceClassification', 'mean'), ('ForMaskedLM', ''), ('Model', '')],
)
def test_every_tap(published, agree, randomised, kind, pool):
  options = SMALL | ({'classifier_pooling': pool} if pool else {'global_attn_every_n_layers': 2})
  config = transformers.ModernBertConfig(**options, attn_implementation='eager')
  module = randomised(getattr(transformers, f'ModernBert{kind}')(config), 0.2)
  body = getattr(module, 'model', module)
  mask = np.arange(9) < np.array([9, 4, 7])[:, None]
  ids = (np.random.default_rng(0).integers(1, 50, (3, 9)) * mask).astype(np.int32)
  theirs = {}

  def keep(i):
    def hook(attention, args, kwargs):
      x = kwargs['hidden_states'] if 'hidden_states' in kwargs else args[0]
      q, k, _ = attention.Wqkv(x).unflatten(-1, (3, 4, 8)).unbind(2)
      half = torch.cat([-torch.ones(4), torch.ones(4)])
      cos, sin = (y[:, :, None] for y in kwargs['position_embeddings'])
      q, k = (y * cos + y.roll(4, -1) * half * sin for y in (q, k))
      theirs[f'attention{i}'] = torch.einsum('bqhd,bkhd->bhqk', q, k) / 8**0.5

    return hook

  for i, layer in enumerate(body.layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
    layer.attn.register_forward_pre_hook(keep(i), with_kwargs=True)
  body.embeddings.register_forward_hook(lambda _, __, y: theirs.__setitem__('embeddings', y))
  if pool:
    module.head.register_forward_hook(lambda _, __, y: theirs.__setitem__('embed', y))
  with torch.no_grad():
    inputs = {'input_ids': torch.tensor(ids).long(), 'attention_mask': torch.tensor(mask).long()}
    tokens = theirs['tokens'] = body(**inputs).last_hidden_state
    if pool:
      theirs['logits'] = module(**inputs).logits
    else:
      valid = torch.tensor(mask)[..., None]
      theirs['embed'] = (tokens * valid).sum(1) / valid.sum(1)
  agree(published('modernbert', module, {'text': ids, 'text/mask': mask}, 3 if pool else None), theirs)
