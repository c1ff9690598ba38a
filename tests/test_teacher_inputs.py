"""What a checkpoint's own files say of texts and sounds, against the data's; what stays in float32."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from configs import instructions
from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.input import tokenizer
from kdjax.models.audio.mel_cnn import MelCnn
from kdjax.models.multimodal.two_tower import TwoTower
from kdjax.models.text.bag_of_words import BagOfWords
from kdjax.models.text.gpt2 import Gpt2
from kdjax.models.vision.mlp import Mlp
from kdjax.nn import functional, log_mel
from kdjax.nn.log_mel import PRESETS
from kdjax.pretrained import ast, initialize, texts, whisper_encoder

WORDS = (
  '[PAD]',
  '</s>',
  '[UNK]',
  '[CLS]',
  '[SEP]',
  'the',
  'cat',
  'sat',
  '12',
  'mats',
  '&',
  'an',
  'elan',
  '!',
  ',',
)
SIZES = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12}


def refused(call, *parts):
  with pytest.raises(KdjaxError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message and all(p in message for p in parts), message


def made(words=WORDS, lowercase=True, ends=True):
  result = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token='[UNK]'))
  result.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
  result.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  result.decoder = decoders.WordPiece()
  if ends:
    result.post_processor = processors.TemplateProcessing(
      '[CLS] $A [SEP]', None, [('[CLS]', 3), ('[SEP]', 4)]
    )
  return result


def folder(path, config=None, words=None, **files):
  """A checkpoint without weights: what is checked of it is known before they are read."""
  (path / 'model.safetensors').write_bytes(b'')
  sizes = SIZES | {'vocab_size': len(WORDS), 'max_position_embeddings': 16}
  (path / 'config.json').write_text(json.dumps(config or {'model_type': 'bert'} | sizes))
  if words is not None:
    words.save(str(path / 'tokenizer.json'))
  for name, value in files.items():
    (path / f'{name}.json').write_text(json.dumps(value))
  return str(path)


def checked(init, words, length=8, chosen='', model='bert', rate=0):
  config = pretrained.complete(init, {'model': model}) | {'init': init}
  initialize.check(config, words and tokenizer.cut(words, length), chosen, rate, 'teacher')


def test_the_vocabulary_of_a_teacher(tmp_path):
  init = folder(tmp_path, words=made())
  checked(init, made())
  other = made((*WORDS[:-1], 'dog'))
  refused(
    lambda: checked(init, other), 'teacher.model', 'another vocabulary', f'set data.tokenizer to {init}'
  )
  refused(lambda: checked(init, made((*WORDS, 'dog'))), 'has 16 tokens', f'{init} 15', 'set data.tokenizer')
  refused(lambda: checked(init, made(lowercase=False)), 'tokenizes texts otherwise', 'tokenizer.json')
  refused(lambda: checked(init, made(ends=False)), 'tokenizes texts otherwise')
  padded = {'model_type': 'bert', 'vocab_size': 64, **SIZES}
  checked(folder(tmp_path, padded), made())  # rows that no token has
  (tmp_path / 'tokenizer.json').unlink()
  refused(lambda: checked(init, made()), 'has 15 tokens', '64', 'that it was trained with')
  checked(init, made(), chosen='mine.json')
  (tmp_path / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
  checked(init, made())
  (tmp_path / 'vocab.txt').write_text('\n'.join(reversed(WORDS)) + '\n')
  refused(lambda: checked(init, made(), chosen='mine.json'), 'another vocabulary', 'vocab.txt')


def test_fewer_rows_than_tokens_without_a_checkpoint():
  model = {'model': 'fusion', 'encoders': {'text': {'model': 'bag_of_words', 'vocab_size': 4}}}
  refused(
    lambda: initialize.check(model, made(), '', 0, 'student'),
    'student.model.encoders_text.vocab_size is 4',
    '15',
  )


def test_padding_case_and_length_lie_beside_a_tokenizer(tmp_path):
  record = {'pad_token': '</s>', 'do_lower_case': False, 'tokenizer_class': 'BertTokenizer'}
  init = folder(tmp_path, words=made(), tokenizer_config=record)
  words = tokenizer.cut(pretrained.load_tokenizer(init), 6)
  ids, mask, _ = tokenizer.encode(words, ['the cat', 'THE cat'])
  assert ids.tolist() == [[3, 5, 6, 4, 1, 1], [3, 2, 6, 4, 1, 1]] and mask.sum() == 8
  init = folder(tmp_path, tokenizer_config={}, special_tokens_map={'pad_token': {'content': '</s>'}})
  assert pretrained.load_tokenizer(init).padding['pad_id'] == 1
  init = folder(tmp_path, {'text_config': {'pad_token_id': 2}}, special_tokens_map={})
  assert pretrained.load_tokenizer(init).padding['pad_id'] == 2
  made(lowercase=False).save(str(tmp_path / 'tokenizer.json'))
  init = folder(tmp_path, sentence_bert_config={'max_seq_length': 8, 'do_lower_case': True})
  words = pretrained.load_tokenizer(init)
  assert words.encode('THE Cat').ids == [3, 5, 6, 4]
  checked(init, words, 8)
  refused(
    lambda: checked(init, pretrained.load_tokenizer(init), 9),
    'reads 8 tokens',
    'text_length is 9: set it to 8',
  )
  prompts = {'prompts': {'query': 'find: '}, 'default_prompt_name': 'query'}
  init = folder(tmp_path, config_sentence_transformers=prompts)
  assert "after 'find: ', which the texts" in texts.describe(pretrained.files(init))
  assert 'in lower case' in texts.describe(pretrained.files(init)) and 'up to 8' in texts.describe(
    pretrained.files(init)
  )


def test_siglip_reads_padding_too(tmp_path):
  sizes = SIZES | {'vocab_size': len(WORDS), 'max_position_embeddings': 16}
  config = {'model_type': 'siglip', 'text_config': sizes, 'vision_config': SIZES | {'patch_size': 8}}
  init = folder(tmp_path, config, made(), tokenizer_config={'pad_token': '</s>'})
  checked(init, pretrained.load_tokenizer(init), 16, model='siglip')
  refused(
    lambda: checked(init, pretrained.load_tokenizer(init), 8, model='siglip'),
    'reads texts of 16',
    'set it to 16',
  )
  refused(
    lambda: checked(init, made(), 16, model='siglip'), "pads texts with '</s>'", "'[PAD]'", 'data.tokenizer'
  )


@pytest.mark.whole
def test_an_embedding_with_more_rows_than_tokens(tmp_path):
  sizes = {'width': 8, 'depth': 1, 'heads': 2, 'mlp': 12, 'positions': 8}
  ids = jnp.array([[3, 4, 5, 2]])
  whole, real = Gpt2(16, **sizes), Gpt2(16, **sizes, tokens=11)
  variables = whole.init(jax.random.key(0), {'text': ids})
  rows = variables['params']['words']['embedding']
  variables['params']['words']['embedding'] = rows.at[11:].mul(1e4)  # nobody trained them
  a, b = (net.apply(variables, {'text': ids}) for net in (whole, real))
  np.testing.assert_array_equal(a['logits'][..., :11], b['logits'])
  assert (b['best'] < 11).all() and not (a['best'] < 11).all()
  log_p = jax.nn.log_softmax(b['logits'][:, :-1])
  np.testing.assert_allclose(b['likelihood'][0, :3], log_p[0, np.arange(3), ids[0, 1:]], atol=1e-5)
  room = {'text': ids, 'text/at': jnp.arange(4)[None], 'text/room': jnp.zeros((1, 6))}
  assert real.apply(variables, room)['logits'].shape == (1, 11)
  config = instructions.get_config('smoke=1')
  config.teacher.model.vocab_size = 128
  check(Experiment(config.to_dict(), tmp_path / 'a'))
  config.teacher.model.vocab_size = 5
  refused(
    lambda: check(Experiment(config.to_dict(), tmp_path / 'b')), 'teacher.model.vocab_size is 5', 'tokens'
  )


def test_the_spectrogram_of_a_checkpoint(tmp_path):
  inputs = {'num_mel_bins': 128, 'max_source_positions': 1500}
  how = log_mel.settings(whisper_encoder.config(inputs, tmp_path)['mel'])
  assert how == PRESETS['whisper']._replace(mels=128, length=3000)
  record = {'feature_size': 64, 'sampling_rate': 8000, 'hop_length': 80, 'n_fft': 256, 'chunk_length': 30}
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(record))
  how = log_mel.settings(whisper_encoder.config({}, tmp_path)['mel'])
  assert how[:4] == (8000, 256, 80, 64)
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps({'dither': 1.0}))
  refused(lambda: whisper_encoder.config({}, tmp_path), 'dither 1.0')
  record = {'num_mel_bins': 64, 'max_length': 512, 'mean': -5.0, 'std': 3.0, 'sampling_rate': 16000}
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps(record))
  how = log_mel.settings(ast.config({}, tmp_path)['mel'])
  assert (how.mels, how.length, how.mean, how.std) == (64, 512, -5.0, 3.0)
  (tmp_path / 'preprocessor_config.json').write_text(json.dumps({'do_normalize': False}))
  how = log_mel.settings(ast.config({'num_mel_bins': 32}, tmp_path)['mel'])
  assert (how.mels, how.mean, how.std) == (32, 0.0, 0.5)
  model = {'model': 'mel_cnn'}  # whose default is 8,000 samples a second
  initialize.check(model, None, '', 8000, 'teacher')
  refused(lambda: initialize.check(model, None, '', 16000, 'teacher'), 'teacher.model.mel', '8,000', '16,000')


def test_sound_is_filled_up_before_its_spectrogram():
  how = PRESETS['whisper']._replace(length=40)
  x = np.random.default_rng(0).normal(size=(2, 3000)).astype(np.float32)
  full = np.pad(x, ((0, 0), (0, 40 * 160 - 3000)))
  np.testing.assert_array_equal(log_mel.log_mel(x, how), log_mel.log_mel(full, how._replace(length=0)))
  assert log_mel.log_mel(np.pad(x, ((0, 0), (0, 9000))), how).shape == (2, 40, 80)
  mask = log_mel.frame_mask(jnp.ones((2, 3000), bool), how)
  assert mask.shape == (2, 40) and mask.sum() == 2 * 19


@pytest.mark.whole
def test_front_ends_and_scales_stay_in_float32():
  net = MelCnn(widths=(4,), blocks=(0,))
  x = 0.3 * np.random.default_rng(0).normal(size=(2, 4000)).astype(np.float32)
  exact = log_mel.log_mel(x, PRESETS['digits'])
  model = functional.functions(net, {}, 'bfloat16')
  variables = model.init(jax.random.key(0), {'audio': x})
  taps = model.apply(variables, {'audio': x})[0]
  assert {v.dtype for v in taps.values()} == {jnp.dtype('bfloat16')}
  np.testing.assert_allclose(taps['mel'].astype(np.float32), exact, atol=2**-8)
  towers = TwoTower(image=Mlp(hidden=(4,)), text=BagOfWords(9, 4), width=4)
  batch = {'image': jnp.zeros((2, 2, 2, 3), jnp.uint8), 'text': jnp.ones((2, 3), jnp.int32)}
  model = functional.functions(towers, {}, 'bfloat16')
  variables = model.init(jax.random.key(0), batch)
  variables['params']['logit_scale'] = jnp.float32(4.6051702)
  result = model.apply(variables, batch)[0]
  assert result['logit_scale'].dtype == jnp.float32 and result['logit_scale'] == np.float32(4.6051702)
  assert result['image/embed'].dtype == jnp.bfloat16
