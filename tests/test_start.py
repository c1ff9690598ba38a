"""Weights that start from a checkpoint, and weights that stay as they are."""

import jax
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import save_file

from kdjax.errors import KdjaxError
from kdjax.experiment import predict, stages
from kdjax.nn import functional
from kdjax.pretrained import initialize, safetensors_io
from kdjax.recipes import model
from kdjax.training import streams


@pytest.fixture
def encoder(experiment, tmp_path):
  """A trained image encoder with a classifier of its own, as a file."""
  exp = experiment('first')
  stages.run(exp, ('teacher',))
  trained = jax.tree.map(lambda x: x[0], exp.variables('teacher'))
  image = {kind: dict(tree.get('encoders_image', {})) for kind, tree in trained.items()}
  image['params']['head'] = {'linear': {'kernel': np.ones((3, 7), np.float32)}}
  path = tmp_path / 'image.safetensors'
  safetensors_io.export(path, image)
  return path, image


def of(variables, part='encoders_image'):
  return {kind: tree[part] for kind, tree in functional.merge(variables).items() if part in tree}


def begun(config, experiment, path, lr=1e-30, **more):
  config.teacher.model.encoders.image.update(init=str(path), **more)
  config.teacher.train.optimiser.update(lr=lr, schedule='constant', weight_decay=0.0)
  exp = experiment('second')
  stages.run(exp, ('teacher',))
  return exp, jax.tree.map(lambda x: x[0], exp.variables('teacher'))


@pytest.mark.whole
def test_a_part_starts_from_a_file(config, experiment, encoder):
  path, image = encoder
  _, trained = begun(config, experiment, path)
  head = image['params'].pop('head')
  assert head
  jax.tree.map(np.testing.assert_array_equal, of(trained)['params'], image['params'])


@pytest.mark.whole
def test_what_is_frozen_stays_to_the_last_bit_batch_norm_too(config, experiment, encoder):
  path, image = encoder
  image['params'].pop('head')
  _, trained = begun(config, experiment, path, lr=1e-1, frozen=True)
  jax.tree.map(np.testing.assert_array_equal, of(trained), image)
  assert 'encoders_image' not in trained['params']


@pytest.mark.whole
def test_the_rest_is_trained(config, experiment, encoder):
  config.teacher.model.encoders.image.update(frozen=True)
  exp = experiment('second')
  keys, _ = streams.initial(streams.seeds((0,), 'teacher')[0], 3)
  fresh = exp.model('teacher').init(keys[0], exp.data.train.take([0]))
  stages.run(exp, ('teacher',))
  trained = jax.tree.map(lambda x: x[0], exp.variables('teacher'))
  assert jax.tree.structure(fresh) == jax.tree.structure(trained)
  same = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-7), fresh, trained)
  assert jax.tree.all(same['frozen']) and not jax.tree.all(same['params'])


def test_another_architecture_is_one_line(config, experiment, encoder):
  config.teacher.model.encoders.image.update(init=str(encoder[0]), widths=(8, 24))
  with pytest.raises(KdjaxError, match='of another shape'):
    stages.run(experiment('second'), ('teacher',))


def test_paths_follow_the_names_of_flax():
  tower = model('clip', image=model('vit_class_token', init='a'), text=model('clip_text', frozen=True))
  whole = model('fusion', encoders={'both': tower})
  result = {p.path: (p.init, p.frozen) for p in initialize.parts(whole)}
  assert result == {
    (): ('', False),
    ('encoders_both',): ('', False),
    ('encoders_both', 'image'): ('a', False),
    ('encoders_both', 'text'): ('', True),
  }


def test_split_and_merge_are_inverse():
  tree = {
    'params': {'a': {'w': np.ones(2), 'head': np.ones(1)}, 'b': np.zeros(3)},
    'stats': {'a': np.ones(1)},
  }
  apart = functional.split(tree, (('a',),))
  assert apart['frozen'] == {'a': {'w': tree['params']['a']['w']}}
  assert set(apart['params']) == {'a', 'b'} and set(apart['params']['a']) == {'head'}
  jax.tree.map(np.testing.assert_array_equal, functional.merge(apart), tree)


@pytest.mark.whole
@pytest.mark.parametrize('old', [False, True], ids=['new', 'old'])
def test_a_file_can_be_read_whatever_was_frozen_when_it_was_written(config, experiment, old):
  config.teacher.train.steps = 1
  config.teacher.model.encoders.image.update(frozen=True)
  first = experiment('first')
  stages.run(first, ('teacher',))
  path = first.folder('teacher') / 'seed_0.safetensors'
  assert {k.split('/')[0] for k in safetensors_io.read(path)[0]} == {'params', 'batch_stats'}
  written = jax.tree.map(lambda x: x[0], first.variables('teacher'))
  params = functional.merge(written)['params']
  assert 'encoders_image' in written['frozen'] and 'encoders_image' in params
  if old:
    save_file(
      traverse_util.flatten_dict(written, sep='/'), path, {'vocabulary': first.vocabulary_of('student')}
    )
  predict.load(first.workdir, 'teacher')
  config.data.tokenizer = str(first.workdir / 'tokenizer.json')
  for image, text in ((False, True), (False, False), (True, False)):
    config.teacher.model.encoders.image.update(frozen=image)
    config.teacher.model.encoders.text.update(frozen=text)
    config.teacher.model.update(init=str(path))
    begun = functional.merge(experiment(f'part {image} {text}').start('teacher'))['params']
    jax.tree.map(np.testing.assert_array_equal, begun, {k: v for k, v in params.items() if k != 'head'})
    config.teacher.model.update(init='')
    config.teacher.init = str(path)
    taken = experiment(f'whole {image} {text}')
    stages.run(taken, ('teacher',))
    result = functional.merge(jax.tree.map(lambda x: x[0], taken.variables('teacher')))['params']
    jax.tree.map(np.testing.assert_array_equal, result, params)
    config.teacher.init = ''


def test_a_model_that_is_frozen_as_a_whole(tmp_path):
  tree = {'params': {}, 'frozen': {'a': np.ones(2, np.float32)}}
  safetensors_io.export(tmp_path / 'a.safetensors', tree)
  result = safetensors_io.load(tmp_path / 'a.safetensors', tree)
  assert result.keys() == tree.keys() and not result['params'] and (result['frozen']['a'] == 1).all()


@pytest.mark.whole
def test_a_student_is_cut_out_of_its_teacher(config, experiment):
  config.teacher.model = model('transformer', width=16, depth=4, heads=4)
  start_from = {'from': 'teacher', 'layers': 'spaced', 'width': 'uniform'}
  config.student.model = model('transformer', width=8, depth=2, heads=2, init=start_from)
  config.student.train.optimiser.update(lr=1e-30, weight_decay=0.0)
  exp = experiment()
  stages.run(exp, ('teacher', 'baseline', 'student'))
  teacher, baseline, student = (exp.variables(s)['params'] for s in ('teacher', 'baseline', 'student'))
  np.testing.assert_array_equal(student['words']['embedding'][0], teacher['words']['embedding'][0][:, ::2])
  last = [v['mlp_in']['bias'][0] for v in (student['block2'], teacher['block4'])]
  np.testing.assert_array_equal(last[0], last[1][::2])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-20), student, baseline)


@pytest.mark.whole
def test_a_student_predicts_with_the_classifier_of_its_teacher(config, experiment):
  """SimKD: a projector is trained to the teacher's last map, and the classifier stays the teacher's."""
  config.teacher.model = model('resnet', widths=(8, 16), blocks=(0, 1), patch=4)
  encoder = model('resnet', widths=(4, 8), blocks=(0, 1), patch=4)
  reused = {'from': 'teacher', 'classifier': True}
  config.student.model = model('projected', encoder=encoder, tap='stage2', width=16, init=reused)
  config.task_weight = 0.0
  config.methods = {'simkd': {'weight': 1.0, 'student': 'projected', 'teacher': 'stage2'}}
  exp = experiment()
  stages.run(exp, ('teacher', 'student'))
  teacher, student = (exp.variables(s) for s in ('teacher', 'student'))
  assert 'head' not in student['params'] and set(student['frozen']) == {'head'}
  jax.tree.map(np.testing.assert_array_equal, student['frozen']['head'], teacher['params']['head'])
  batch = exp.data.test.take(np.arange(4))
  taps = exp.model('student').apply(jax.tree.map(lambda x: x[0], student), batch)[0]
  head = jax.tree.map(lambda x: x[0], teacher['params']['head']['linear'])
  wanted = np.mean(taps['projected'], (1, 2)) @ head['kernel'] + head['bias']
  np.testing.assert_allclose(taps['logits'], wanted, rtol=1e-4, atol=1e-5)
  begun = traverse_util.flatten_dict(exp.start('student'), sep='/')
  assert set(begun) == {'frozen/head/linear/kernel', 'frozen/head/linear/bias'}


@pytest.mark.parametrize(
  ('init', 'said'),
  [
    ({'from': 'teacher', 'classifier': True, 'layers': 'first'}, "unknown key of init: 'layers'"),
    ({'from': 'teachr'}, "init is {'from': 'teachr'}"),
    ({'from': 'teacher', 'layer': 'first'}, "unknown key of init: 'layer'"),
    ({'from': 'teacher', 'part': 'nose'}, "unknown part of the teacher's model: 'nose'"),
  ],
)
def test_what_cannot_be_inherited_is_one_line(init, said):
  config = model('bag_of_words', init=init)
  like = {'params': {'words': np.zeros(2)}}
  with pytest.raises(KdjaxError, match=said.replace('{', r'\{')):
    initialize.load(config, like, teacher=lambda: (model('bag_of_words'), like))


def test_a_scalar_is_exported_as_one(tmp_path):
  tree = {'params': {'logit_scale': np.float32(2.0), 'w': np.ones((2, 3), np.float32).T}}
  safetensors_io.export(tmp_path / 'a.safetensors', tree)
  jax.tree.map(np.testing.assert_array_equal, safetensors_io.load(tmp_path / 'a.safetensors', tree), tree)
