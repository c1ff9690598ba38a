"""Whatever a person gets wrong: one line that says what, what was given and what would do."""

import errno
import itertools
import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdjax import registry
from kdjax.cli import main as command
from kdjax.datasets.manifest import manifest as read_manifest
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.experiment.workdir import claim_workdir
from kdjax.input import tokenizer
from kdjax.methods.logits import kd as kd_file
from kdjax.pretrained import safetensors_io
from kdjax.recipes import model, parse_arg
from kdjax.runtime import trust
from kdjax.training import checkpoint
from kdjax.types import Method

FOLDERS = itertools.count()


def refused(experiment, *parts):
  """The message of the refusal: one line, with all the parts, before anything was trained."""
  with pytest.raises(KdjaxError) as caught:
    stages.run(exp := experiment(f'w{next(FOLDERS)}'))
  message = str(caught.value)
  assert '\n' not in message
  for part in parts:
    assert part in message, message
  assert not list(exp.workdir.glob('*/checkpoints'))
  return message


def test_an_unknown_method(experiment, config):
  config.methods = {'kdd': {'weight': 1.0}}
  message = refused(experiment, "unknown method: 'kdd'", "did you mean 'kd'?", ' in all)')
  assert 'Choose from: kd, ' in message


def test_an_unknown_option_of_a_method(experiment, config):
  config.methods = {'kd': {'temprature': 1.0}}
  refused(experiment, "option of the method 'kd'", "'temperature'")


def test_an_unknown_tap(experiment, config):
  config.methods = {'fitnet': {'student': 'image/stage9', 'teacher': 'image/stage2'}}
  refused(experiment, "tap of the student in methods.fitnet: 'image/stage9'", 'image/stage2 [1, 2, 2, 8]')


def test_taps_that_do_not_pair(experiment, config):
  config.methods = {'kd': {'student': 'logits', 'teacher': 'embed'}}
  refused(experiment, 'kd cannot pair', "'logits' [1, 5]", "'embed' [1, 32]")


def test_an_unknown_model_or_attribute(experiment, config):
  config.student.model.model = 'fussion'
  refused(experiment, "unknown model: 'fussion'", "'fusion'", 'resnet')
  config.student.model.model = 'fusion'
  with config.unlocked():
    config.student.model.widht = 3
  refused(experiment, "option of the model 'fusion': 'widht'", "'width'")


def test_an_unknown_data_set(experiment, config):
  config.data.name, config.data.path = 'easy_vga', ''
  refused(experiment, "unknown data set: 'easy_vga'", "did you mean 'easy_vqa'?")


@pytest.mark.parametrize(
  ('changes', 'parts'),
  [
    ({'name': 'adamm'}, ("unknown optimiser: 'adamm'", "'adam'")),
    ({'schedule': 'cosin'}, ("unknown student.train.optimiser.schedule: 'cosin'", "'cosine'")),
    ({'momentun': 0.9}, ("option of the optimiser 'adamw'", 'b1')),
  ],
)
def test_an_unknown_optimiser_schedule_or_option(experiment, config, changes, parts):
  with config.unlocked():
    config.student.train.optimiser.update(changes)
  refused(experiment, *parts)


def test_an_unknown_augmentation_task_or_dtype(experiment, config):
  config.student.train.augment = ('flp',)
  refused(experiment, "unknown augmentation: 'flp'", "'flip'")
  config.student.train.augment, config.task.name = (), 'clasification'
  refused(experiment, "unknown task: 'clasification'", "'classification'")
  config.task.name, config.student.dtype = 'classification', 'bf16'
  refused(experiment, "unknown student.dtype: 'bf16'", 'bfloat16')


def test_a_teacher_and_a_student_that_share_no_class_count(experiment, config):
  with config.unlocked():
    config.teacher.model.num_classes = 7
  refused(experiment, 'the teacher has 7 values', '5 classes')


def test_a_modality_that_the_data_lack(experiment, config):
  with config.unlocked():
    config.student.inputs = {'image': 'video'}
  refused(experiment, "'video'", 'image')


def test_a_batch_that_does_not_divide_over_the_devices(experiment, config, eight_devices):
  config.student.train.batch_size = 12
  refused(experiment, 'student.train.batch_size is 12', '8 devices')
  config.student.train.batch_size, config.run.eval_batch = 16, 15
  refused(experiment, 'run.eval_batch is 15', '8 devices')


@pytest.mark.parametrize(
  ('key', 'value', 'parts'),
  [
    ('select', 'bset', ("unknown select: 'bset'", "'best'")),
    ('seeds', 0, ('seeds is 0', 'a whole number from 1 to')),
    ('run.log_every', 0, ('run.log_every is 0',)),
    ('teacher.train.steps', -1, ('teacher.train.steps is -1',)),
    ('data.labels', 0.0, ('data.labels is 0.0',)),
    ('data.name', '', ('which data set?',)),
    ('data.options', {'foo': 1}, ("unknown option of the data set 'manifest': 'foo'",)),
  ],
)
def test_a_value_out_of_range(experiment, config, key, value, parts):
  with config.unlocked():
    config.update_from_flattened_dict({key: value})
    if key == 'data.name':
      config.data.path = ''
  refused(experiment, *parts)


def test_the_best_without_a_validation_split(experiment, config, tmp_path):
  config.select = 'best'
  config.data.update(rows(tmp_path, GOOD, GOOD | {'split': 'test'}))
  with config.unlocked():
    for stage in ('teacher', 'student'):
      config[stage].model = model('bag_of_words', width=4)
  refused(experiment, "select='best' needs a validation split")


def test_labels_that_are_all_hidden(experiment, config, tmp_path):
  lines = [GOOD | {'split': s, 'label': x} for s, x in (('train', 'x'), ('train', 'y'), ('test', ''))]
  config.data.update(rows(tmp_path, *lines))
  with config.unlocked():
    for stage in ('teacher', 'student'):
      config[stage].model = model('bag_of_words', width=4)
  exp = experiment()
  with pytest.raises(KdjaxError, match='no example has a label'):
    stages.run(exp)


def test_changed_data_and_a_workdir_that_is_a_file(experiment, config, manifest, tmp_path):
  text = manifest.read_text()
  try:
    claim_workdir(experiment())
    manifest.write_text(text + '\n')
    with pytest.raises(KdjaxError, match='the data have changed'):
      claim_workdir(experiment())
  finally:
    manifest.write_text(text)
  (tmp_path / 'file').write_text('')
  with pytest.raises(KdjaxError, match='which is a file'):
    claim_workdir(experiment('file'))


def test_a_workdir_of_another_config(experiment, config):
  claim_workdir(experiment())
  config.student.train.steps, config.run.log_every = 7, 1
  with pytest.raises(KdjaxError, match=r'student.train.steps: 6 there, 7 here\).*--workdir'):
    claim_workdir(experiment())


def test_a_stage_out_of_order(experiment):
  with pytest.raises(KdjaxError, match='run the teacher first'):
    stages.run(experiment(), ('student',))
  with pytest.raises(KdjaxError, match='no finished stage: run'):
    stages.evaluate(experiment(), 'test')
  with pytest.raises(KdjaxError, match='no finished stage to compare'):
    stages.run(experiment(), ('compare',))


def test_a_loss_that_is_not_finite(experiment, config):
  config.teacher.train.optimiser.update(name='sgd', lr=100.0, clip=0.0, warmup=0.0, weight_decay=1e6)
  config.teacher.train.steps = 40
  with pytest.raises(KdjaxError, match='teacher: the loss is not finite in the .* steps up to'):
    stages.run(exp := experiment(), ('teacher',))
  assert not exp.done('teacher')


def test_a_full_disk(experiment, monkeypatch, tmp_path):
  full = OSError(errno.ENOSPC, 'No space left on device', 'x')

  def fails(*args, **kwargs):
    raise full

  with monkeypatch.context() as patched:
    patched.setattr(checkpoint.ocp.CheckpointManager, 'save', fails)
    with pytest.raises(KdjaxError, match=r'cannot write a checkpoint .*the disk is full.*Make room'):
      stages.run(experiment(), ('teacher',))
  with pytest.raises(SystemExit, match='error: No space left on device'):
    command.one_line(fails)
  old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old_limit[1]))
    with pytest.raises((KdjaxError, OSError)):
      safetensors_io.export(tmp_path / 'w.safetensors', {'params': {'a': np.ones(1000)}})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
  assert not list(tmp_path.glob('*w.safetensors*'))


def rows(tmp_path, *lines, name='rows.jsonl'):
  path = tmp_path / name
  path.write_text('\n'.join(line if isinstance(line, str) else json.dumps(line) for line in lines))
  return {'name': 'manifest', 'path': str(path)}


GOOD = {'text': 'a', 'label': 'x', 'split': 'train'}


@pytest.mark.parametrize(
  ('lines', 'parts'),
  [
    ((GOOD, GOOD | {'split': 'test', 'label': 'y'}), ('line 2', "unknown label: 'y'", 'x')),
    ((GOOD,), ("the split 'test' is empty",)),
    ((GOOD | {'split': 'test'},), ("the split 'train' is empty",)),
    ((GOOD, '{"text": '), ('line 2', 'not a JSON object')),
    ((GOOD | {'split': 'trian'},), ('line 1', "unknown split: 'trian'", 'train')),
    (({'picture': 'a.png', 'label': 'x'},), ('columns label, picture', 'data.columns.image')),
    (
      (GOOD | {'image': 'no.png'}, GOOD | {'image': 'no.png', 'split': 'test'}),
      ('line 1', 'there is no image'),
    ),
    ((GOOD | {'text': ''}, GOOD | {'split': 'test'}), ('line 1', "the column 'text' is empty")),
  ],
)
def test_a_bad_manifest(experiment, config, tmp_path, lines, parts):
  config.data.update(rows(tmp_path, *lines))
  refused(experiment, *parts)


def test_a_corrupt_image(experiment, config, tmp_path):
  (tmp_path / 'a.png').write_bytes(b'\x89PNG\r\n\x1a\n broken')
  bad = GOOD | {'image': 'a.png'}
  config.data.update(rows(tmp_path, bad, bad | {'split': 'test'}))
  refused(experiment, 'line 1', 'a.png is not a readable image')


def test_a_label_outside_the_classes(experiment, config, tmp_path, monkeypatch):
  config.data.update(rows(tmp_path, *[GOOD | {'split': s} for s in ('train', 'test')]))
  monkeypatch.setattr('kdjax.datasets.manifest.Rows.label', lambda *a: 3)
  refused(experiment, 'example 1 has the label 3', '1 class ')


def test_images_of_different_sizes(experiment, config, tmp_path):
  from PIL import Image

  for i, size in enumerate((8, 12)):
    Image.new('RGB', (size, size)).save(tmp_path / f'{i}.png')
  lines = [GOOD | {'image': f'{i}.png'} for i in (0, 1)] + [GOOD | {'image': '0.png', 'split': 'test'}]
  config.data.update(rows(tmp_path, *lines))
  refused(experiment, 'different shapes', 'data.image_size')


def test_a_manifest_or_tokenizer_that_is_not_there(tmp_path):
  with pytest.raises(KdjaxError, match='cannot read the manifest'):
    read_manifest(path=str(tmp_path / 'no.csv'))
  with pytest.raises(KdjaxError, match='cannot read the tokenizer'):
    tokenizer.load(tmp_path / 'no.json')


def test_weights_of_another_architecture(tmp_path):
  path = tmp_path / 'w.safetensors'
  safetensors_io.export(path, {'params': {'a': np.ones(2), 'b': np.ones(3)}})
  with pytest.raises(KdjaxError, match=r'1 missing \(params/c\); 1 extra \(params/b\); 1 of another shape'):
    safetensors_io.load(path, {'params': {'a': np.ones(3), 'c': np.ones(1)}})
  safetensors_io.export(path, {'params': {'a': np.ones(2)}}, 'one')
  with pytest.raises(KdjaxError, match='another vocabulary: set data.tokenizer'):
    safetensors_io.load(path, {'params': {'a': np.ones(2)}}, 'other')
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(KdjaxError, match='cannot read the model'):
    safetensors_io.load(path, {})


def test_a_user_module_is_imported_and_a_missing_package_named(monkeypatch, tmp_path):
  monkeypatch.syspath_prepend(tmp_path)
  (tmp_path / 'mine.py').write_text('"""Mine."""\nimport not_installed_anywhere\n')
  (tmp_path / 'pkg').mkdir()
  text = 'from kdjax.methods.logits.kd import kd\ndef mykd(*, x=1):\n  return kd(temperature=x)\n'
  (tmp_path / 'pkg' / 'mykd.py').write_text(text)
  trust.trust(['pkg.mykd', 'pkg.other'])
  assert isinstance(registry.make('methods', 'pkg.mykd', {'x': 3}), Method)
  with pytest.raises(KdjaxError, match="'pkg.other'"):
    registry.module('methods', 'pkg.other')


def test_arguments_of_a_recipe():
  assert parse_arg('smoke=1,seeds=5', seeds=3).to_dict() == {'smoke': True, 'seeds': 5}
  with pytest.raises(KdjaxError, match="unknown argument of the recipe: 'smok'; did you mean 'smoke'"):
    parse_arg('smok=1')
  with pytest.raises(KdjaxError, match="seeds='x' is not a int"):
    parse_arg('seeds=x', seeds=3)


def test_a_window_that_is_empty():
  with pytest.raises(KdjaxError, match='start=0.5 to stop=0.5'):
    build.method({'kd': {'start': 0.5, 'stop': 0.5}}, 10)


def test_weights_default_to_the_papers():
  s, t = {'logits': jnp.array([[0.0, 1.0]])}, {'logits': jnp.array([[1.0, 0.0]])}

  def terms(inputs):
    method = build.method({'kd': inputs}, 10)
    return method.loss({'kd': {}}, {'kd': {}}, s, t, {}, step=0, rng=jax.random.key(0))[0]

  assert terms({}) == terms({'weight': kd_file.WEIGHT}) != terms({'weight': 2 * kd_file.WEIGHT})
