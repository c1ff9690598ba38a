"""Published classifiers, encoders and language models as `teacher.init`, against transformers, end to end.

A model of random weights is saved as its library saves it; an experiment reads the folder, the tokenizer and
the data, and its teacher has to give the logits and the accuracy that the library gives.
"""

import json

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from kdjax import recipes
from kdjax.experiment import load, stages
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.types import DataSet

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity
VOCABULARY = ['[PAD]', '</s>', '[UNK]', '[CLS]', '[SEP]', *(f'w{i}' for i in range(20)), 'le', '!', ',']
SIZES = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
TEXT = SIZES | {'vocab_size': len(VOCABULARY), 'max_position_embeddings': 16}
DISTIL = {'dim': 32, 'n_layers': 2, 'n_heads': 4, 'hidden_dim': 48} | {
  k: TEXT[k] for k in ('vocab_size', 'max_position_embeddings')
}
RNG = np.random.default_rng(0)


def words(template='[CLS] $A [SEP]', pad='[PAD]', **special):
  """A small tokenizer of transformers, which writes the files that a published one has."""
  result = Tokenizer(models.WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token='[UNK]'))
  result.normalizer, result.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
  named = [(t, VOCABULARY.index(t)) for t in VOCABULARY[1:5] if t in template]
  result.post_processor = processors.TemplateProcessing(template, None, named)
  special |= {'pad_token': pad, 'unk_token': '[UNK]'}
  return transformers.PreTrainedTokenizerFast(tokenizer_object=result, **special)


def sentences(rows=40):
  return [' '.join(RNG.choice([*VOCABULARY[5:], 'W3', 'É', '!'], RNG.integers(2, 12))) for _ in range(rows)]


def labels(logits):
  """What the library finds, one in three drawn anew: neither all right nor all wrong."""
  result = logits.argmax(-1).numpy()
  return np.where(RNG.random(len(result)) < 0.33, RNG.integers(0, logits.shape[-1], len(result)), result)


def recipe(folder, model, **data):
  config = recipes.base('published')
  config.update(seeds=1, methods={'kd': {}})
  config.data.update(**data)
  config.teacher.update(init=str(folder), model=model)
  config.student.model = {'model': 'bag_of_words', 'width': 4}
  return config


def taught(config, workdir, test=None):
  """(taps, metrics) of the teacher on the test split, by way of the stages."""
  experiment = Experiment(config.to_dict(), workdir)
  check(experiment)
  stages.train_stage(experiment, 'teacher')
  variables, data = experiment.variables('teacher'), experiment.data
  scores = experiment.evaluator('teacher')(variables, data.test).metrics
  one = jax.tree.map(lambda x: x[0], variables)
  batch = data.test.take(np.arange(len(data.test)))
  taps = jax.jit(lambda v, b: experiment.model('teacher').apply(v, b)[0])(one, batch)
  return taps, {k: v[0] for k, v in scores.items()}, batch


def table(path, rows):
  lines = [json.dumps(row | {'split': split}) for split in ('train', 'test') for row in rows]
  path.write_text('\n'.join(lines))
  return str(path)


def close(ours, theirs):
  np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4 * max(1, float(theirs.abs().max())))


@pytest.mark.parametrize('kind', ['Bert', 'DistilBert'])
def test_classifiers_of_texts(tmp_path, randomised, kind):
  sizes = TEXT if kind == 'Bert' else DISTIL
  config = getattr(transformers, f'{kind}Config')(**sizes, num_labels=3)
  module = randomised(getattr(transformers, f'{kind}ForSequenceClassification')(config))
  module.save_pretrained(tmp_path / 'model')
  words().save_pretrained(tmp_path / 'model')
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path / 'model')
  texts = sentences()
  inputs = reader(texts, return_tensors='pt', padding=True)
  with torch.no_grad():
    logits = module(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).logits
  truth = labels(logits)
  rows = [{'text': t, 'label': str(y)} for t, y in zip(texts, truth, strict=True)]
  path = table(tmp_path / 'rows.jsonl', rows)
  exp = recipe(
    tmp_path / 'model', {'model': 'bert', 'num_classes': 3}, name='manifest', path=path, text_length=16
  )
  exp.data.tokenizer = str(tmp_path / 'model')
  taps, scores, _ = taught(exp, tmp_path / 'w')
  close(taps['logits'], logits)
  right = float((logits.argmax(-1).numpy() == truth).mean())
  assert 0.4 < right < 1 and scores['top1'] == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize('kind, mels', [('whisper', 10), ('whisper', 128), ('ast', 20)])
def test_classifiers_of_sounds(tmp_path, randomised, monkeypatch, kind, mels):
  n, rows = 6000, 24
  sound = (0.3 * RNG.normal(size=(rows, n))).astype(np.float32)
  sound *= np.linspace(0.01, 1, rows, dtype=np.float32)[:, None]
  if kind == 'whisper':
    config = transformers.WhisperConfig(
      num_mel_bins=mels, d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=48,
      decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=48, max_source_positions=50, num_labels=3,
      classifier_proj_size=12, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2,
      decoder_start_token_id=1,
    )  # fmt: skip
    module = randomised(transformers.WhisperForAudioClassification(config))
    reader = transformers.WhisperFeatureExtractor(feature_size=mels, chunk_length=1)
  else:
    config = transformers.ASTConfig(
      **SIZES, patch_size=8, frequency_stride=5, time_stride=6, max_length=40, num_mel_bins=mels, num_labels=3
    )
    module = randomised(transformers.ASTForAudioClassification(config))
    reader = transformers.ASTFeatureExtractor(num_mel_bins=mels, max_length=40, mean=-5.0, std=3.0)
  module.save_pretrained(tmp_path / 'model')
  reader.save_pretrained(tmp_path / 'model')
  seen = reader(list(sound), sampling_rate=16_000, return_tensors='pt')
  with torch.no_grad():
    logits = module(seen['input_features' if kind == 'whisper' else 'input_values']).logits
  truth = labels(logits)
  examples = [{'audio': sound[i], 'label': int(truth[i]), 'id': i} for i in range(rows)]
  dataset = DataSet({'train': examples, 'test': examples}, ('a', 'b', 'c'), 'made', rate=16_000)
  monkeypatch.setattr(load, 'dataset', lambda *_: dataset)
  name = 'whisper_encoder' if kind == 'whisper' else 'ast'
  exp = recipe(tmp_path / 'model', {'model': name, 'num_classes': 3}, name='tfds')
  exp.student.model = {'model': 'mel_cnn', 'mel': {'preset': 'digits', 'rate': 16_000}}
  taps, scores, _ = taught(exp, tmp_path / 'w')
  close(taps['logits'], logits)
  right = float((logits.argmax(-1).numpy() == truth).mean())
  assert scores['top1'] == pytest.approx(right, abs=1e-6)


SMALL_LLAMA = {'vocab_size': 64, 'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4}
SMALL_LLAMA |= {'num_key_value_heads': 2, 'intermediate_size': 48, 'max_position_embeddings': 16}
LANGUAGE_MODELS = {
  'gpt2': ('GPT2', {'vocab_size': 64, 'n_embd': 32, 'n_layer': 2, 'n_head': 4, 'n_positions': 16}),
  'llama': ('Llama', SMALL_LLAMA),
}


@pytest.mark.parametrize('name', LANGUAGE_MODELS)
def test_a_language_model_with_padded_rows(tmp_path, randomised, name):
  kind, sizes = LANGUAGE_MODELS[name]
  config = getattr(transformers, f'{kind}Config')(**sizes)
  head = 'GPT2LMHeadModel' if kind == 'GPT2' else f'{kind}ForCausalLM'
  module = randomised(getattr(transformers, head)(config))
  module.save_pretrained(tmp_path / 'model')
  words('$A', eos_token='</s>').save_pretrained(tmp_path / 'model')
  rows = [{'text': 'w1 w2 w3', 'response': text} for text in sentences(20)]
  path = table(tmp_path / 'rows.jsonl', rows)
  exp = recipe(tmp_path / 'model', {'model': name}, name='manifest', path=path, text_length=16)
  exp.data.update(tokenizer=str(tmp_path / 'model'), prompt_length=4)
  exp.task = {'name': 'language_modelling'}
  exp.methods = {'forward_kl': {'student': 'logits', 'teacher': 'logits'}}
  exp.student.model = {'model': 'gpt2', 'width': 8, 'depth': 1, 'heads': 2, 'mlp': 8, 'positions': 16}
  taps, scores, batch = taught(exp, tmp_path / 'w')
  with torch.no_grad():
    mask = torch.tensor(batch['text/mask']).long()
    logits = module(input_ids=torch.tensor(batch['text']).long(), attention_mask=mask).logits
  logits = logits[..., : len(VOCABULARY)]
  valid = batch['text/mask'][..., None]
  close(taps['logits'] * valid, logits * valid)
  target = torch.tensor(batch['text/target']).long()
  loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100)
  kept = target >= 0
  right = (logits.argmax(-1)[kept] == target[kept]).float().mean()
  assert scores['loss'] == pytest.approx(float(loss), rel=1e-4)
  assert scores['accuracy'] == pytest.approx(float(right), abs=1e-6)


@pytest.mark.parametrize('kind', ['Siglip', 'CLIP'])
def test_retrieval(tmp_path, randomised, monkeypatch, kind):
  vision = SIZES | {'image_size': 24, 'patch_size': 8}
  end = {'eos_token_id': VOCABULARY.index('</s>')} if kind == 'CLIP' else {}
  config = getattr(transformers, f'{kind}Config')(text_config=TEXT | end, vision_config=vision)
  module = randomised(getattr(transformers, f'{kind}Model')(config))
  module.save_pretrained(tmp_path / 'model')
  reader = words('$A </s>', pad='</s>', eos_token='</s>')
  reader.save_pretrained(tmp_path / 'model')
  size = {'height': 24, 'width': 24}
  images = getattr(transformers, f'{kind}ImageProcessor')(size=size, crop_size=size)
  images.save_pretrained(tmp_path / 'model')
  pictures = RNG.integers(0, 256, (20, 24, 24, 3)).astype(np.uint8)
  texts = sentences(20)
  inputs = reader(texts, return_tensors='pt', padding='max_length', max_length=16)
  pixels = images(list(pictures), return_tensors='pt').pixel_values
  with torch.no_grad():
    mask = {'attention_mask': inputs.attention_mask} if kind == 'CLIP' else {}  # SigLIP sees padding
    theirs = module(input_ids=inputs.input_ids, pixel_values=pixels, **mask)
  examples = [{'image': x, 'text': t, 'id': i} for i, (x, t) in enumerate(zip(pictures, texts, strict=True))]
  dataset = DataSet({'train': examples, 'test': examples}, (), 'made')
  monkeypatch.setattr(load, 'dataset', lambda *_: dataset)
  exp = recipe(tmp_path / 'model', {'model': kind.lower()}, name='image_text', text_length=16)
  exp.data.tokenizer = str(tmp_path / 'model')
  exp.task = {'name': 'retrieval'}
  exp.methods = {}
  towers = {'image': {'model': 'mlp', 'hidden': (4,)}, 'text': {'model': 'bag_of_words', 'width': 4}}
  exp.student.model = {'model': 'two_tower', **towers}
  taps, scores, _ = taught(exp, tmp_path / 'w')
  a, b = (taps[k] / np.linalg.norm(taps[k], axis=-1, keepdims=True) for k in ('image/embed', 'text/embed'))
  close(a, theirs.image_embeds)
  close(b, theirs.text_embeds)
  logits = np.exp(taps['logit_scale']) * (a @ b.T) + taps.get('logit_bias', 0)
  close(logits, theirs.logits_per_image)
  ranks = (theirs.logits_per_image >= theirs.logits_per_image.diag()[:, None]).sum(1)
  assert scores['image_to_text/r@1'] == pytest.approx(float((ranks == 1).float().mean()), abs=1e-6)
