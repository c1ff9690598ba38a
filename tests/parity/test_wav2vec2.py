"""wav2vec 2.0, HuBERT and WavLM against transformers, with its feature extractor."""

import numpy as np
import pytest
from attention_scores import watch

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SMALL = {
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'intermediate_size': 24,
  'conv_dim': (8, 12, 8),
  'conv_kernel': (10, 3, 2),
  'conv_stride': (5, 2, 2),
  'num_feat_extract_layers': 3,
  'num_conv_pos_embeddings': 6,
  'num_conv_pos_embedding_groups': 2,
  'num_labels': 3,
  'classifier_proj_size': 10,
}
LENGTHS = (400, 217, 305)
SOUNDS = [0.1 + 0.3 * np.random.default_rng(n).normal(size=n).astype(np.float32) for n in LENGTHS]
LARGE = {'feat_extract_norm': 'layer', 'do_stable_layer_norm': True, 'conv_bias': True}
CASES = {  # kind, changes, return_attention_mask
  'base': ('Wav2Vec2', {}, False),
  'base_masked': ('Wav2Vec2', {'num_conv_pos_embeddings': 5}, True),
  'large': ('Wav2Vec2', LARGE, True),
  'large_superb': ('Wav2Vec2', LARGE | {'use_weighted_layer_sum': True}, True),
  'hubert': ('Hubert', {'use_weighted_layer_sum': True}, False),
  'hubert_large': ('Hubert', LARGE, True),
  'wavlm': ('WavLM', {'num_buckets': 16, 'max_bucket_distance': 20}, False),
  'wavlm_large': ('WavLM', LARGE | {'num_buckets': 32, 'max_bucket_distance': 12}, True),
}


def watch_torch(monkeypatch):
  """The scores of WavLM, whose attention is a function of torch, from what that is given."""
  whole, collected = torch.nn.functional.multi_head_attention_forward, []

  def watched(query, key, value, width, heads, weight, bias, *args, **kwargs):
    q, k = (
      (x @ kwargs[f'{name}_proj_weight'].T + b).transpose(0, 1).unflatten(-1, (heads, -1)).transpose(1, 2)
      for x, name, b in zip((query, key), 'qk', bias.chunk(3)[:2], strict=True)
    )
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    collected.append(scores + kwargs['attn_mask'].unflatten(0, (-1, heads)))
    return whole(query, key, value, width, heads, weight, bias, *args, **kwargs)

  monkeypatch.setattr(torch.nn.functional, 'multi_head_attention_forward', watched)
  return lambda: {f'attention{i}': x for i, x in enumerate(collected, 1)}


@pytest.mark.parametrize('classes', [3, None])
@pytest.mark.parametrize('name', CASES)
def test_every_tap(published, agree, randomised, monkeypatch, name, classes):
  kind, changes, masked = CASES[name]
  if classes is None:
    changes = {k: x for k, x in changes.items() if k != 'use_weighted_layer_sum'}
  config = getattr(transformers, f'{kind}Config')(**SMALL | changes)
  whole = f'{kind}ForSequenceClassification' if classes else f'{kind}Model'
  module = randomised(getattr(transformers, whole)(config), 0.2)
  body, theirs = getattr(module, module.base_model_prefix) if classes else module, {}
  layers = body.encoder.layers
  for i, layer in enumerate(layers, 1):
    layer.register_forward_hook(
      lambda _, __, y, i=i: theirs.__setitem__(f'block{i}', y[0] if isinstance(y, tuple) else y)
    )
  layers[0].register_forward_pre_hook(
    lambda _, x, kwargs: theirs.__setitem__('embeddings', x[0] if x else kwargs['hidden_states']),
    with_kwargs=True,
  )
  extract = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked, do_normalize=True)
  inputs = extract(SOUNDS, sampling_rate=16_000, padding=True, return_tensors='pt')
  scores = watch([(x.attention.q_proj, x.attention.k_proj) for x in layers], 2)
  if kind == 'WavLM':
    scores = watch_torch(monkeypatch)
  with torch.no_grad():
    tokens = theirs['tokens'] = body(**inputs).last_hidden_state
    theirs |= scores()
    hidden = body(**inputs, output_hidden_states=True).hidden_states
    if classes:
      theirs['logits'] = module(**inputs).logits
      if config.use_weighted_layer_sum:
        weights = module.layer_weights.softmax(0)
        # The library of these numbers has the last before its norm; that the weights were trained on has it
        # after (s3prl, and transformers 4), which is the same where the norms come after the branches.
        skipped = sum(w * y for w, y in zip(weights, hidden, strict=True))
        tokens = sum(w * y for w, y in zip(weights, [*hidden[:-1], tokens], strict=True))
  valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
  if masked:
    valid = body._get_feature_vector_attention_mask(tokens.shape[1], inputs['attention_mask'])
  theirs['embed'] = (tokens * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
  if name == 'large_superb' and classes:
    embed = (skipped * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)
    torch.testing.assert_close(module.classifier(module.projector(embed)), theirs['logits'])
    theirs['logits'] = module.classifier(module.projector(theirs['embed']))
  mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
  audio = np.stack([np.pad(x, (0, max(LENGTHS) - len(x))) for x in SOUNDS])
  files = {'preprocessor_config.json': extract.to_dict()}
  agree(published('wav2vec2', module, {'audio': audio, 'audio/mask': mask}, classes, files), theirs)
