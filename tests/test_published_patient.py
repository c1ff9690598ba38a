"""The table of function matching against what was read from big_vision: numbers, recipes, what both see."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.tables import patient_teacher
from kdjax.experiment import load, stages
from kdjax.experiment.experiment import Experiment
from kdjax.input import splits
from kdjax.pretrained import safetensors_io
from kdjax.training import optimizers, schedules
from kdjax.types import DataSet
from test_paper_tables import table
from test_published_tables import published

SPLITS = {'train': 1.0, 'train[:90%]': 0.9, 'train[:98%]': 0.98}
TRAIN = {'imagenet2012': 1_281_167, 'oxford_flowers102': 1020, 'oxford_iiit_pet': 3680}  # at TFDS
TRAIN |= {'food101': 75_750, 'sun397': 76_128}
OURS = {'flowers': 'Flowers102', 'pet': 'Pets', 'food': 'Food101', 'sun': 'SUN397'}


def same(config, message, epochs, lr, wd, temperature, warmup, split):
  """What the two recipes have in common."""
  own, images = config.student.train, patient_teacher.IMAGES[config.data.name]
  assert images == round(SPLITS[split] * TRAIN[config.data.name])
  assert own.batch_size == message['batch'] and own.steps == int(epochs * images / message['batch'])
  assert own.augment == ('inception_crop', 'flip', 'mixup') and message['mixup_p'] == 1.0
  inputs = own.optimiser
  assert (inputs.name, inputs.mu_dtype, inputs.schedule) == ('adamw', 'bfloat16', 'cosine')
  assert (inputs.lr, inputs.clip) == (lr, message['grad_clip_norm'])
  assert inputs.weight_decay * inputs.lr == pytest.approx(wd)  # theirs is not multiplied with the rate
  assert inputs.warmup * own.steps == pytest.approx(warmup)
  assert config.task_weight == 0 and message['distance'] == 'kl'
  assert config.methods.to_dict() == {'kd': {'weight': 1.0, 'temperature': temperature}}
  assert config.teacher.model.to_dict() == {'model': 'bit_resnet', 'depth': 152, 'width': 2}
  assert config.student.model.to_dict() == {'model': 'bit_resnet', 'depth': 50, 'width': 1}


def test_imagenet():
  theirs = published('bigvision_patient_consistent')
  message, result = theirs['imagenet_config'], table('patient_teacher')
  for side in (160, 224):
    config = result.experiments[f'ImageNet {side}']
    recipe = (
      message['epochs'],
      message['lr'],
      message['wd'],
      message['T'],
      message['warmup_steps'],
      message['train_split'],
    )
    same(config, message, *recipe)
    assert config.data.image_size == side and config.data.limit.train == 1_255_544
  rows = next(iter(result.panels.values()))
  output = {f'student {size}': rows['student BiT R50x1'][f'{size} px'].published for size in (160, 224)}
  teacher = {s: rows['teacher BiT-M R152x2'][f'{s} px'].published for s in (160, 224, 384)}
  assert teacher.pop(160) is None
  numbers = [output['student 160'], output['student 224'], teacher[224], teacher[384]]
  assert numbers == [row[2] for row in theirs['released_models']['rows']]
  assert [row[1] for row in theirs['released_models']['rows']] == [160, 224, 224, 384]


@pytest.mark.parametrize('data', OURS)
def test_small_data_sets(data):
  theirs, result = published('bigvision_patient_consistent')['small_data'], table('patient_teacher')
  message = theirs[data]
  for variant in ('fast', 'medium', 'long'):
    config = result.experiments[f'{OURS[data]} {variant}']
    recipe = [message[k][variant] for k in ('epochs', 'lr', 'wd', 'T')]
    same(config, theirs, *recipe, 1500, message['split'])
    assert config.data.image_size == 128 and f'R152x2_T_{data}128.npz' in config.teacher.init
  assert '1500 steps' in theirs['schedule'] and 'inception_crop(128)+flip' in theirs['aug']
  _, panel = result.panels.values()
  assert all(c.published is None for row in panel.values() for c in row.values())


def test_an_update_is_that_of_big_vision():
  """Clip, Adam with half a first moment, the rate, the decay beside it, the schedule over both."""
  inputs, steps = table('patient_teacher').experiments['Pets fast'].student.train.optimiser.to_dict(), 6468
  ours, rate, decay = optimizers.optimiser(inputs, steps), 0.01, 1e-3
  schedule = schedules.learning_rate(1.0, steps, warmup=1500 / steps)
  theirs = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(mu_dtype='bfloat16'),
    optax.scale(rate),
    optax.add_decayed_weights(decay, lambda params: jax.tree.map(lambda x: x.ndim > 1, params)),
    optax.scale_by_schedule(schedule),
    optax.scale(-1.0),
  )
  rng = np.random.default_rng(0)
  params = {'kernel': jnp.asarray(rng.normal(size=(3, 4))), 'bias': jnp.asarray(rng.normal(size=4))}
  one, two = ours.init(params), theirs.init(params)
  moments = [x.mu for x in jax.tree.leaves(one, is_leaf=lambda x: hasattr(x, 'mu')) if hasattr(x, 'mu')]
  assert {x.dtype for x in jax.tree.leaves(moments)} == {jnp.dtype('bfloat16')}
  for _ in range(5):
    grads = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), params)
    mine, one = ours.update(grads, one, params)
    other, two = theirs.update(grads, two, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), mine, other)


def smoke(folder, name='Pets medium'):
  """The smoke scale over a few made images, with a narrower student and a teacher of random weights."""
  config = table('patient_teacher', 'smoke').experiments[name].to_dict()
  rng, n = np.random.default_rng(0), 24
  arrays = {'id': np.arange(n, dtype=np.int32), 'label': np.arange(n, dtype=np.int32) % 3}
  held = splits.InMemorySplit(arrays | {'image': rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8)})
  config['seeds'], config['student']['train']['batch_size'] = 1, 8
  config['run']['eval_batch'] = 8
  config['student']['train']['steps'] = 2
  for stage in ('teacher', 'student'):
    config[stage]['model']['width'] = 0.5
  exp = Experiment(config, folder)
  dataset = DataSet({'train': [0]}, ('a', 'b', 'c'), 'made')
  exp.__dict__['data'] = load.Data(dataset, None, None, held, held, held, None, held)
  return exp


def test_the_smoke_scale_traces(tmp_path):
  result = smoke(tmp_path)
  assert result.config['data']['image_size'] == 32 and result.config['teacher']['init'] == ''
  assert result.shapes('student')[1]['logits'].shape[-1] == 3
  assert stages.setup(result, 'baseline').augment is not None


@pytest.mark.slow
def test_the_smoke_scale_runs(tmp_path):
  result = smoke(tmp_path / 'w')
  batch = result.data.train.take(np.arange(2))
  teacher = jax.jit(result.model('teacher').init)(jax.random.key(1), batch)
  head = teacher['params']['head']
  head['kernel'] = jax.random.normal(jax.random.key(2), head['kernel'].shape)
  safetensors_io.export(tmp_path / 'teacher.safetensors', teacher)
  result.config['teacher']['init'] = str(tmp_path / 'teacher.safetensors')
  stages.run(result, ('teacher', 'student'))
  after = result.variables('student')['params']
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(after)) and np.any(after['head']['kernel'])
