"""`predict` for files, folders, patterns and tables of one's own, as a person calls it."""

import csv
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image
from scipy.io import wavfile

from kdjax.cli import flags, main
from kdjax.errors import KdjaxError
from kdjax.experiment import predict, predict_files
from kdjax.input.encode import make_encode


@pytest.fixture
def folder(trained, manifest, tmp_path, monkeypatch):
  """The current folder, with three images."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'shapes').mkdir()
  for i in range(3):
    shutil.copy(manifest.parent / f'{i}.png', tmp_path / 'shapes')
  (tmp_path / 'shapes' / 'notes.md').write_text('no image')
  return tmp_path


@pytest.fixture
def ask(trained, folder, capsys, monkeypatch):
  """`ask(*args)`: the lines that the command prints."""

  def ask(*args):
    monkeypatch.setattr('sys.argv', ['kdjax', 'predict', f'--workdir={trained.workdir}', '--cache=', *args])
    with flagsaver.flagsaver():
      main.main(flags.parse(main.sys.argv), '')
    return capsys.readouterr().out.splitlines()

  return ask


def test_one_row_has_its_best_answers_and_an_honest_time(ask):
  lines = ask('--image=shapes/0.png', '--text=is it red?', '--top=3')
  assert len(lines) == 4 and lines[-1].endswith('in batches of 1, compiled and without reading files.')
  scores = [float(line.split()[0]) for line in lines[:3]]
  assert scores == sorted(scores, reverse=True)


def test_a_word_that_was_never_seen_is_named(ask):
  warning, *_ = ask('--image=shapes/0.png', '--text=what hue is it?')
  assert warning.startswith("warning: 'hue': not in the vocabulary of the model")


@pytest.mark.parametrize('pattern', ['shapes', 'shapes/', 'shapes/*.png', '**/?.png'])
def test_folders_and_patterns_are_rows(ask, pattern):
  lines = ask(f'--image={pattern}', '--text=is it red?', '--batch=2')
  assert [line.split()[1] for line in lines[:3]] == [f'shapes/{i}.png:' for i in range(3)]


def test_texts_of_a_file_one_a_line(ask, folder):
  (folder / 'asked.txt').write_text('is it red?\n\nis it blue?\n')
  told, first, second, _ = ask('--image=shapes/1.png', '--text=asked.txt')
  assert told == 'asked.txt: 2 texts, one a line.'
  assert 'is it red?: ' in first and 'is it blue?: ' in second


def test_a_table_in_and_a_table_out(ask, folder):
  rows = [{'image': f'shapes/{i}.png', 'text': 'is it red?', 'own': [i]} for i in range(3)]
  rows.append({'text': 'is it blue?', 'own': None, 'score': 'old'})
  (folder / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  lines = ask('rows.jsonl', '--output=out/a.jsonl', '--batch=3', '--top=2')
  assert '1 of 4 rows have no image: the model answers them without it.' in lines
  assert 'a.jsonl: score of the table is replaced.' in lines
  written = [json.loads(line) for line in (folder / 'out' / 'a.jsonl').read_text().splitlines()]
  assert [row['own'] for row in written] == [[0], [1], [2], None]
  for row in written:
    assert row['predictions'][0] == {k: row[k] for k in ('prediction', 'score')}
    assert len(row['predictions']) == 2
  ask('--input=rows.jsonl', '--output=a.csv', '--batch=3', '--top=2')
  with (folder / 'a.csv').open(newline='') as file:
    cells = list(csv.DictReader(file))
  assert [row['prediction'] for row in cells] == [row['prediction'] for row in written]
  assert [float(row['score_2']) for row in cells] == [row['predictions'][1]['score'] for row in written]
  assert not list(folder.rglob('.a.*'))
  ask('a.csv', '--output=again.jsonl')
  again = [json.loads(line) for line in (folder / 'again.jsonl').read_text().splitlines()]
  np.testing.assert_allclose(*([float(r['score']) for r in t] for t in (again, cells)), atol=1e-6)


def test_alpha_and_16_bits_are_taken(ask, folder):
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 255, (40, 30, 4), np.uint8)).save(folder / 'alpha.png')
  Image.fromarray(rng.integers(0, 65535, (20, 30), np.uint16)).save(folder / 'deep.png')
  lines = ask('--image=alpha.png', '--image=deep.png', '--text=what colour is it?')
  assert 'predict: 1 example: an image with transparency, composited over white.' in lines


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    ((), r'what about\? Give --image=… and --text=…, or a table with --input=…'),
    (('a.jsonl', 'b.jsonl'), "what to do with 'predict a.jsonl b.jsonl'. It takes one argument"),
    (('a.jsonl', '--input=b.jsonl'), 'one table at a time: a.jsonl or --input=b.jsonl'),
    (('a.jsonl', '--text=b'), 'a.jsonl and --text: give a table, or'),
    (('--audio=a.wav',), 'the model takes image and text, and no audio: leave --audio out'),
    (('--image=none.png', '--text=a'), '--image: there is no image none.png'),
    (('--image=*.gif', '--text=a'), r'--image: no file is named as \*.gif'),
    (('--image=.', '--text=a'), r"--image: the folder . holds no .png, .*'./\*\*/\*.png'"),
    (('--text=none.txt',), '--text: cannot read none.txt'),
    (('--image=shapes', '--text=a', '--text=b'), '--text is given 2 times; give it once, or 3 times'),
    (('--text=a', '--seed=7'), 'has the seeds 0, and no 7'),
    (('--text=a', '--batch=0'), '--batch=0: it is 1 or more'),
    (('--text=a', '--output=a.xlsx'), r'a.xlsx: its name has to end in .jsonl or .csv'),
    (('--text=a', '--output=dir.csv'), 'dir.csv is a folder'),
    (('rows.csv', '--output=rows.csv'), 'rows.csv is the table that is read'),
    (('empty.jsonl',), 'empty.jsonl has no rows'),
    (('other.csv',), 'other.csv has the columns picture; the model takes image and text'),
    (('rows.csv',), 'rows.csv, line 3: there is no image'),
    (('gap.csv',), 'gap.csv, line 2: it has no image and no text'),
    (('broken.jsonl',), 'broken.jsonl, line 1: not a JSON object'),
  ],
)
def test_a_mistake_is_one_line(ask, folder, args, said):
  (folder / 'dir.csv').mkdir()
  (folder / 'rows.csv').write_text('image,text\nshapes/0.png,is it red?\nshapes/9.png,is it red?\n')
  (folder / 'gap.csv').write_text('image,text,other\n,,1\n')
  (folder / 'other.csv').write_text('picture\na.png\n')
  (folder / 'empty.jsonl').write_text('')
  (folder / 'broken.jsonl').write_text('{"text":')
  with pytest.raises(KdjaxError, match=said) as raised:
    ask(*args)
  assert '\n' not in str(raised.value) and not (folder / 'runs').exists()


def test_a_column_that_the_model_does_not_take_is_said(trained, folder, capsys):
  (folder / 'rows.csv').write_text('audio,text\na.wav,is it red?\n')
  rows = predict_files.table(predict.load(trained.workdir), folder / 'rows.csv')
  assert list(rows.columns) == ['text'] and rows.shown == [{'audio': 'a.wav', 'text': 'is it red?'}]
  assert "rows.csv: the column 'audio' is not read" in capsys.readouterr().out


def test_rows_of_one_question_are_sorted():
  shown = [{'image': name, 'text': 'a cat'} for name in ('a.png', 'b.png')]
  lines = predict_files.lines(shown, [[('cosine', 0.1)], [('cosine', 0.9)]])
  assert [line.split() for line in lines] == [['0.9000', 'b.png:', 'cosine'], ['0.1000', 'a.png:', 'cosine']]


def test_sounds_of_a_folder_are_read_in_the_rate_and_length_of_the_model(tmp_path):
  for name, rate, level in (('a.wav', 100, 0.5), ('b.wav', 200, -0.25)):
    wavfile.write(tmp_path / name, rate, np.full(rate // 10, level, np.float32))
  seen = []

  def forward(batch):
    seen.append({k: np.asarray(v) for k, v in batch.items()})
    return {'loudness': np.asarray(batch['audio']).mean(1)}

  predictor = predict.Predictor(
    keys={'audio': 'audio'},
    example={'audio': np.zeros(8, np.float32)},
    classes=(),
    rate=100,
    tokenizer=None,
    task=SimpleNamespace(relational=False, answer=lambda taps, _: [('loudness', float(taps['loudness']))]),
    encode=make_encode(),
    forward=forward,
  )
  rows = predict_files.given(predictor, {'audio': [str(tmp_path)]})
  answers = predictor.predict(rows.columns)
  assert seen[0]['audio'].shape == (2, 8) and answers[0] == [('loudness', 0.5)]
  assert -0.3 < answers[1][0][1] < -0.2
  assert [row['audio'] for row in rows.shown] == [str(tmp_path / name) for name in ('a.wav', 'b.wav')]
