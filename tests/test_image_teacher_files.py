"""What the files beside an image classifier say, and what a teacher of it then gives, on a tiny ViT."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from kdjax import pretrained, recipes
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages, validate
from kdjax.experiment.experiment import Experiment
from kdjax.nn import functional
from kdjax.pretrained import classes, images, initialize, resnet_imagenet

SIZES = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12}
CONFIG = SIZES | {'model_type': 'vit', 'patch_size': 4, 'hidden_act': 'gelu', 'layer_norm_eps': 1e-12}
NAMES = ('cat', 'dog', 'emu')
LAYER = {f'attention.attention.{k}': (8, 8) for k in ('query', 'key', 'value')} | {
  'attention.output.dense': (8, 8),
  'intermediate.dense': (12, 8),
  'output.dense': (8, 12),
  'layernorm_before': (8,),
  'layernorm_after': (8,),
}
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
PRE, OF_ALL = 'preprocessor_config', 'processor_config'


def tensors(model='vit', heads=('classifier',), patches=4, seed=0):
  """Random weights in the names of transformers, for images of 8×8."""
  rng = np.random.default_rng(seed)
  shapes = {f'{model}.encoder.layer.0.{k}': v for k, v in LAYER.items()} | {f'{model}.layernorm': (8,)}
  shapes |= {f'{model}.embeddings.patch_embeddings.projection': (8, 3, 4, 4)} | dict.fromkeys(heads, (3, 8))
  values = {f'{k}.weight': rng.normal(size=v) for k, v in shapes.items()}
  values |= {f'{k}.bias': rng.normal(size=v[:1]) for k, v in shapes.items()}
  tokens = ('cls_token', 'distillation_token') if model == 'deit' else ('cls_token',)
  values |= {f'{model}.embeddings.{k}': rng.normal(size=(1, 1, 8)) for k in tokens}
  values[f'{model}.embeddings.position_embeddings'] = rng.normal(size=(1, patches + len(tokens), 8))
  return {k: x.astype(np.float32) for k, x in values.items()}


def saved(folder, weights, config=CONFIG, **files):
  folder.mkdir(exist_ok=True)
  save_file(weights, folder / 'model.safetensors')
  for name, inputs in {'config': config, **files}.items():
    (folder / f'{name}.json').write_text(json.dumps(inputs))
  return str(folder)


def taps(init, image, **loading):
  """The taps of a checkpoint of three classes, which the data give."""
  model = pretrained.complete(init, {'model': 'vit_class_token'})
  net = build.module(model, {'num_classes': 3})
  like = jax.eval_shape(net.init, jax.random.key(0), {'image': image})
  return jax.jit(net.apply)(pretrained.load(init, model, like, **loading), {'image': image})


@pytest.fixture
def folder(tmp_path):
  return tmp_path / 'model'


@pytest.mark.parametrize('teacher', [False, True])
def test_both_kinds_of_deit(folder, teacher):
  heads = ('cls_classifier', 'distillation_classifier') if teacher else ('classifier',)
  kind = 'DeiTForImageClassification' + ('WithTeacher' if teacher else '')
  weights = tensors('deit', heads)
  result = taps(saved(folder, weights, CONFIG | {'model_type': 'deit', 'architectures': [kind]}), IMAGE)
  read = [result['embed'], result['distillation_embed']][: len(heads)]
  each = [x @ weights[f'{h}.weight'].T + weights[f'{h}.bias'] for x, h in zip(read, heads, strict=True)]
  np.testing.assert_allclose(result['logits'], np.mean(each, 0), atol=1e-5)
  np.testing.assert_array_equal(result['embed'], result['tokens'][:, 0])
  np.testing.assert_array_equal(result['distillation_embed'], result['tokens'][:, 1])


def test_a_second_head_is_not_left_out(folder):
  weights = tensors('deit', ('cls_classifier', 'distillation_classifier'))
  init = saved(folder, weights, CONFIG | {'model_type': 'deit'})
  with pytest.raises(KdjaxError, match="set distilled of the model to 'heads'"):
    taps(init, IMAGE)


def test_classes_of_the_same_names_in_another_order(folder, capsys):
  labels = {'id2label': {str(i): n.upper() for i, n in enumerate(NAMES[::-1])}}
  init = saved(folder, tensors(), CONFIG | labels)
  as_saved, ordered = taps(init, IMAGE)['logits'], taps(init, IMAGE, classes=NAMES)['logits']
  np.testing.assert_allclose(ordered, as_saved[:, ::-1], atol=1e-6)
  assert 'its classes in the order of the data' in capsys.readouterr().out


@pytest.mark.parametrize(
  ('theirs', 'ours', 'expected'),
  [
    (('LABEL_0', 'LABEL_1'), ('dog', 'cat'), None),
    (('tench', 'goldfish'), ('n01440764', 'n01443537'), None),
    (('7', '3'), ('3', '7'), [1, 0]),
    (('hot_dog', 'cat'), ('cat', 'Hot Dog'), [1, 0]),
    (('crane', 'crane'), ('crane', 'bird'), None),
  ],
)
def test_names_of_classes(folder, theirs, ours, expected):
  init = saved(folder, tensors(), {'id2label': {str(i): n for i, n in enumerate(theirs)}})
  assert classes.order(classes.names(pretrained.files(init)), ours, init) == expected


def test_classes_of_which_some_stand_elsewhere():
  with pytest.raises(KdjaxError, match="has the class 'dog' at 0, and the data set has it at 1"):
    classes.order(('dog', 'cat', 'emu'), ('puss', 'dog', 'emu'), 'x')


def test_images_of_another_size_are_one_line(folder):
  init = saved(folder, tensors(patches=9))
  with pytest.raises(KdjaxError, match='positions for 9 patches of 4×4 .* have 4: set data.image_size=12'):
    taps(init, IMAGE)


def test_the_size_of_a_network_without_positions_is_said(folder, capsys):
  init = saved(folder, tensors(), {'architecture': 'resnet18', 'pretrained_cfg': {'input_size': [3, 32, 32]}})
  images.say_size(init, {'model': 'resnet_imagenet'}, (32, 32))
  assert not capsys.readouterr().out
  images.say_size(init, {'model': 'resnet_imagenet'}, (64, 64))
  assert 'of 32×32, and the data have 64×64' in ' '.join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
  ('name', 'given', 'expected'),
  [
    (PRE, {'image_mean': [0.1] * 3, 'image_std': [0.2] * 3}, (0.1, 0.2)),
    (OF_ALL, {'image_processor': {'image_mean': [0.1] * 3, 'image_std': [0.2] * 3}}, (0.1, 0.2)),
    (PRE, {'do_normalize': False}, (0, 1)),
    (PRE, {'image_mean': [0.1] * 3, 'image_std': [0.2] * 3, 'include_top': True}, (0.1, 0.04)),
    (
      PRE,
      {'image_std': [0.2] * 3, 'do_normalize': False, 'image_processor_type': 'EfficientNetImageProcessor'},
      (0, 0.2),
    ),
    (
      PRE,
      {'image_mean': [1] * 3, 'image_std': [0.5] * 3, 'include_top': True, 'rescale_factor': 1 / 127.5},
      (0.5, 0.125),
    ),
    (PRE, {'do_rescale': False, 'do_normalize': False}, (0, 1 / 255)),
    (PRE, {'do_rescale': False, 'image_mean': [51.0] * 3, 'image_std': [51.0] * 3}, (0.2, 0.2)),
    (PRE, {'rescale_factor': 1 / 127.5, 'image_mean': [1] * 3, 'image_std': [1] * 3}, (0.5, 0.5)),
  ],
)
def test_every_way_to_say_mean_and_std(folder, name, given, expected):
  init = saved(folder, tensors(), **{name: given})
  result = pretrained.complete(init, {'model': 'vit_class_token'})
  np.testing.assert_allclose([result['mean'][0], result['std'][0]], expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('given', 'said'),
  [
    ({'model_args': {'block_args': 1}}, 'block_args 1 for resnet18'),
    ({'global_pool': 'max'}, "global_pool 'max' for resnet18"),
    ({'model_args': {'in_chans': 1}}, 'in_chans 1'),
    ({'model_args': [1]}, 'has to be an object'),
    ({'pretrained_cfg': 3}, 'has to be an object'),
    ({'pretrained_cfg': {'input_size': 'x', 'mean': [0] * 3}}, 'input_size is'),
    ({'architecture': 'resnet18d'}, "unknown architecture for the model resnet_imagenet: 'resnet18d'"),
    ({'architecture': None, 'model_type': 'swin'}, "'swin'"),
    ({'model_type': 'resnet', 'depths': [1, 2, 3, 4]}, 'which no depth of resnet_imagenet has'),
    ({'model_type': 'resnet', 'downsample_in_bottleneck': True}, 'downsample_in_bottleneck True'),
  ],
)
def test_a_network_that_was_changed_is_one_line(tmp_path, given, said):
  with pytest.raises(KdjaxError, match=said):
    resnet_imagenet.config({'architecture': 'resnet18'} | given, tmp_path)


@pytest.mark.parametrize(
  ('given', 'depth'),
  [
    ({'architecture': 'resnet34.tv_in1k', 'model_args': {'drop_path_rate': 0.1, 'img_size': 224}}, 34),
    ({'model_type': 'resnet'}, 50),
    ({'model_type': 'resnet', 'depths': [2, 2, 2, 2], 'layer_type': 'basic'}, 18),
  ],
)
def test_depths_of_resnets(tmp_path, given, depth):
  assert resnet_imagenet.config(given, tmp_path)['depth'] == depth


def test_weights_of_kdjax_keep_what_they_were_trained_with(folder):
  """A file that kdjax exported lies beside a stage.json with the attributes that no shape gives away."""
  folder.mkdir()
  (folder / 'seed_0.safetensors').touch()
  stage = {'model': {'model': 'vit', 'heads': 2, 'patch': 4, 'init': 'x', 'num_classes': 9}, 'classes': NAMES}
  (folder / 'stage.json').write_text(json.dumps(stage))
  init = str(folder / 'seed_0.safetensors')
  assert pretrained.complete(init, {'model': 'vit'}) == {'model': 'vit', 'heads': 2, 'patch': 4}
  assert pretrained.complete(init, {'model': 'vit', 'heads': 4})['heads'] == 4
  assert pretrained.complete(init, {'model': 'resnet'}) == {'model': 'resnet'}
  assert classes.names(pretrained.files(init)) == NAMES


def test_an_encoder_with_an_init_of_its_own_reads_images_alike(folder):
  """Frozen, within another model, without its two classifiers; the new classifier of a model is another."""
  weights = tensors('deit', ('cls_classifier', 'distillation_classifier'))
  kind = {'model_type': 'deit', 'architectures': ['DeiTForImageClassificationWithTeacher']}
  scaling = {'image_mean': [0.3, 0.4, 0.5], 'image_std': [0.2, 0.3, 0.4]}
  init = saved(folder, weights, CONFIG | kind, preprocessor_config=scaling)
  inner = {'model': 'vit_class_token', 'init': init, 'frozen': True}
  config = initialize.complete({'model': 'fusion', 'encoders': {'image': inner}})
  image = config['encoders']['image']
  assert image['mean'] == (0.3, 0.4, 0.5) and image['distilled'] == 'heads' and 'num_classes' not in image
  net = build.module(config, {'num_classes': 5})
  like = jax.eval_shape(net.init, jax.random.key(0), {'image': IMAGE})
  loaded = initialize.load(config, functional.split(like, initialize.frozen(config)))
  kept = loaded['frozen']['encoders_image']
  np.testing.assert_array_equal(kept['distillation'], weights['deit.embeddings.distillation_token'])
  assert 'head' not in kept


def recipe(init, path, rows):
  path.write_text('\n'.join(json.dumps(r | {'split': s}) for s in ('train', 'test') for r in rows))
  config = recipes.base('made')
  config.update(seeds=1, methods={'kd': {}})
  config.data.update(name='manifest', path=str(path))
  config.teacher.update(init=init, model={'model': 'vit_class_token'})
  config.student.model = {'model': 'mlp', 'hidden': (4,)}
  return config.to_dict()


def table_of(tmp_path, names):
  rows = []
  for i, (image, name) in enumerate(zip(IMAGE, names, strict=True)):
    Image.fromarray(image).save(tmp_path / f'{i}.png')
    rows.append({'image': f'{i}.png', 'label': name})
  return rows


def test_a_teacher_by_its_files_alone(folder, tmp_path, capsys):
  """No num_classes, mean or std in the recipe: logits of the file's scaling, in the order of the data."""
  scaling = {'image_mean': [0.3, 0.4, 0.5], 'image_std': [0.2, 0.3, 0.4], 'size': 8, 'resample': 2}
  labels = {'id2label': {'0': 'emu', '1': 'cat', '2': 'dog'}}
  weights = tensors()
  init = saved(folder, weights, CONFIG | labels, preprocessor_config=scaling)
  by_hand = ((IMAGE / 255 - [0.3, 0.4, 0.5]) / [0.2, 0.3, 0.4]).astype(np.float32)
  plain = saved(tmp_path / 'plain', weights, CONFIG)  # of mean and std 0.5
  logits = np.asarray(taps(plain, by_hand)['logits'])[:, [1, 2, 0]]
  rows = table_of(tmp_path, ['cat', 'dog', 'emu', 'cat', 'dog', 'emu'])
  experiment = Experiment(recipe(init, tmp_path / 'rows.jsonl', rows), tmp_path / 'w')
  capsys.readouterr()
  validate.check(experiment)
  message = ' '.join(capsys.readouterr().out.split())
  assert (
    'images - (0.3, 0.4, 0.5), / (0.2, 0.3, 0.4) (of preprocessor_config.json), trained on 8×8' in message
  )
  assert 'bilinear' in message
  stages.train_stage(experiment, 'teacher')
  variables = jax.tree.map(lambda x: x[0], experiment.variables('teacher'))
  batch = experiment.data.test.take(range(6))
  result = jax.jit(lambda v, b: experiment.model('teacher').apply(v, b)[0])(variables, batch)
  np.testing.assert_allclose(result['logits'], logits, atol=1e-4)


def test_another_number_of_classes_is_known_in_the_checking_phase(folder, tmp_path):
  init = saved(folder, tensors())
  rows = table_of(tmp_path, ['a', 'b', 'c', 'd', 'a', 'b'])
  experiment = Experiment(recipe(init, tmp_path / 'rows.jsonl', rows), tmp_path / 'w')
  with pytest.raises(KdjaxError, match='has 3 classes, and the data set has 4'):
    validate.check(experiment)
  assert not (tmp_path / 'w').exists()
