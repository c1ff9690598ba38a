"""The files of configs/tables: what they ask for can be built, with the models and settings they name."""

import functools
import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.tables import cifar100_dkd_same, cifar100_logit_standardisation_same, repdistiller
from kdjax import registry
from kdjax.experiment import build, load
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.validate import check
from kdjax.input import splits, tokenizer
from kdjax.paper_tables.table import SCALES
from kdjax.paper_tables.table import load as load_
from kdjax.runtime.config_tree import flat
from kdjax.training import memory
from kdjax.types import DataSet
from test_cifar_zoo import ZOO

FOLDER = Path(__file__).parents[1] / 'configs' / 'tables'
TABLES = sorted(p.stem for p in FOLDER.glob('*.py') if 'def get_table(' in p.read_text())
CIFAR = [name for name in TABLES if name.startswith('cifar100_')]
MADE_UP = {  # data set -> side, channels and classes
  'cifar10': (32, 3, 10),
  'cifar100': (32, 3, 100),
  'image_text': (224, 3, 1000),
  'imagenet2012': (224, 3, 1000),
  'mnist': (28, 1, 10),
  'oxford_flowers102': (500, 3, 102),  # and so Pets, Food101 and SUN397, but for their classes
}
TORCHVISION = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}  # its ResNets
SIZES = {k.lower().replace('_', '').replace('shufflev', 'shufflenetv'): v[2] for k, v in ZOO.items()}


@functools.cache
def table(name, scale='paper'):
  return load_(str(FOLDER / f'{name}.py'), scale)


@functools.cache
def parts(name):
  """What experiments on one made-up data set need not trace twice."""
  return {}


def shallow(inputs):
  """A published tower with one block or its shallowest stages: the taps that it has do not depend on that."""
  if inputs.get('model') in ('vit_class_token', 'clip_text'):
    inputs = inputs | {'depth': 1}
  elif inputs.get('model') == 'bit_resnet':
    inputs = inputs | {'depth': 26, 'width': 1}
  return {k: shallow(v) if isinstance(v, dict) else v for k, v in inputs.items()}


def experiment(config, folder):
  """An experiment over a few black images, in the shape of its data set; None where that is unknown.

  The towers are shallow; `made_of` below and the tests of the published tables build them as they are.
  """
  config['teacher']['init'] = ''  # nothing is fetched
  for stage in ('teacher', 'student'):
    config[stage]['model'] = shallow(config[stage]['model'])
  exp, inputs = Experiment(config, folder), config['data']
  if inputs['name'] == 'gaussians':
    return exp
  if config['task']['name'] == 'language_modelling':
    return talking(exp)
  if inputs['name'] not in MADE_UP:
    return None
  side, channels, classes = MADE_UP[inputs['name']]
  side = inputs['image_size'] or side
  arrays = {'id': np.arange(4, dtype=np.int32), 'label': np.arange(4, dtype=np.int32)}
  arrays['image'], words = np.zeros((4, side, side, channels), np.uint8), None
  if inputs['name'] == 'image_text':
    rows, words = (4, inputs['text_length']), tokenizer.train(['a text'], 9)
    arrays |= {'text': np.zeros(rows, np.int32), 'text/mask': np.ones(rows, bool)}
  held = splits.InMemorySplit(arrays)
  dataset = DataSet({'train': [0]}, tuple(map(str, range(classes))), 'made up')
  validation = held if config['select'] == 'best' else None
  exp.__dict__['data'] = load.Data(dataset, words, None, held, held, held, validation, held)
  exp.__dict__['shared'] = parts((inputs['name'], side))
  return exp


def talking(result):
  """An experiment over a few empty texts; its models have two blocks, and are not fetched."""
  config = result.config
  for stage in ('teacher', 'student'):
    config[stage]['model'] |= {'init': '', 'depth': 2}
  rows = 4, config['data']['text_length']
  arrays = {'text': np.zeros(rows, np.int32), 'text/target': np.zeros(rows, np.int32)}
  arrays |= {'text/mask': np.ones(rows, bool), 'text/response': np.ones(rows, bool)}
  held = splits.InMemorySplit({'id': np.arange(4, dtype=np.int32), **arrays})
  words = tokenizer.cut(tokenizer.train(['a text'], 9, end=True), rows[1])
  dataset = DataSet({'train': [0]}, ('',) * tokenizer.size(words), 'made up')
  result.__dict__['data'] = load.Data(dataset, words, None, held, held, held, None, held)
  result.__dict__['shared'] = parts('talking')
  return result


@pytest.mark.parametrize('name', TABLES)
def test_a_table_is_made_at_every_scale(name):
  text = (FOLDER / f'{name}.py').read_text()
  assert f'python run.py table configs/tables/{name}.py' in text.split('"""')[1]
  assert len(text.splitlines()) <= 120
  for scale in SCALES:
    result = table(name, scale)
    assert result.name == name and result.notes and result.paper and result.source
    assert all(c.published is None or np.isfinite(c.published) for c in result.cells().values())


@pytest.mark.parametrize('name', [*CIFAR, 'cifar10_scaled', 'imagenet_dist_dkd', 'patient_teacher'])
def test_smoke_is_a_few_steps_of_the_same(name):
  whole = table(name).experiments
  assert table(name, 'smoke').title == f'{table(name).title}: smoke'
  for key, config in table(name, 'smoke').experiments.items():
    assert config.data.name == whole[key].data.name and config.cohort == whole[key].cohort
    assert all(
      config[s].train.steps == 4 and config[s].train.batch_size == 16 for s in ('teacher', 'student')
    )
    assert config.seeds == 2 and config.data.limit.train == 96 and config.teacher.init == ''
    assert whole[key].seeds == (1 if name == 'patient_teacher' else 3)


def kinds(result):
  """The configs of a table that differ in more than data and seeds."""
  collected = {}
  for config in result.experiments.values():
    config = config.to_dict()
    key = json.dumps([config[k] for k in ('teacher', 'student', 'methods', 'cohort')], sort_keys=True)
    collected.setdefault(key, config)
  return collected.values()


@pytest.mark.whole
@pytest.mark.parametrize('name', TABLES)
def test_every_member_can_be_built_and_finds_its_taps(name, tmp_path, monkeypatch):
  monkeypatch.setattr(memory, 'free', lambda mesh: math.inf)  # of the paper's machine, not of this one
  for i, config in enumerate(kinds(table(name))):
    one = experiment(config, tmp_path / str(i))
    if one is not None:
      check(one)
    for member in Experiment(config, tmp_path).members.values():
      build.method(member.config['methods'], member.config['student']['train']['steps'], lambda given: None)


def count(variables):
  return sum(x.size for x in jax.tree.leaves(variables['params']))


def made_of(inputs, image=32, classes=100):
  inputs = dict(inputs)
  net = registry.make('models', inputs.pop('model'), inputs | {'num_classes': classes})
  batch = {'image': jax.ShapeDtypeStruct((1, image, image, 3), jnp.uint8)}
  return jax.eval_shape(net.init_with_output, jax.random.key(0), batch)


@pytest.mark.parametrize('name', repdistiller.MODELS)
def test_models_have_the_size_of_the_papers(name):
  taps, variables = made_of(repdistiller.MODELS[name])
  assert count(variables) == SIZES[name.lower().replace('-', '')]
  assert set(repdistiller.maps(name)) == {k for k in taps if re.fullmatch(r'stage\d', k)}


def test_every_pair_has_the_models_of_its_name():
  for name in CIFAR:
    for key, config in table(name).experiments.items():
      if ' → ' in key:
        teacher, student = re.split(' → |, ', key)[:2]
        assert config.teacher.model.to_dict() == repdistiller.MODELS[teacher]
        assert config.student.model.to_dict() == repdistiller.MODELS[student]
        assert table(name).teachers[key] == f'teacher {teacher}'


def test_models_of_imagenet():
  for config in table('imagenet_dist_dkd').experiments.values():
    teacher, student = config.teacher.model.to_dict(), config.student.model.to_dict()
    assert count(made_of(teacher, 224, 1000)[1]) == TORCHVISION[teacher['depth']]
    theirs = TORCHVISION[18] if student['model'] == 'resnet_imagenet' else 4_231_976
    assert count(made_of(student, 224, 1000)[1]) == theirs
    assert config.teacher.init == f'hf:timm/resnet{teacher["depth"]}.tv_in1k'


def test_one_workdir_serves_all_tables_of_cifar100():
  """The same name is the same config, and the same member the same student, in all of them."""
  configs, members = {}, {}
  for name in CIFAR:
    for key, config in table(name).experiments.items():
      own = config.to_dict()
      cohort = own.pop('cohort')
      assert configs.setdefault(key, own) == own
      for member, changes in cohort.items():
        assert members.setdefault((key, member), changes) == changes, (key, member)


def test_the_labels_of_a_second_stage_are_their_cross_entropy():
  changes = repdistiller.WAYS['AB'].member('vgg13', 'vgg8')
  total = (repdistiller.FIRST + repdistiller.EPOCHS) * 100
  assert changes['task_weight'] == 0
  only = build.method({'labels': changes['methods']['labels']}, total)
  rng = np.random.default_rng(0)
  logits, label = jnp.asarray(rng.normal(size=(8, 100)) * 9), jnp.asarray(rng.integers(0, 100, 8))

  def loss(logits, step):
    inputs = {'logits': logits}, {}, {'label': label}
    terms, _ = only.loss({'labels': {}}, {'labels': {}}, *inputs, step=step, rng=jax.random.key(0))
    value, n = terms['labels']
    return value / n

  def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

  before, value, gradient, wanted, wanted_gradient = jax.jit(
    lambda x: (loss(x, 2999), loss(x, 3000), jax.grad(loss)(x, 3000), *jax.value_and_grad(cross_entropy)(x))
  )(logits)
  assert before == 0
  np.testing.assert_allclose(value, wanted, rtol=1e-6)
  np.testing.assert_allclose(gradient, wanted_gradient, atol=1e-7)
  method = changes['methods']['ab']
  assert method['stop'] * 270 == pytest.approx(30) == changes['methods']['labels']['start'] * 270


def test_the_scaled_table_prints_no_numbers_of_others():
  result = table('cifar10_scaled', 'cpu')
  assert all(c.published is None for c in result.cells().values()) and '16×16 in 5 epochs' in result.title
  same = table('cifar100_repdistiller_same').experiments['resnet56 → resnet20'].cohort
  cohort = result.experiments['resnet20 → resnet8'].cohort
  for member in ('KD', 'FitNet', 'AT', 'SP', 'RKD'):
    assert cohort[member] == same[member]
  assert flat(cohort.CRD.to_dict()).items() - flat(same.CRD.to_dict()).items() == {
    ('methods.crd.dim', 32),
    ('methods.crd.negatives', 2048),
  }


def test_what_has_no_row_is_said_why():
  notes = ' '.join(cifar100_logit_standardisation_same.NOTES)
  assert 'MLKD' in notes and 'RandAugment' in notes
  assert any('ReviewKD' in note for note in cifar100_dkd_same.NOTES)
