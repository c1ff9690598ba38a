"""Exported models: their outputs, their answers, and what goes wrong."""

import json
import runpy
import shutil
import sys

import jax
import numpy as np
import pytest

import export_parity
import model_cases
from kdjax.errors import KdjaxError
from kdjax.evaluation import compare, exports
from kdjax.experiment import predict, trained_model
from kdjax.export import alone, answers, formats, hub, program, run
from kdjax.export import folder as folders
from kdjax.input.images import read_image
from kdjax.runtime import files, packages

LITERT = pytest.mark.skipif(not packages.installed('litert_converter'), reason='needs litert-converter')
SYMBOLIC = ('fusion', 'mel_cnn', 'gpt2')


def close(outputs, expected):
  assert outputs.keys() == expected.keys()
  for key, value in expected.items():
    limit = 2e-5 * max(1, np.abs(value).max())
    np.testing.assert_allclose(outputs[key], value, rtol=0, atol=limit, err_msg=key)


def written(form, one, tmp_path):
  """`run(inputs)` of a program in a format, as its stand-alone file runs it."""
  module = formats.module(form)
  module.write(one, tmp_path / module.FILE)
  about = {'format': form, 'inputs': one.inputs, 'outputs': one.outputs, 'interface': {}}
  files.write_json(tmp_path / folders.FILE, about)
  return alone.Model(tmp_path).run


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n in SYMBOLIC else pytest.mark.whole) for n in model_cases.CASES]
)
def test_stablehlo_takes_any_number_of_examples(name, tmp_path):
  pytest.importorskip('flatbuffers')
  one = model_cases.program(name)
  call = written('stablehlo', one, tmp_path)
  for rows in (1, 3):
    inputs = model_cases.batch(name, rows)
    close(call(inputs), jax.jit(one.apply)(one.weights, inputs))


@LITERT
@pytest.mark.parametrize('name', [n for n in model_cases.CASES if n != 'hashed_words'])
def test_litert_gives_the_same_outputs(name, tmp_path):
  one, inputs = model_cases.program(name), model_cases.batch(name, 2)
  close(written('litert', one, tmp_path)(inputs), jax.jit(one.apply)(one.weights, inputs))


@LITERT
def test_what_litert_lacks_is_one_line(tmp_path):
  with pytest.raises(KdjaxError, match='LiteRT cannot take this model: the converter says'):
    written('litert', model_cases.program('hashed_words'), tmp_path)
  assert not (tmp_path / 'model.tflite').exists()


def test_inputs_that_no_output_depends_on_are_left_out():
  assert model_cases.program('siglip_text').inputs.keys() == {'text'}
  assert model_cases.program('bert').inputs.keys() == {'text', 'text/mask'}


@pytest.fixture
def exported(trained, tmp_path):
  """(a copy of the workdir with the student as StableHLO, what was measured)."""
  pytest.importorskip('flatbuffers')
  workdir = tmp_path / 'w'
  shutil.copytree(trained.workdir, workdir)
  return workdir, run.export(workdir, ['stablehlo'], None)


@pytest.mark.whole
def test_its_answers_are_those_of_the_student(exported, trained, manifest, monkeypatch, capsys):
  workdir, _ = exported
  ours, theirs = predict.load(workdir), answers.load(workdir / 'exports' / 'stablehlo')
  image = read_image(manifest.parent / '0.png', '')
  given = {'image': [image, None, image], 'text': ['is it red?', 'is it blue?', None]}
  for one, other in zip(ours.predict(given), theirs.predict(given), strict=True):
    assert [name for name, _ in one] == [name for name, _ in other]
    np.testing.assert_allclose([s for _, s in one], [s for _, s in other], atol=1e-6)
  capsys.readouterr()
  script = str(workdir / 'exports' / 'stablehlo' / 'predict.py')
  picture = str(manifest.parent / '0.png')
  monkeypatch.setattr(sys, 'argv', [script, f'--image={picture}', '--text=is it red?', '--top=1'])
  runpy.run_path(script, run_name='__main__')
  name, score = ours.predict({k: v[:1] for k, v in given.items()})[0][0]
  assert capsys.readouterr().out.split() == [f'{score:.4f}', name]


@pytest.mark.whole
def test_it_is_measured_on_the_test_split(trained, tmp_path):
  pytest.importorskip('flatbuffers')
  workdir, measured = trained.workdir, run.export(trained.workdir, ['stablehlo'], trained)
  one = measured['stablehlo']
  assert one['value'] == one['float_value'] and one['agreement'] == 1 and one['difference'] < 1e-5
  assert one['bytes'] == (workdir / 'exports/stablehlo/model.stablehlo').stat().st_size
  assert one['cold_start_s'] > 0 and one['latency_ms_one_thread'] > 0 and one['float']['latency_ms'] > 0
  assert exports.recorded(workdir).keys() == {'stablehlo'}
  results = compare.run(trained)
  assert results['exports'].keys() == {'stablehlo'}
  page, text = ((workdir / f'report.{kind}').read_text() for kind in ('html', 'md'))
  assert 'Exports' in page and '| float, in JAX |' in text and '| stablehlo |' in text
  with pytest.raises(KdjaxError, match=r'stablehlo loses more than --tolerance=-0.1: top1 .* for '):
    run.export(trained.workdir, ['stablehlo'], trained, tolerance=-0.1)


@pytest.mark.parametrize(
  'name, message',
  [
    ('tflite', "unknown format: 'tflite'"),
    ('litert-int7', "unknown scheme: 'int7'"),
    ('stablehlo-int8', 'stablehlo has no quantised form; onnx, litert and web have'),
  ],
)
def test_unknown_formats_are_one_line(trained, name, message):
  with pytest.raises(KdjaxError, match=message):
    run.export(trained.workdir, ['stablehlo', name], None)
  assert not (trained.workdir / 'exports' / name).exists()


def test_a_missing_package_is_one_line(trained, monkeypatch):
  monkeypatch.setitem(sys.modules, 'flatbuffers', None)
  with pytest.raises(KdjaxError, match='stablehlo: StableHLO needs the package flatbuffers .*: pip install'):
    run.export(trained.workdir, ['stablehlo'], None)


def test_a_damaged_or_foreign_file_is_one_line(exported):
  workdir, _ = exported
  folder = workdir / 'exports' / 'stablehlo'
  about = json.loads((folder / 'export.json').read_text())
  content = (folder / 'model.stablehlo').read_bytes()
  (folder / 'model.stablehlo').write_bytes(content[:-1] + b'x')
  with pytest.raises(KdjaxError, match='model.stablehlo is not the file that was exported: export the model'):
    folders.read(folder)
  (folder / 'model.stablehlo').write_bytes(b'nothing')
  about['files']['model.stablehlo'] = folders.digest(folder / 'model.stablehlo')
  files.write_json(folder / 'export.json', about)
  with pytest.raises(KdjaxError, match='cannot be run'):
    folders.read(folder)
  about['files'] = {'../../config.json': folders.digest(workdir / 'config.json')}
  files.write_json(folder / 'export.json', about)
  with pytest.raises(KdjaxError, match='is not the file that was exported'):
    folders.read(folder)
  with pytest.raises(KdjaxError, match='holds no exported model'):
    folders.read(workdir)


def test_an_export_is_written_whole_or_not_at_all(exported, monkeypatch):
  workdir, _ = exported
  folder, trained = workdir / 'exports' / 'stablehlo', trained_model.load(workdir)
  before = sorted(p.name for p in folder.iterdir())

  def fails(*args):
    raise KdjaxError('no')

  monkeypatch.setattr(formats.module('stablehlo'), 'write', fails)
  with pytest.raises(KdjaxError, match='no'):
    folders.write(run.program(trained), trained, 'stablehlo', folder)
  assert sorted(p.name for p in folder.iterdir()) == before and len(list(folder.parent.iterdir())) == 1
  (workdir / 'mine').mkdir()
  (workdir / 'mine' / 'note.txt').write_text('kept')
  with pytest.raises(KdjaxError, match='is not empty, and holds no exported model'):
    folders.write(run.program(trained), trained, 'stablehlo', workdir / 'mine')
  assert (workdir / 'mine' / 'note.txt').read_text() == 'kept'


@pytest.mark.whole
def test_absent_modalities_are_hidden_inside():
  functions, variables = model_cases.model('fusion')
  example = model_cases.CASES['fusion'][1]

  def apply(variables, batch):
    return functions.apply(variables, batch, train=False)[0]

  one = program.make(apply, variables, example, ('logits',), several=True)
  batch = model_cases.batch('fusion', 3)
  present = {
    'image/present': np.array([1, 0, 1], np.float32),
    'text/present': np.array([1, 1, 0], np.float32),
  }
  outputs = one(**batch, **present)['logits']
  other = dict(batch, image=255 - batch['image'])
  changed = np.abs(one(**other, **present)['logits'] - outputs).max(1)
  assert changed[0] > 0 and changed[1] == 0 and one.inputs.keys() == {*batch, *present}


def test_a_gzipped_export_is_the_same_and_smaller(trained, tmp_path):
  pytest.importorskip('flatbuffers')
  workdir = tmp_path / 'w'
  shutil.copytree(trained.workdir, workdir)
  sizes, outputs = [], []
  for packed in (False, True):
    run.export(workdir, ['stablehlo'], None, packed=packed)
    folder = workdir / 'exports' / 'stablehlo'
    exported = folders.read(folder)
    sizes.append(folders.size(folder, exported.about))
    inputs = answers.arrays(exported.about['inputs'], trained.data.test.take(np.arange(2)))
    outputs.append(exported.run(inputs)['logits'])
  assert sizes[1] < sizes[0] and not (folder / 'model.stablehlo').exists()
  np.testing.assert_array_equal(*outputs)


def test_code_of_an_export_is_not_run(trained, tmp_path):
  workdir = tmp_path / 'w'
  shutil.copytree(trained.workdir, workdir)
  run.export(workdir, ['python'], None)
  with pytest.raises(KdjaxError, match='is Python code, which kdjax does not run'):
    answers.load(workdir / 'exports' / 'python')
  assert folders.read(workdir / 'exports' / 'python', trusted=True).run


def test_a_folder_for_the_hub(trained, tmp_path, monkeypatch):
  workdir = tmp_path / 'w'
  shutil.copytree(trained.workdir, workdir)
  (workdir / 'results.json').unlink(missing_ok=True)  # of a test that shares the workdir
  run.export(workdir, ['hf'], None)
  folder = workdir / 'exports' / 'hf'
  card = (folder / 'README.md').read_text()
  assert card.startswith('---\nlibrary_name: kdjax') and 'It was not compared with its baseline.' in card
  given = {'text': ['is it red?', 'is it blue?']}
  assert predict.load(folder).predict(given) == predict.load(workdir).predict(given)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(KdjaxError, match='--push needs the package huggingface_hub .*: pip install'):
    hub.push(folder, 'me/mine')


@LITERT
@pytest.mark.parametrize('scheme, limit', [('int8', 0.05), ('int4', 0.5), ('static8', 0.1)])
def test_litert_in_fewer_bits(scheme, limit, tmp_path):
  pytest.importorskip('ai_edge_quantizer')
  one, inputs = export_parity.program('mel_cnn'), export_parity.inputs('mel_cnn', 8)
  module = formats.module('litert')
  module.write(one, tmp_path / 'float.tflite')
  module.quantise(tmp_path / 'float.tflite', tmp_path / module.FILE, scheme, inputs)
  about = {'format': 'litert', 'quantised': scheme, 'inputs': one.inputs, 'outputs': one.outputs}
  files.write_json(tmp_path / folders.FILE, about | {'interface': {}})
  outputs = alone.Model(tmp_path).run(inputs)
  for key, array in jax.jit(one.apply)(one.weights, inputs).items():
    assert np.abs(outputs[key] - array).mean() < limit * array.std(), key
