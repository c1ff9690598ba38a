"""Tiny checkpoints of mobile networks under the names of timm and transformers, made up from shapes."""

import jax.numpy as jnp

from hf_folders import dense

IMAGE = {'image': jnp.zeros((1, 16, 24, 3), jnp.uint8)}


def conv(name, out, into, kernel=1, bias=False):
  return {f'{name}.weight': (out, into, kernel, kernel)} | ({f'{name}.bias': (out,)} if bias else {})


def norm(name, width):
  return {f'{name}.{leaf}': (width,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')}


def inverted(at, into, inner, out, kernel, squeeze=0):
  """An inverted residual of timm, without an expansion where it has as many channels within."""
  parts = [('conv_dw', inner, 1, kernel), ('conv_pwl', out, inner, 1)]
  parts = [('conv_pw', inner, into, 1), *parts] if inner != into else [parts[0], ('conv_pw', out, inner, 1)]
  shapes = {}
  for i, (name, *sizes) in enumerate(parts, 1):
    shapes |= conv(f'{at}.{name}', *sizes) | norm(f'{at}.bn{i}', sizes[0])
  if squeeze:
    shapes |= conv(f'{at}.se.conv_reduce', squeeze, inner, bias=True)
    shapes |= conv(f'{at}.se.conv_expand', inner, squeeze, bias=True)
  return shapes


def mobilenet_v3():
  """mobilenetv3_small_050, of three classes."""
  stages = [  # output, kernel, and within and squeezed of each block
    [(8, 3, 16, 8)],
    [(16, 3, 40, 0), (16, 3, 56, 0)],
    [(24, 5, 64, 16), (24, 5, 144, 40), (24, 5, 144, 40)],
    [(24, 5, 72, 24), (24, 5, 72, 24)],
    [(48, 5, 144, 40), (48, 5, 288, 72), (48, 5, 288, 72)],
  ]
  shapes, into = conv('conv_stem', 16, 3, 3) | norm('bn1', 16), 16
  for i, stage in enumerate(stages):
    for j, (out, kernel, inner, squeeze) in enumerate(stage):
      shapes |= inverted(f'blocks.{i}.{j}', into, inner, out, kernel, squeeze)
      into = out
  shapes |= conv('blocks.5.0.conv', 288, 48) | norm('blocks.5.0.bn1', 288)
  return shapes | conv('conv_head', 1024, 288, bias=True) | dense('classifier', into=1024, out=3)


def universal(at, into, inner, out, start, kernel):
  """A universal inverted bottleneck of timm."""
  parts = [('dw_start', into, 1, start), ('pw_exp', inner, into, 1)]
  parts += [('dw_mid', inner, 1, kernel), ('pw_proj', out, inner, 1)]
  shapes = {}
  for name, *sizes in parts:
    shapes |= conv(f'{at}.{name}.conv', *sizes) | norm(f'{at}.{name}.bn', sizes[0]) if sizes[-1] else {}
  return shapes


def mobilenet_v4():
  """mobilenetv4_conv_small_035, of three classes."""
  plain = [(0, 0, 16, 32, 3), (0, 1, 16, 16, 1), (1, 0, 32, 16, 3), (1, 1, 24, 32, 1), (4, 0, 336, 48, 1)]
  stages = [  # kernels of the depthwise convolutions, and channels within, of each block
    (32, [(5, 5, 72), (0, 3, 64), (0, 3, 64), (0, 3, 64), (0, 3, 64), (3, 0, 128)]),
    (48, [(3, 3, 192), (5, 5, 192), (0, 5, 192), (0, 5, 144), (0, 3, 192), (0, 3, 192)]),
  ]
  shapes, into = conv('conv_stem', 32, 3, 3) | norm('bn1', 32), 24
  for i, j, out, inputs, kernel in plain:
    shapes |= conv(f'blocks.{i}.{j}.conv', out, inputs, kernel) | norm(f'blocks.{i}.{j}.bn1', out)
  for i, (out, blocks) in enumerate(stages, 2):
    for j, (start, kernel, inner) in enumerate(blocks):
      shapes |= universal(f'blocks.{i}.{j}', into, inner, out, start, kernel)
      into = out
  shapes |= conv('conv_head', 1280, 336) | norm('norm_head', 1280)
  return shapes | dense('classifier', into=1280, out=3)


def efficientnet():
  """Of transformers, half as wide as B0, with one block in each stage, and three classes."""
  e = 'efficientnet.embeddings.'
  shapes, into = conv(f'{e}convolution', 16, 3, 3) | norm(f'{e}batchnorm', 16), 16
  stages = [(8, 1, 3), (16, 6, 3), (24, 6, 5), (40, 6, 3), (56, 6, 5), (96, 6, 5), (160, 6, 3)]
  for i, (out, expansion, kernel) in enumerate(stages):
    at, inner = f'efficientnet.encoder.blocks.{i}.', into * expansion
    if expansion > 1:
      shapes |= conv(f'{at}expansion.expand_conv', inner, into) | norm(f'{at}expansion.expand_bn', inner)
    shapes |= conv(f'{at}depthwise_conv.depthwise_conv', inner, 1, kernel)
    shapes |= norm(f'{at}depthwise_conv.depthwise_norm', inner)
    shapes |= conv(f'{at}squeeze_excite.reduce', into // 4, inner, bias=True)
    shapes |= conv(f'{at}squeeze_excite.expand', inner, into // 4, bias=True)
    shapes |= conv(f'{at}projection.project_conv', out, inner) | norm(f'{at}projection.project_bn', out)
    into = out
  top = 'efficientnet.encoder.top_'
  shapes |= conv(f'{top}conv', 640, 160) | norm(f'{top}bn', 640)
  return shapes | dense('classifier', into=640, out=3)
