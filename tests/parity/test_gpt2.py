"""GPT-2 against transformers."""

import numpy as np
import pytest

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SMALL = {'vocab_size': 50, 'n_embd': 32, 'n_layer': 3, 'n_head': 4, 'n_positions': 20}
LENGTHS = np.array([9, 4, 7])


@pytest.mark.parametrize('inner', [None, 40])
def test_every_tap(saved, agree, randomised, inner):
  config = transformers.GPT2Config(**SMALL, n_inner=inner, attn_implementation='eager')
  module = randomised(transformers.GPT2LMHeadModel(config))
  mask = np.arange(9) < LENGTHS[:, None]
  ids = (np.random.default_rng(0).integers(0, 50, (3, 9)) * mask).astype(np.int32)
  theirs, fused = {}, {}
  for i, block in enumerate(module.transformer.h, 1):
    block.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
    block.attn.c_attn.register_forward_hook(lambda _, __, y, i=i: fused.__setitem__(i, y))
  module.transformer.drop.register_forward_hook(lambda _, __, y: theirs.__setitem__('embeddings', y))
  module.transformer.ln_f.register_forward_hook(lambda _, __, y: theirs.__setitem__('tokens', y))
  with torch.no_grad():
    inputs = {'input_ids': torch.tensor(ids).long(), 'attention_mask': torch.tensor(mask).long()}
    theirs['logits'] = module(**inputs).logits
  for i, y in fused.items():
    q, k, _ = y.unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
    theirs[f'attention{i}'] = q @ k.transpose(-1, -2) / 8**0.5
  theirs['embed'] = theirs['tokens'][torch.arange(3), torch.tensor(LENGTHS - 1)]
  message = theirs['logits'].log_softmax(-1)[:, :-1].gather(-1, torch.tensor(ids[:, 1:, None]).long())[..., 0]
  theirs |= {k: module.transformer.wte.weight[None] for k in ('words', 'head')}
  theirs |= {'best': theirs['logits'].argmax(-1), 'likelihood': torch.nn.functional.pad(message, (0, 1))}
  agree(saved('gpt2', {}, module, {'text': ids, 'text/mask': mask}), theirs)
