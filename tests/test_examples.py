"""The scripts of examples/, run as they stand, with fewer examples and steps."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import kdjax

FOLDER = Path(__file__).parents[1] / 'examples'
SCRIPTS = sorted(p.stem for p in FOLDER.glob('*.py') if p.stem not in ('nets', 'sample_data'))
LOSSES = [name for name in SCRIPTS if name.startswith('losses')]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
  """`run(name, *arguments)`: what a script prints, and the result of its `distill`."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(FOLDER))
  import sample_data

  for make in ('pictures', 'questions'):
    whole = getattr(sample_data, make)
    monkeypatch.setattr(sample_data, make, lambda split, n, whole=whole: whole(split, min(n, 96)))
  for make in ('picture_folder', 'tone_folder'):
    whole = getattr(sample_data, make)
    monkeypatch.setattr(sample_data, make, lambda folder, n, whole=whole: whole(folder, min(n, 60)))
  results, distill = [], kdjax.distill

  def quick(*args, **options):
    less = {'steps': 2, 'seeds': 2, 'batch_size': 16}
    results.append(distill(*args, **options | less))
    return results[-1]

  monkeypatch.setattr(kdjax, 'distill', quick, raising=False)

  def script(name, *arguments):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    runpy.run_path(str(FOLDER / f'{name}.py'), run_name='__main__')
    return capsys.readouterr().out, results[-1] if results else None

  return script


@pytest.fixture
def bert(tmp_path):
  """A folder of Hugging Face with a tiny classifier of three classes, of random weights."""
  folder, rng = tmp_path / 'bert', np.random.default_rng(0)
  folder.mkdir()
  words = [
    '[PAD]',
    '[UNK]',
    '[CLS]',
    '[SEP]',
    *['what', 'is', 'the', 'shape', 'color', 'does', 'image', 'contain', 'a', 'there'],
  ]
  tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, '[UNK]'))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.enable_padding(pad_id=0, pad_token='[PAD]')
  tokenizer.save(str(folder / 'tokenizer.json'))
  d, m, n = 8, 16, len(words)
  e, layer = 'bert.embeddings.', 'bert.encoder.layer.0.'
  shapes = {f'{e}word_embeddings.weight': (n, d), f'{e}position_embeddings.weight': (32, d)}
  shapes |= {f'{e}token_type_embeddings.weight': (2, d)}
  dense = {f'{layer}attention.self.{k}': (d, d) for k in ('query', 'key', 'value')}
  dense |= {f'{layer}attention.output.dense': (d, d), f'{layer}intermediate.dense': (m, d)}
  dense |= {f'{layer}output.dense': (d, m), 'bert.pooler.dense': (d, d), 'classifier': (3, d)}
  for name, shape in dense.items():
    shapes |= {f'{name}.weight': shape, f'{name}.bias': shape[:1]}
  for name in (f'{e}LayerNorm', f'{layer}attention.output.LayerNorm', f'{layer}output.LayerNorm'):
    shapes |= {f'{name}.weight': (d,), f'{name}.bias': (d,)}
  save_file(
    {k: rng.normal(0, 0.5, s).astype(np.float32) for k, s in shapes.items()}, folder / 'model.safetensors'
  )
  config = {'model_type': 'bert', 'architectures': ['BertForSequenceClassification'], 'vocab_size': n}
  config |= {'hidden_size': d, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': m}
  config |= {'max_position_embeddings': 32, 'type_vocab_size': 2, 'num_labels': 3}
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


def test_there_are_ten_short_ones():
  assert len(SCRIPTS) >= 10
  for name in set(SCRIPTS) - set(LOSSES):
    text = (FOLDER / f'{name}.py').read_text(encoding='utf-8').split('"""', 2)[2]
    assert len([line for line in text.splitlines() if line.strip()]) <= 15, name


@pytest.mark.whole
@pytest.mark.parametrize('name', LOSSES)
def test_losses_alone(run, name):
  output, _ = run(name)
  assert np.isfinite(float(output.split()[-1]))


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name == 'own_linen' else pytest.mark.whole)
    for name in sorted({*SCRIPTS} - {*LOSSES, 'hf_folder'})
  ],
)
def test_distill(run, name):
  _, result = run(name)
  assert {'baseline', 'student'} <= result.results['stages'].keys() and result.report.exists()
  teacher = result.experiment.summary('teacher')['steps']
  assert teacher == (0 if name in ('function', 'stored_logits', 'orbax_checkpoint') else 2)


@pytest.mark.whole
def test_hf_folder(run, bert):
  output, result = run('hf_folder', bert)
  assert result.experiment.summary('teacher')['steps'] == 0
  assert any(kind in output.splitlines()[-1] for kind in ('colour', 'shape', 'yes or no'))
