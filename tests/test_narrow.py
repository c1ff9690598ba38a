"""A teacher in fewer bits: what it takes, how far its answers go from what they were, where that is said."""

import jax
import numpy as np
import pytest

from kdjax.errors import KdjaxError
from kdjax.experiment import stages
from kdjax.pretrained import safetensors_io
from kdjax.training import memory, quantize, trainer

RNG = np.random.default_rng(0)


def test_int8_is_off_by_half_a_step_of_its_channel():
  kernel = RNG.normal(size=(3, 3, 4, 6)).astype(np.float32) * np.logspace(-3, 3, 6, dtype=np.float32)
  kernel[..., 2] = 0
  words = RNG.normal(size=(7, 5)).astype(np.float32) * np.logspace(-3, 3, 7, dtype=np.float32)[:, None]
  inputs = {'params': {'a': {'kernel': kernel, 'bias': kernel[0, 0, 0]}, 'b': {'embedding': words}}}
  small = quantize.variables(inputs, 'int8')
  wide = quantize.dequantize(small)['params']
  for x, y, axes in ((kernel, wide['a']['kernel'], (0, 1, 2)), (words, wide['b']['embedding'], 1)):
    step = np.abs(x).max(axes, keepdims=True) / 127
    assert (np.abs(x - y) <= 0.5001 * step).all() and (np.abs(x - y).max(axes) > 0).sum() >= 5
  np.testing.assert_array_equal(wide['a']['bias'], kernel[0, 0, 0])
  assert small['params']['a']['kernel'].values.dtype == np.int8
  assert memory.size(small) < 0.4 * memory.size(inputs)
  half = quantize.dequantize(quantize.variables(inputs, 'bfloat16'))['params']
  np.testing.assert_allclose(half['a']['kernel'], kernel, rtol=2**-8)
  assert quantize.variables(inputs, 'float32')['params']['a']['kernel'] is kernel


@pytest.mark.whole
def test_a_student_hears_a_narrow_teacher(experiment, config, tmp_path, monkeypatch, capsys):
  drawn = experiment('drawn')
  first = drawn.model('teacher').init(jax.random.key(0), drawn.data.train.take([0]))
  safetensors_io.export(tmp_path / 'drawn.safetensors', first, drawn.vocabulary_of('student'))
  with config.unlocked():
    config.teacher.update(weights='int8', init=str(tmp_path / 'drawn.safetensors'))
  teacher_used = []

  def trained(setup, *_):
    teacher_used.append(setup)
    nothing = {'steps': 0, 'wall_time_s': 0.0, 'first_step_s': 0.0, 'update_s': None}
    return {'student': {'variables': None, **nothing}}

  monkeypatch.setattr(trainer, 'train', trained)
  stages.run(exp := experiment(), ('teacher', 'student'))
  result = exp.summary('student')['teacher_weights']
  assert result['weights'] == 'int8' and result['bytes'] < 0.5 * result['bytes_before']
  assert 0 < result['mean_difference'] <= result['max_difference'] < 1 and 0.9 <= result['agreement'] <= 1
  assert capsys.readouterr().out.count('teacher: int8 weights') == 1
  assert 'teacher_weights' not in exp.summary('teacher')
  assert any(x.dtype == np.int8 for x in jax.tree.leaves(teacher_used[0].teacher_variables))
  batch = exp.data.train.take(np.arange(8))
  seen = teacher_used[0].teacher.apply(teacher_used[0].teacher_variables, batch)[0]['logits']
  gap = np.abs(seen - exp.model('teacher').apply(first, batch)[0]['logits'])
  assert 0 < gap.max() <= result['max_difference'] * 1.001


def test_other_weights_are_refused(experiment, config):
  with config.unlocked():
    config.teacher.weights = 'int4'
  with pytest.raises(KdjaxError, match="teacher.weights: 'int4'"):
    stages.run(experiment(), ('teacher',))
