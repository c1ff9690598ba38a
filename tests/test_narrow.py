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
  given = {'params': {'a': {'kernel': kernel, 'bias': kernel[0, 0, 0]}, 'b': {'embedding': words}}}
  small = quantize.variables(given, 'int8')
  wide = quantize.dequantize(small)['params']
  for x, y, axes in ((kernel, wide['a']['kernel'], (0, 1, 2)), (words, wide['b']['embedding'], 1)):
    step = np.abs(x).max(axes, keepdims=True) / 127
    assert (np.abs(x - y) <= 0.5001 * step).all() and (np.abs(x - y).max(axes) > 0).sum() >= 5
  np.testing.assert_array_equal(wide['a']['bias'], kernel[0, 0, 0])
  assert small['params']['a']['kernel'].values.dtype == np.int8
  assert memory.size(small) < 0.4 * memory.size(given)
  half = quantize.dequantize(quantize.variables(given, 'bfloat16'))['params']
  np.testing.assert_allclose(half['a']['kernel'], kernel, rtol=2**-8)
  assert quantize.variables(given, 'float32')['params']['a']['kernel'] is kernel


def test_a_student_hears_a_narrow_teacher(experiment, config, tmp_path, monkeypatch, capsys):
  drawn = experiment('drawn')
  first = drawn.model('teacher').init(jax.random.key(0), drawn.data.train.take([0]))
  safetensors_io.export(tmp_path / 'drawn.safetensors', first, drawn.vocabulary)
  with config.unlocked():
    config.teacher.update(weights='int8', init=str(tmp_path / 'drawn.safetensors'))
  heard = []

  def trained(setup, *_):
    heard.append(setup)
    nothing = {'steps': 0, 'wall_time_s': 0.0, 'first_step_s': 0.0, 'update_s': None}
    return {'student': {'variables': None, **nothing}}

  monkeypatch.setattr(trainer, 'train', trained)
  stages.run(made := experiment(), ('teacher', 'student'))
  found = made.summary('student')['teacher_weights']
  assert found['weights'] == 'int8' and found['bytes'] < 0.5 * found['bytes_before']
  assert 0 < found['mean_difference'] <= found['max_difference'] < 1 and 0.9 <= found['agreement'] <= 1
  assert capsys.readouterr().out.count('teacher: int8 weights') == 1
  assert 'teacher_weights' not in made.summary('teacher')
  assert any(x.dtype == np.int8 for x in jax.tree.leaves(heard[0].teacher_variables))
  batch = made.data.train.take(np.arange(8))
  seen = heard[0].teacher.apply(heard[0].teacher_variables, batch)[0]['logits']
  gap = np.abs(seen - made.model('teacher').apply(first, batch)[0]['logits'])
  assert 0 < gap.max() <= found['max_difference'] * 1.001


def test_other_weights_are_refused(experiment, config):
  with config.unlocked():
    config.teacher.weights = 'int4'
  with pytest.raises(KdjaxError, match="teacher.weights: 'int4'"):
    stages.run(experiment(), ('teacher',))
