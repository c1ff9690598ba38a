"""The tables against what was read from the papers' repositories: numbers, recipes, loss weights, taps."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from configs.tables import cifar100_dkd_same, repdistiller
from test_cifar_zoo import ZOO
from test_paper_tables import table

PUBLISHED = Path(__file__).parents[2] / 'shared' / 'paper_tables'
ALIASES = {
  'shnv2': 'shufflenetv2',
  'mnv2': 'mobilenetv2',
  'shufflev1': 'shufflenetv1',
  'shufflev2': 'shufflenetv2',
}


def plain(name):
  """An architecture's name without what the papers write differently."""
  name = re.sub('[-_ ]', '', name).lower()
  return ALIASES.get(name, name)


def published(name):
  path = PUBLISHED / f'{name}.json'
  if not path.exists():
    pytest.skip('needs the published numbers')
  return json.loads(path.read_text())


SOURCES = {
  'cifar100_repdistiller_same': 'cifar100_repdistiller_same_arch',
  'cifar100_repdistiller_diff': 'cifar100_repdistiller_diff_arch',
  'cifar100_dkd_same': 'mdistiller_dkd_cifar100_same_arch',
  'cifar100_dkd_diff': 'mdistiller_dkd_cifar100_diff_arch',
  'cifar100_logit_standardisation_same': 'cifar100_logit_standardization_same_arch',
  'cifar100_logit_standardisation_diff': 'cifar100_logit_standardization_diff_arch',
}


@pytest.mark.parametrize('name', SOURCES)
def test_published_numbers(name):
  theirs, (panel,) = published(SOURCES[name]), table(name).panels.values()
  columns = list(panel['teacher'])
  pairs = [tuple(map(plain, c.split(' → '))) for c in columns]
  messages = [(plain(c['teacher']), plain(c['student'])) for c in theirs['columns']]
  if name == 'cifar100_dkd_diff':  # a slip of the README: the numbers are those of ShuffleNetV2
    assert messages[4] == ('resnet32x4', 'mobilenetv2')
    messages[4] = ('resnet32x4', 'shufflenetv2')
  assert pairs == messages
  rows = {k: v for k, v in theirs['rows'].items() if not k.startswith('MLKD')}
  if name == 'cifar100_dkd_same':
    rows['ReviewKD'] = [None] * 6
  for row, numbers in rows.items():
    mine = panel[row.replace('+Ours', ' standardised')]
    assert [mine[c].published if c in mine else None for c in columns] == numbers, row
  assert panel.keys() - {'teacher', 'student'} == {k.replace('+Ours', ' standardised') for k in rows}
  for stage in ('teacher', 'student'):
    alone = [c.get(f'{stage}_acc') for c in theirs['columns']]
    assert [panel[stage][c].published for c in columns] == alone


@pytest.mark.parametrize('name', SOURCES)
def test_the_recipe(name):
  message = published(SOURCES[name])['recipe']
  drops = [int(x) for x in re.findall(r'> (\d+)', message['lr_schedule'])]
  assert drops == [150, 180, 210] and 'momentum 0.9, no nesterov' in message['optimizer']
  for key, config in table(name).experiments.items():
    for stage in ('teacher', 'student'):
      first = repdistiller.FIRST if stage == 'student' and 'after' in key else 0
      own, light = config[stage].train, key.split(' → ')[-1].split(',')[0] in repdistiller.LIGHT
      assert own.batch_size == message['batch_size']
      assert own.steps == int((message['epochs'] + first) * 50_000 / message['batch_size'])
      rate = message['lr_for_mobile_shuffle_students'] if stage == 'student' and light else message['lr']
      sgd = own.optimiser
      assert (sgd.name, sgd.lr, sgd.momentum, sgd.weight_decay) == ('sgd', rate, 0.9, message['weight_decay'])
      assert sgd.decay_all and not sgd.clip and not sgd.warmup and sgd.get('factor', 0.1) == 0.1
      epochs = message['epochs'] + first
      assert np.allclose([b * epochs - first for b in sgd.boundaries], drops) and sgd.schedule == 'steps'
      assert own.augment == ('crop_black', 'flip')
    assert (config.data.name, config.data.options.hold_out, config.seeds) == ('cifar100', 0, 3)
    assert config.select == 'last'


@pytest.mark.parametrize('name', ['cifar100_repdistiller_same', 'cifar100_repdistiller_diff'])
def test_loss_weights_and_taps_of_repdistiller(name):
  message = published(SOURCES[name])
  weights = {k: float(str(v).split(' ')[0]) for k, v in message['loss_weights'].items() if k != 'kd'}
  weights['AB'] *= 0.003  # inside their loss
  ours = {}
  for key, config in table(name).experiments.items():
    for member, changes in config.cohort.to_dict().items():
      (own,) = (v for k, v in changes['methods'].items() if k != 'labels')
      ours.setdefault(member, []).append((key, changes['task_weight'], own))
  assert ours.keys() - {'KD'} <= weights.keys()
  for member, result in ours.items():
    for key, task, own in result:
      if member == 'KD':
        kd = message['loss_weights']['kd']
        assert (task, own['weight'], own['temperature']) == (
          kd['gamma'],
          kd['alpha'],
          message['recipe']['kd_temperature'],
        )
        continue
      staged = member in ('AB', 'FSP')
      assert own['weight'] == pytest.approx(weights[member]) and task == (0 if staged else 1)
      assert ('after' in key) == staged
      for side, of in zip(('teacher', 'student'), re.split(' → |, ', key)[:2], strict=True):
        assert own[side] == tapped(member, of), (member, of)
  assert message['two_stage']['init_epochs'] == repdistiller.FIRST
  crd, theirs = ours['CRD'][0][2], message['crd']
  names = {'dim': 'feat_dim', 'negatives': 'nce_k', 'temperature': 'nce_t', 'momentum': 'nce_m'}
  assert {k: crd[k] for k in names} == {k: theirs[v] for k, v in names.items()}


def tapped(member, of):
  """What RepDistiller reads, by its list of features: stem, stages, vector."""
  key = {'ShuffleNetV1': 'ShuffleV1', 'ShuffleNetV2': 'ShuffleV2'}.get(of, of.replace('-', '_'))
  stages = [f'stage{i}' for i in range(1, len(ZOO[key][3]) - 1)]
  if member == 'FitNet':
    return stages[1]
  if member in ('SP', 'FT'):
    return stages[-1]
  if member in ('RKD', 'PKT', 'CC', 'CRD'):
    return 'embed'
  return tuple({'FSP': ['stem', *stages], 'AB': [f'{s}_before' for s in stages]}.get(member, stages))


@pytest.mark.parametrize('name', ['cifar100_dkd_same', 'cifar100_dkd_diff'])
def test_dkd_of_each_pair(name):
  default = published('mdistiller_config_defaults')['defaults']['DKD']
  record = {}
  for inputs in published(SOURCES[name])['configs'].values():
    pair = plain(inputs['DISTILLER']['TEACHER']), plain(inputs['DISTILLER']['STUDENT'])
    record[pair] = inputs['SOLVER'], inputs.get('DKD', {}).get('BETA', default['beta'])
  assert 'ReviewKD' not in published(SOURCES[name])['rows']  # a config, and no number
  for pair, config in table(name).experiments.items():
    if ' → ' in pair:
      solver, beta = record[tuple(map(plain, pair.split(' → ')))]
      own = config.cohort.DKD.methods.dkd
      assert (own.weight, own.alpha, own.beta, own.temperature) == (1, default['alpha'], beta, default['T'])
      assert own.warmup * solver['EPOCHS'] == pytest.approx(default['warmup'])
      assert config.cohort.DKD.task_weight == default['ce']
      assert config.student.train.optimiser.lr == solver['LR']
      kd = config.cohort.KD
      assert (kd.task_weight, kd.methods.kd.weight, kd.methods.kd.temperature) == (0.1, 0.9, 4)


@pytest.mark.parametrize(
  'name', ['cifar100_logit_standardisation_same', 'cifar100_logit_standardisation_diff']
)
def test_settings_of_logit_standardisation(name):
  message = published(SOURCES[name])
  assert message['recipe']['ce_weight'] == 0.1
  logs = {k: message['log_files'][f'{k}+Ours'] for k in ('KD', 'CTKD', 'DKD')}
  pairs = [k for k in table(name).experiments if ' → ' in k]
  for i, pair in enumerate(pairs):
    cohort = table(name).experiments[pair].cohort
    settings = {k: log(v[i]) for k, v in logs.items()}
    kd, ctkd, dkd = (cohort[f'{k}_standardised'].methods[k.lower()] for k in logs)
    assert (kd.temperature, kd.weight) == settings['KD'][:2]
    assert ctkd.weight == settings['CTKD'][1]
    assert (dkd.temperature, dkd.weight, dkd.beta) == settings['DKD'] and dkd.alpha == 1
    assert kd.standardise and ctkd.standardise and dkd.standardise
    tasks = {k: cohort[k].task_weight for k in cohort}
    assert tasks == {k: 1.0 if k.startswith('DKD') else 0.1 for k in tasks}
    plain_ = {k: 'standardise' in cohort[k].methods[k.lower()] for k in logs}
    assert not any(plain_.values()) and cohort.CTKD.methods.ctkd.weight == 0.9
    assert ctkd.steps == cohort.CTKD.methods.ctkd.steps == 10 * 50_000 // 64
    teacher, student = pair.split(' → ')
    known = cifar100_dkd_same.BETA.get((teacher, student))
    assert known is None or cohort.DKD.methods.dkd.beta == known


def log(path):
  """T, weight and β of the name of a log; β is 8 where it has none."""
  temperature, weight, beta = re.search(r',(\d+),(\d+)(?:,([\d.]+))?\.txt', path).groups()
  return float(temperature), float(weight), float(beta or 8)


def test_imagenet_is_what_was_published():
  dkd, dist = (
    published('mdistiller_dkd_imagenet'),
    published('dist_kd')['tables']['imagenet_baseline']['rows'],
  )
  (panel,) = table('imagenet_dist_dkd').panels.values()
  for row in ('KD', 'DKD'):
    assert [c.published for c in panel[row].values()] == dkd['rows'][row]
  assert [c.published for c in panel['DIST'].values()] == [float(r[2]) for r in dist]
  for i, stage in enumerate(('student', 'teacher')):
    messages = [float(re.search(r'\((.*)\)', r[i])[1]) for r in dist]
    assert [c.published for c in panel[stage].values()] == messages
  for folder, config in zip(
    ('r34_r18', 'r50_mv1'), table('imagenet_dist_dkd').experiments.values(), strict=True
  ):
    inputs = {k: dkd['configs'][f'configs/imagenet/{folder}/{k}.yaml'] for k in ('kd', 'dkd')}
    solver, own = inputs['dkd']['SOLVER'], config.student.train
    assert solver == inputs['kd']['SOLVER']
    assert own.batch_size == solver['BATCH_SIZE'] and own.optimiser.lr == solver['LR']
    assert own.steps == solver['EPOCHS'] * 1_281_167 // solver['BATCH_SIZE']
    assert np.allclose([b * solver['EPOCHS'] for b in own.optimiser.boundaries], solver['LR_DECAY_STAGES'])
    assert (own.optimiser.weight_decay, own.optimiser.momentum) == (
      solver['WEIGHT_DECAY'],
      solver['MOMENTUM'],
    )
    mine, theirs = config.cohort.DKD.methods.dkd, inputs['dkd']['DKD']
    assert (mine.beta, mine.temperature) == (theirs['BETA'], theirs['T'])
    assert mine.warmup * solver['EPOCHS'] == pytest.approx(theirs['WARMUP'])
    kd, messages = config.cohort.KD, inputs['kd']['KD']
    assert kd.methods.kd.temperature == messages['TEMPERATURE']
    assert (kd.task_weight, kd.methods.kd.weight) == (
      messages['LOSS']['CE_WEIGHT'],
      messages['LOSS']['KD_WEIGHT'],
    )


def test_reviewkd():
  message = published('mdistiller_config_defaults')
  inputs, default = message['configs']['configs/cifar100/reviewkd.yaml'], message['defaults']['REVIEWKD']
  pairs = [p for p, c in table('cifar100_dkd_same').experiments.items() if 'ReviewKD' in c.cohort]
  (pair,) = pairs
  assert pair.split(' → ') == [inputs['DISTILLER'][k] for k in ('TEACHER', 'STUDENT')]
  member = table('cifar100_dkd_same').experiments[pair].cohort.ReviewKD
  own = member.methods.reviewkd
  assert own.weight == inputs['REVIEWKD']['REVIEWKD_WEIGHT'] and member.task_weight == default['ce']
  assert own.warmup * inputs['SOLVER']['EPOCHS'] == pytest.approx(default['warmup'])
  assert len(own.student) == len(own.teacher) == len(default['shapes'])
