"""BERT and DistilBERT against transformers."""

import numpy as np
import pytest
from attention_scores import watch

from kdjax.pretrained import bert

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
SMALL = {
  'vocab_size': 50,
  'hidden_size': 32,
  'num_hidden_layers': 3,
  'num_attention_heads': 4,
  'intermediate_size': 48,
  'max_position_embeddings': 20,
}
DISTIL = {
  'vocab_size': 50,
  'dim': 32,
  'n_layers': 2,
  'n_heads': 4,
  'hidden_dim': 48,
  'max_position_embeddings': 20,
}


def batch():
  rng = np.random.default_rng(0)
  lengths = np.array([9, 4, 7])
  mask = np.arange(9) < lengths[:, None]
  return {
    'text': (rng.integers(1, 50, (3, 9)) * mask).astype(np.int32),
    'text/mask': mask,
    'text/types': (np.arange(9) > 3).astype(np.int32) * mask,
  }


def attributes(module, tmp_path):
  return bert.config(module.config.to_dict(), tmp_path)


def theirs(result, scores, pooled, logits):
  hidden = result.hidden_states
  blocks = {f'block{i}': x for i, x in enumerate(hidden[1:], 1)}
  taps = {'embeddings': hidden[0], **blocks, **scores(), 'tokens': hidden[-1], 'embed': pooled}
  return taps | {'logits': logits}


@pytest.mark.parametrize('act', ['gelu', 'gelu_new', 'relu'])
def test_bert_with_its_pooler(ours, agree, randomised, tmp_path, act):
  config = transformers.BertConfig(**SMALL, hidden_act=act, num_labels=3, attn_implementation='eager')
  module = randomised(transformers.BertForSequenceClassification(config))
  inputs, pooled = batch(), []
  module.bert.pooler.register_forward_hook(lambda _, __, y: pooled.append(y))
  layers = [layer.attention.self for layer in module.bert.encoder.layer]
  scores = watch([(layer.query, layer.key) for layer in layers], 4)
  with torch.no_grad():
    result = module(
      input_ids=torch.tensor(inputs['text']).long(),
      attention_mask=torch.tensor(inputs['text/mask']).long(),
      token_type_ids=torch.tensor(inputs['text/types']).long(),
      output_hidden_states=True,
    )
  known = attributes(module, tmp_path) | {'pool': 'tanh', 'num_classes': 3}
  taps = ours('bert', known, module.state_dict(), inputs)
  agree(taps, theirs(result, scores, pooled[0], result.logits))


def test_distilbert_with_its_classifier(ours, agree, randomised, tmp_path):
  config = transformers.DistilBertConfig(**DISTIL, num_labels=3, attn_implementation='eager')
  module = randomised(transformers.DistilBertForSequenceClassification(config))
  inputs, pooled = batch(), []
  module.pre_classifier.register_forward_hook(lambda _, __, y: pooled.append(y.relu()))
  layers = [layer.attention for layer in module.distilbert.transformer.layer]
  scores = watch([(layer.q_lin, layer.k_lin) for layer in layers], 4)
  with torch.no_grad():
    result = module(
      input_ids=torch.tensor(inputs['text']).long(),
      attention_mask=torch.tensor(inputs['text/mask']).long(),
      output_hidden_states=True,
    )
  known = attributes(module, tmp_path) | {'pool': 'relu', 'num_classes': 3}
  taps = ours('bert', known, module.state_dict(), inputs)
  agree(taps, theirs(result, scores, pooled[0], result.logits))


def test_the_mean_of_the_valid_positions(ours, randomised, tmp_path):
  module = randomised(transformers.BertModel(transformers.BertConfig(**SMALL)))
  inputs = batch()
  mask = torch.tensor(inputs['text/mask'])
  with torch.no_grad():
    tokens = module(torch.tensor(inputs['text']).long(), mask.long()).last_hidden_state
  known = attributes(module, tmp_path) | {'normalise': True}
  del inputs['text/types']
  taps = ours('bert', known, module.state_dict(), inputs)
  mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
  expected = torch.nn.functional.normalize(mean).numpy()
  np.testing.assert_allclose(taps['embed'], expected, atol=1e-5)


@pytest.mark.parametrize('kind', ['Roberta', 'XLMRoberta', 'Camembert'])
def test_roberta_with_its_classifier(published, agree, randomised, kind):
  """Padding has the id 1, and the position 1; the others begin at 2."""
  sizes = SMALL | {'type_vocab_size': 1, 'attn_implementation': 'eager'}
  config = getattr(transformers, f'{kind}Config')(**sizes, num_labels=3)
  module = randomised(getattr(transformers, f'{kind}ForSequenceClassification')(config))
  inputs = {k: x for k, x in batch().items() if k != 'text/types'}
  inputs['text'] = np.where(inputs['text/mask'], inputs['text'].clip(2), 1).astype(np.int32)
  inputs['text'][:, 0] = 0
  pooled = []
  module.classifier.dense.register_forward_hook(lambda _, __, y: pooled.append(y.tanh()))
  layers = [layer.attention.self for layer in module.roberta.encoder.layer]
  scores = watch([(layer.query, layer.key) for layer in layers], 4)
  with torch.no_grad():
    result = module(
      input_ids=torch.tensor(inputs['text']).long(),
      attention_mask=torch.tensor(inputs['text/mask']).long(),
      output_hidden_states=True,
    )
  agree(published('bert', module, inputs, 3), theirs(result, scores, pooled[0], result.logits))


def test_roberta_with_a_language_model(published, agree, randomised):
  """The head of a masked language model is left out, and `embed` is the mean of the valid positions."""
  config = transformers.RobertaConfig(**SMALL, attn_implementation='eager')
  module = randomised(transformers.RobertaForMaskedLM(config))
  inputs = batch()
  inputs['text'] = np.where(inputs['text/mask'], inputs['text'].clip(2), 1).astype(np.int32)
  mask = torch.tensor(inputs['text/mask'])
  scores = watch([(x.attention.self.query, x.attention.self.key) for x in module.roberta.encoder.layer], 4)
  with torch.no_grad():
    ids, types = (torch.tensor(inputs[k]).long() for k in ('text', 'text/types'))
    result = module(ids, mask.long(), types, output_hidden_states=True)
    hidden = result.hidden_states[-1]
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
  taps = theirs(result, scores, mean, None)
  agree(published('bert', module, inputs), {k: x for k, x in taps.items() if k != 'logits'})


@pytest.mark.parametrize('embedding', [16, 32])
def test_electra_with_its_classifier(published, agree, randomised, embedding):
  sizes = SMALL | {'embedding_size': embedding, 'attn_implementation': 'eager'}
  module = randomised(
    transformers.ElectraForSequenceClassification(transformers.ElectraConfig(**sizes, num_labels=3))
  )
  inputs, pooled = batch(), []
  module.classifier.activation.register_forward_hook(lambda _, __, y: pooled.append(y))
  layers = [layer.attention.self for layer in module.electra.encoder.layer]
  scores = watch([(layer.query, layer.key) for layer in layers], 4)
  with torch.no_grad():
    result = module(
      input_ids=torch.tensor(inputs['text']).long(),
      attention_mask=torch.tensor(inputs['text/mask']).long(),
      token_type_ids=torch.tensor(inputs['text/types']).long(),
      output_hidden_states=True,
    )
  agree(published('bert', module, inputs, 3), theirs(result, scores, pooled[0], result.logits))
