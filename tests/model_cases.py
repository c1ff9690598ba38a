"""One tiny model of each kind that the registry has, and an example of its inputs."""

import jax
import numpy as np

from kdjax.experiment import build
from kdjax.export import program as export_program
from kdjax.nn.functional import functions

WORDS = 40
IMAGE = {'image': ((32, 32, 3), 'uint8')}
TEXT = {'text': ((12,), 'int32'), 'text/mask': ((12,), 'bool')}
SOUND = {'audio': ((4000,), 'float32')}
CODES = {'words': ((6, 5), 'float32'), 'audio': ((9, 4), 'float32'), 'video': ((7, 3), 'float32')}
VIDEO = {'video': ((5, 16, 16, 1), 'uint8')}
CANDIDATES = {'candidates': ((5, 4), 'float32')}
ENCODER = {'width': 16, 'depth': 2, 'heads': 2, 'mlp': 32}
MEL = {'preset': 'whisper', 'mels': 16, 'length': 24}
VIT = {'model': 'vit_class_token', **ENCODER, 'patch': 8, 'clip': True}
SMALL = {'width': 16, 'depth': 1, 'heads': 2}
CLIP_TEXT = {'model': 'clip_text', **ENCODER}
HTSAT = {'side': 64, 'width': 8, 'depths': (2, 2), 'heads': (2, 2), 'window': 4}
HTSAT |= {
  'mel': {'preset': 'clap', 'rate': 8000, 'hop': 80, 'n_fft': 512, 'mels': 16, 'high': 4000, 'length': 60}
}
CASES = {
  'ast': (
    {
      **ENCODER,
      'patch': 4,
      'time_stride': 4,
      'frequency_stride': 4,
      'mel': {'preset': 'ast', 'mels': 16, 'length': 24},
    },
    SOUND,
  ),
  'htsat': (HTSAT, SOUND),
  'mel_cnn': ({'widths': (8, 16), 'blocks': (1, 1)}, SOUND),
  'wav2vec2': (
    {
      **ENCODER,
      'convs': (8, 8),
      'kernels': (10, 3),
      'strides': (5, 4),
      'position_kernel': 4,
      'position_groups': 2,
    },
    SOUND,
  ),
  'whisper_encoder': ({**ENCODER, 'positions': 12, 'mel': MEL}, SOUND),
  'clap': (
    {
      'audio': {'model': 'htsat', **HTSAT},
      'text': {'model': 'bert', **ENCODER, 'positions': 16, 'pool': 'tanh'},
      'width': 8,
    },
    SOUND | {'audio/mask': ((4000,), 'bool')} | TEXT,
  ),
  'clip': ({'image': VIT, 'text': CLIP_TEXT, 'width': 8}, IMAGE | TEXT),
  'ensemble': (
    {'members': {'one': {'model': 'mlp', 'hidden': (8,)}, 'two': {'model': 'mlp', 'hidden': (6,)}}},
    IMAGE,
  ),
  'feature_encoder': ({'modality': 'audio', 'width': 8}, {'audio': CODES['audio']}),
  'fusion': (
    {
      'encoders': {
        'image': {'model': 'resnet', 'widths': (8, 8), 'blocks': (0, 1), 'patch': 4},
        'text': {'model': 'bag_of_words', 'width': 8},
      },
      'width': 16,
    },
    IMAGE | TEXT,
  ),
  'mult': ({'width': 8, 'depth': 2, 'heads': 2}, CODES),
  'pointer': ({'width': 8, 'text': {'model': 'bag_of_words', 'width': 8}}, CANDIDATES | TEXT),
  'siglip': (
    {
      'image': {'model': 'siglip_image', **ENCODER, 'patch': 8},
      'text': {'model': 'siglip_text', **ENCODER, 'positions': 12},
    },
    IMAGE | TEXT,
  ),
  'two_tower': (
    {
      'image': {'model': 'vit', 'width': 16, 'depth': 1, 'heads': 2},
      'text': {'model': 'transformer', 'width': 16, 'depth': 1, 'heads': 2},
      'width': 8,
    },
    IMAGE | TEXT,
  ),
  'vision_language': (
    {
      'image': {'model': 'siglip_image', **ENCODER, 'patch': 8, 'pool': 'mean'},
      'text': {'model': 'llama', **ENCODER, 'heads': 4, 'groups': 2, 'positions': 16},
      'shuffle': 2,
      'image_token': 3,
    },
    IMAGE | TEXT,
  ),
  'bag_of_words': ({'width': 8}, TEXT),
  'bert': ({**ENCODER, 'positions': 16}, TEXT),
  'clip_text': ({**ENCODER}, TEXT),
  'gpt2': ({**ENCODER, 'positions': 16}, TEXT),
  'hashed_words': ({'buckets': 64, 'width': 8}, TEXT),
  'llama': ({**ENCODER, 'heads': 4, 'groups': 2, 'positions': 16}, TEXT),
  'modernbert': ({**ENCODER, 'positions': 16, 'window': 4, 'full_every': 2}, TEXT),
  'siglip_text': ({**ENCODER, 'positions': 12}, TEXT),
  'transformer': ({'width': 16, 'depth': 2, 'heads': 2}, TEXT),
  'temporal_cnn': ({'modality': 'words', 'widths': (8, 12)}, {'words': ((7, 5), 'float32')}),
  'frames': (
    {
      'image': {'model': 'resnet', 'widths': (8,), 'blocks': (1,), 'patch': 4},
      'sequence': {'model': 'temporal_cnn', 'modality': 'frames', 'widths': (8,)},
    },
    VIDEO,
  ),
  'r2plus1d': ({'widths': (8, 12), 'blocks': (1, 1)}, VIDEO),
  'bit_resnet': ({'depth': 26, 'width': 0.5}, IMAGE),
  'cifar_mobilenet_v2': ({'width': 0.25, 'blocks': (1, 1, 1, 1, 2, 1, 1)}, IMAGE),
  'cifar_resnet': ({'depth': 8}, IMAGE),
  'cifar_resnet_bottleneck': ({'widths': (4, 8), 'blocks': (1, 2)}, IMAGE),
  'cifar_shufflenet_v1': ({'widths': (48, 96), 'blocks': (2, 1)}, IMAGE),
  'cifar_shufflenet_v2': ({'widths': (16, 32), 'last': 24, 'blocks': (2, 1)}, IMAGE),
  'cifar_vgg': ({}, IMAGE),
  'cifar_wrn': ({'depth': 10, 'widen': 1}, IMAGE),
  'convnext': ({'depths': (1, 1), 'widths': (8, 16)}, IMAGE),
  'dinov2': ({**ENCODER, 'patch': 8, 'image_size': 32}, IMAGE),
  'efficientnet': ({'width': 0.25, 'depth': 0.25}, IMAGE),
  'efficientnet_lite': ({}, IMAGE),
  'eva02': ({**ENCODER, 'patch': 8, 'image_size': 32, 'attention_norm': True, 'mlp_norm': True}, IMAGE),
  'maxout': ({'channels': (4, 4, 4)}, IMAGE),
  'mlp': ({'hidden': (16,)}, IMAGE),
  'mobilenet_v1': ({'width': 0.25}, IMAGE),
  'mobilenet_v3': ({'size': 'small', 'width': 0.25}, IMAGE),
  'mobilenet_v4': ({'width': 0.25, 'pooled': True}, IMAGE),
  'resnet': ({'widths': (8, 16), 'blocks': (1, 1)}, IMAGE),
  'resnet_imagenet': ({'depth': 18}, IMAGE),
  'siglip_image': ({**ENCODER, 'patch': 8}, IMAGE),
  'swin': ({'width': 8, 'depths': (2, 2), 'heads': (2, 2), 'window': 4}, IMAGE),
  'vit': ({'width': 16, 'depth': 2, 'heads': 2}, IMAGE),
  'vit_class_token': ({**ENCODER, 'patch': 8}, IMAGE),
}


def batch(name, rows, seed=0):
  rng, arrays = np.random.default_rng(seed), {}
  for key, (shape, dtype) in CASES[name][1].items():
    if key == 'text':
      arrays[key] = rng.integers(1, WORDS, (rows, *shape)).astype(dtype)
    elif dtype == 'bool':
      arrays[key] = np.arange(shape[0]) < rng.integers(3, shape[0] + 1, (rows, 1))
    elif dtype == 'uint8':
      arrays[key] = rng.integers(0, 256, (rows, *shape)).astype(dtype)
    else:
      arrays[key] = (0.3 * rng.standard_normal((rows, *shape))).astype(dtype)
  return arrays


def model(name):
  """(pure functions, variables) of the case, with five classes where the model has them."""
  config = {'model': name, **CASES[name][0]}
  net = build.module(config, {'vocab_size': WORDS, 'tokens': WORDS, 'num_classes': 5})
  functions_ = functions(net, {})
  return functions_, jax.jit(functions_.init)(jax.random.key(1), batch(name, 2))


def program(name):
  """The exported form of the case."""
  functions_, variables = model(name)
  example = {k: (shape, dtype) for k, (shape, dtype) in CASES[name][1].items()}

  def apply(variables, batch):
    return functions_.apply(variables, batch, train=False)[0]

  return export_program.make(
    apply, variables, example, ('logits', 'image/embed', 'audio/embed', 'text/embed', 'scale', 'embed')
  )
