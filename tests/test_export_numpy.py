"""Folders of NumPy code: run as a user would, they give what JAX gives, of every model and primitive."""

import ast

import numpy as np
import pytest

import export_parity
import export_primitives
from kdjax.errors import KdjaxError
from kdjax.export import numpy_code


@pytest.mark.parametrize('name', export_parity.CASES)
def test_models(name, tmp_path):
  program = export_parity.program(name)
  model = export_parity.alone_model(program, 'python', tmp_path)
  tolerance = export_parity.TOLERANCE.get(name, 1e-5)
  export_parity.check(program, model.run, export_parity.inputs(name), tolerance)


def test_missing_modalities(tmp_path):
  program = export_parity.program('fusion', several=True)
  assert 'image/present' in program.inputs
  model = export_parity.alone_model(program, 'python', tmp_path)
  export_parity.check(program, model.run, export_parity.inputs('fusion', several=True))


@pytest.mark.whole
@pytest.mark.filterwarnings('ignore:invalid value:RuntimeWarning')
def test_primitives(tmp_path):
  program = export_primitives.program()
  model = export_parity.alone_model(program, 'python', tmp_path)
  export_parity.check(program, model.run, export_primitives.inputs(5))


@pytest.mark.parametrize('primitive', export_primitives.REFUSED)
def test_what_has_no_translation_is_one_line(primitive, tmp_path):
  with pytest.raises(KdjaxError, match=f'^python: the model uses {primitive}, which .*StableHLO') as error:
    numpy_code.write(export_primitives.refused(primitive), tmp_path)
  assert '\n' not in str(error.value)


def test_the_code_imports_numpy_alone_and_says_what_it_is(tmp_path):
  program = export_parity.program('gpt2')
  numpy_code.write(program, tmp_path, 'A small language model.')
  text = (tmp_path / 'model.py').read_text(encoding='utf-8')
  tree = ast.parse(text)
  modules = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
  assert [ast.unparse(n) for n in modules] == ['import numpy as np']
  doc = ast.get_docstring(tree)
  assert doc.startswith('A small language model.')
  assert '- text: int32 [B, 12]' in doc and '- logits: float32 [B, 12, 40]' in doc
  defined = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
  assert defined == ['gelu_tanh', 'layer_norm', 'softmax', 'take_along', 'apply']


def test_each_weight_is_there_once(tmp_path):
  program = export_parity.program('gpt2')
  numpy_code.write(program, tmp_path)
  with np.load(tmp_path / 'weights.npz', allow_pickle=False) as arrays:
    weights = {k: v for k, v in arrays.items() if not k.startswith('constant/')}
  assert weights.keys() == program.weights.keys()
  for key, array in weights.items():
    np.testing.assert_array_equal(array, program.weights[key])
