"""ONNX files: what onnxruntime gives for them is what JAX gives, of every model and primitive."""

import shutil
import sys
from collections import Counter

import numpy as np
import pytest

import export_parity
import export_primitives
from kdjax.errors import KdjaxError
from kdjax.export import alone
from kdjax.export import onnx as export_onnx
from kdjax.export import program as export_program
from kdjax.runtime import files

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')


def written(program, folder):
  export_onnx.write(program, folder / 'model.onnx')
  return onnx.load(folder / 'model.onnx')


@pytest.mark.parametrize('name', export_parity.CASES)
def test_models(name, tmp_path):
  program = export_parity.program(name)
  model = export_parity.alone_model(program, 'onnx', tmp_path)
  export_parity.check(program, model.run, export_parity.inputs(name), export_parity.TOLERANCE.get(name, 1e-5))


def test_missing_modalities(tmp_path):
  program = export_parity.program('fusion', several=True)
  model = export_parity.alone_model(program, 'onnx', tmp_path)
  export_parity.check(program, model.run, export_parity.inputs('fusion', several=True))


@pytest.mark.parametrize(
  'name, scheme, limit',
  [  # looser where products of 8 bits saturate, on processors without VNNI
    ('bert', 'int8', 0.15),
    ('bert', 'int4', 0.5),
    ('cifar_resnet', 'int8', 0.1),
    ('cifar_resnet', 'int4', 0.5),
    ('cifar_resnet', 'static8', 0.3),
    ('gpt2', 'static8', 0.6),
    ('mel_cnn', 'int8', 0.05),  # its spectrogram stays in float
    ('mel_cnn', 'static8', 0.1),
  ],
)
def test_fewer_bits(name, scheme, limit, tmp_path):
  program, inputs = export_parity.program(name), export_parity.inputs(name, 8)
  float_file, path = tmp_path / 'float.onnx', tmp_path / 'model.onnx'
  whole = export_parity.alone_model(program, 'onnx', tmp_path).run(inputs)
  shutil.move(path, float_file)
  export_onnx.quantise(float_file, path, scheme, inputs)
  about = files.read_json(tmp_path / 'export.json', {}, '')
  files.write_json(tmp_path / 'export.json', about | {'quantised': scheme})
  fewer = alone.Model(tmp_path).run(inputs)
  for key, array in whole.items():
    assert np.abs(fewer[key] - array).mean() < limit * array.std(), key
  one = alone.Model(tmp_path).run({k: v[:1] for k, v in inputs.items()})
  for key, array in one.items():  # the range of activations does not come from the other examples
    np.testing.assert_allclose(array[0], fewer[key][0], atol=1e-5)
  if name == 'cifar_resnet':  # the steps between floats and integers weigh more than a smaller model
    assert path.stat().st_size < float_file.stat().st_size


def test_primitives(tmp_path):
  program = export_primitives.program()
  model = export_parity.alone_model(program, 'onnx', tmp_path)
  export_parity.check(program, model.run, export_primitives.inputs(5))


@pytest.mark.parametrize('primitive', export_primitives.REFUSED)
def test_what_has_no_translation_is_one_line(primitive, tmp_path):
  with pytest.raises(KdjaxError, match=f'^onnx: the model uses {primitive}, which .*StableHLO') as error:
    export_onnx.write(export_primitives.refused(primitive), tmp_path / 'model.onnx')
  assert '\n' not in str(error.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['gpt2', 'cifar_resnet', 'bert'])
def test_each_weight_is_one_initialiser_of_its_name(name, tmp_path):
  program = export_parity.program(name)
  model = written(program, tmp_path)
  names = Counter(i.name for i in model.graph.initializer)
  assert {n: names[n] for n in program.weights} == dict.fromkeys(program.weights, 1)
  size = sum(a.nbytes for a in program.weights.values())
  assert sum(len(i.raw_data) for i in model.graph.initializer) < size + 2000


def test_names_types_and_the_batch(tmp_path):
  program = export_parity.program('fusion', several=True)
  model = written(program, tmp_path)
  onnx.checker.check_model(model, full_check=True)
  inputs = {i.name: i.type.tensor_type for i in model.graph.input}
  assert list(inputs) == [export_program.name(key) for key in program.inputs]
  kinds = {n: onnx.TensorProto.DataType.Name(t.elem_type) for n, t in inputs.items()}
  assert kinds['text_mask'] == kinds['text'] == 'INT32'  # onnxruntime-web takes no bool
  assert (kinds['image'], kinds['image_present']) == ('UINT8', 'FLOAT')
  assert [o.name for o in model.graph.output] == ['embed', 'image_embed', 'logits', 'text_embed']
  ends = [*model.graph.input, *model.graph.output]
  assert {i.type.tensor_type.shape.dim[0].dim_param for i in ends} == {'batch'}
  assert not model.graph.value_info


def test_convolutions_need_one_transposition(tmp_path):
  counts = Counter(n.op_type for n in written(export_parity.program('cifar_resnet'), tmp_path).graph.node)
  assert (counts['Transpose'], counts['Conv'], counts['BatchNormalization'], counts['Relu']) == (1, 9, 9, 7)


def test_whole_numbers_wrap_around(tmp_path):
  program = export_parity.program('hashed_words')
  model = export_parity.alone_model(program, 'onnx', tmp_path)
  inputs = export_parity.inputs('hashed_words')
  inputs['text'] = np.random.default_rng(0).integers(0, 2**31, inputs['text'].shape, np.int32)
  export_parity.check(program, model.run, inputs)


def test_a_missing_package_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'onnx', None)
  with pytest.raises(KdjaxError, match=r'pip install kdjax\[onnx\]'):
    export_onnx.write(export_parity.program('mlp'), tmp_path / 'model.onnx')
