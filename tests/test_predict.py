"""Answers for one's own files."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from kdjax.errors import KdjaxError
from kdjax.experiment import predict, stages
from kdjax.experiment.experiment import Experiment
from kdjax.pretrained import safetensors_io
from kdjax.runtime.files import read_json, write_json

KEPT = []


@pytest.fixture
def trained(config, tmp_path_factory):
  """Trained once a process."""
  if not KEPT:
    exp = Experiment(config.to_dict(), tmp_path_factory.getbasetemp() / 'predict')
    stages.run(exp, ('teacher', 'baseline', 'student'))
    KEPT.append(exp)
  return KEPT[0]


def test_it_answers_as_the_evaluation_does(trained, manifest):
  predictor = predict.load(trained.workdir)
  example, row = trained.data.dataset.splits['test'][0], trained.data.test.take([0])
  path = manifest.parent / '0.png'
  (answer,), took = predictor.predict({'image': [str(path)], 'text': [example['text']], 'audio': []})
  variables = {k: v for k, v in trained.variables('student').items()}
  one = {k: _first(v) for k, v in variables.items()}
  logits = np.asarray(trained.model('student').apply(one, row)[0]['logits'][0], np.float64)
  p = np.exp(logits - logits.max())
  classes = trained.data.dataset.classes
  assert [name for name, _ in answer] == [classes[i] for i in np.argsort(-p)]
  np.testing.assert_allclose([s for _, s in answer], np.sort(p / p.sum())[::-1], atol=1e-6)
  assert took > 0


def test_what_is_not_read_is_said(trained, capsys):
  predict.load(trained.workdir).predict({'text': ['is it red and round and large and heavy?', '完全未知']})
  shown = capsys.readouterr().out
  assert "1 of 2 have a longer 'text' than data.text_length, and it is cut" in shown
  assert "words of 'text' are unknown" in shown


def test_weights_that_are_not_finite_answer_nothing(trained, tmp_path):
  shutil.copytree(trained.workdir, tmp_path / 'copy')
  path = tmp_path / 'copy' / 'student' / f'seed_{trained.seeds("student")[0]}.safetensors'
  broken = {k: _first(v) for k, v in trained.variables('student').items()}
  leaf = jax.tree.leaves(broken)[0]
  broken = jax.tree.map(lambda x: np.full_like(x, np.nan) if x is leaf else np.array(x), broken)
  safetensors_io.export(path, broken, trained.vocabulary)
  with pytest.raises(KdjaxError, match='not finite'):
    predict.load(tmp_path / 'copy')


def _first(tree):
  return {k: _first(v) if isinstance(v, dict) else v[0] for k, v in tree.items()}


def test_what_is_not_given_is_absent_and_rows_are_answered_each(trained, manifest):
  predictor = predict.load(trained.workdir, 'teacher')
  assert predictor.inputs == ('image', 'text')
  files = [str(manifest.parent / f'{i}.png') for i in range(3)]
  answers, _ = predictor.predict({'image': files, 'text': ['what colour is it?']})
  assert len(answers) == 3 and len(predict.lines({'image': files}, answers)) == 3
  answers, _ = predictor.predict({'text': ['is it red?']})
  assert len(predict.lines({}, answers)) == 5


def test_other_sizes_alpha_and_16_bits_are_taken(trained, tmp_path):
  predictor, rng = predict.load(trained.workdir), np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 255, (40, 30, 4), np.uint8)).save(tmp_path / 'alpha.png')
  Image.fromarray(rng.integers(0, 65535, (20, 30), np.uint16)).save(tmp_path / 'deep.png')
  files = [str(tmp_path / name) for name in ('alpha.png', 'deep.png')]
  answers, _ = predictor.predict({'image': files, 'text': ['what colour is it?']})
  assert len(answers) == 2


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ({}, r'what about\? Give --image=… and --text=…'),
    ({'audio': ['a.wav']}, 'the model takes image and text, and no audio'),
    ({'image': ['none.png'], 'text': ['a']}, '--image: there is no image none.png'),
    ({'text': ['a', 'b'], 'image': ['a', 'b', 'c']}, '--text is given 2 times'),
  ],
)
def test_a_mistake_is_one_line(trained, given, said):
  with pytest.raises(KdjaxError, match=said) as raised:
    predict.load(trained.workdir).predict(given)
  assert '\n' not in str(raised.value)


def test_no_model_is_one_line(trained, tmp_path):
  with pytest.raises(KdjaxError, match='holds no finished student'):
    predict.load(tmp_path / 'empty')
  with pytest.raises(KdjaxError, match='has the seeds 0, and no 7'):
    predict.load(trained.workdir, seed=7)


@pytest.mark.parametrize(('shape', 'rate'), [((40,), 0), ((5, 3), 100)])
def test_sounds_of_no_known_rate_are_not_asked_for(trained, tmp_path, shape, rate):
  """Features, or a data set that does not tell its rate: no file can be read as one."""
  folder = tmp_path / 'w'
  shutil.copytree(trained.workdir, folder)
  path = folder / 'student' / 'stage.json'
  message = read_json(path, dict, '')
  message['example']['audio'], message['rate'] = (shape, 'float32'), rate
  write_json(path, message)
  assert predict.load(folder).inputs == ('image', 'text')


def test_the_command(trained, manifest):
  root = Path(__file__).parents[1]
  command = [sys.executable, 'run.py', 'predict', f'--workdir={trained.workdir}', '--text=is it red?']
  done = subprocess.run(
    [*command, f'--image={manifest.parent / "0.png"}'], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert len(done.stdout.splitlines()) == 6 and 'ms' in done.stdout
