"""How fast the convolution of kdjax is on CPU, beside XLA's own and PyTorch's.

    python -m benchmarks.conv > conv.json

Prints one JSON object. For each shape, "batch,side,channels in,out,kernel,stride,groups": milliseconds and
GFLOP/s of the forward pass and of the gradients of kernel and input, by lax ('native') and by kdjax ('ours'),
and of the kernel's by one matmul a tap ('shifted'). Also images a second of training steps (batch 64, 32×32,
SGD, batch norm) of a ResNet of widths 64, 128, 256. What is compared runs in turns; medians are given: where
others share the machine, read ratios. --scan adds gradients in a `lax.scan`, where XLA's own take seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from kdjax.models.vision.resnet import Resnet
from kdjax.nn import conv
from kdjax.nn.conv import NHWC
from kdjax.runtime import huge_pages

KINDS = {'native': lax.conv_general_dilated, 'ours': conv.conv_general_dilated}
SHAPES = """64,32,3,64,3,1,1 64,32,32,32,3,1,1 64,32,64,64,3,1,1 64,32,64,128,3,2,1 64,16,128,128,3,1,1
64,16,128,256,3,2,1 64,8,256,256,3,1,1 64,32,64,128,1,1,1 64,32,64,128,1,2,1 16,112,32,32,3,1,32
16,112,32,32,3,2,32 64,32,64,64,3,1,4 64,64,3,32,5,2,1 16,224,3,64,7,2,1"""


def turns(calls, repeats):
  """name -> median milliseconds of calls made in turns, after one of each that does not count."""
  times = {name: [] for name in calls}
  for i in range(repeats + 1):
    for name, call in calls.items():
      began = time.perf_counter()
      call()
      times[name] += [1e3 * (time.perf_counter() - began)] if i else []
  return {name: round(statistics.median(values), 2) for name, values in times.items()}


def shape(b, n, i, o, k, s, groups, *, repeats, scan):
  """pass -> kind -> milliseconds and GFLOP/s, at one shape."""
  x, w = (jax.random.normal(jax.random.key(0), size) for size in ((b, n, n, i), (k, k, i // groups, o)))
  options = dict(window_strides=(s, s), padding='SAME', dimension_numbers=NHWC, feature_group_count=groups)
  y = jnp.tanh(KINDS['native'](x, w, **options))

  def shifted(x, w, y):
    sides = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], (s, s), 'SAME')
    x, (h, v) = jnp.pad(x, ((0, 0), *sides, (0, 0))), y.shape[1:3]
    taps = (x[:, i : i + h * s - s + 1 : s, j : j + v * s - s + 1 : s] for i in range(k) for j in range(k))
    return jnp.stack([jnp.einsum('bhwi,bhwo->io', tap, y) for tap in taps]).reshape(w.shape)

  passes = {'forward': {}, 'kernel': {'shifted': shifted} if groups == 1 else {}, 'input': {}}
  for kind, f in KINDS.items():
    f = partial(f, **options)
    passes['forward'][kind] = lambda x, w, y, f=f: f(x, w)
    passes['kernel'][kind] = lambda x, w, y, f=f: jax.vjp(lambda w: f(x, w), w)[1](y)[0]
    passes['input'][kind] = lambda x, w, y, f=f: jax.vjp(lambda x: f(x, w), x)[1](y)[0]

  def looped(f, x, w, y):  # each turn needs the one before
    begin = jax.eval_shape(f, x, w, y)
    turn = lambda c, _: (f(x, w + 1e-9 * c.ravel()[0], y + 1e-9 * c.ravel()[0]), None)  # noqa: E731
    return lax.scan(turn, jnp.zeros(begin.shape), None, length=2)[0]

  row, run = {}, lambda f: lambda: jax.block_until_ready(f(x, w, y))
  for what, kinds in passes.items():
    times = turns({kind: run(jax.jit(f)) for kind, f in kinds.items()}, repeats)
    flop = 2 * y.size * k * k * i // groups
    row[what] = {kind: {'ms': t, 'gflops': round(flop / t / 1e6, 1)} for kind, t in times.items()}
    if scan and what != 'forward':
      times = turns({kind: run(jax.jit(partial(looped, f))) for kind, f in kinds.items()}, 1)
      row[what] |= {f'{kind} in a scan': {'ms': t / 2} for kind, t in times.items()}
  return row


def network(repeats, python):
  """kind -> images a second of training steps at batch 64; PyTorch's run in a process of their own."""
  batch, calls = {'image': jax.random.normal(jax.random.key(0), (64, 32, 32, 3))}, {}
  net, tx, label = Resnet(widths=(64, 128, 256), num_classes=100), optax.sgd(0.1, 0.9), jnp.arange(64)

  def native(x, w, how):
    return lax.conv_general_dilated(x, w, how.strides, how.pads, dimension_numbers=NHWC)

  def step(v, opt):
    def loss(params):
      out, new = net.apply({**v, 'params': params}, batch, train=True, mutable=['batch_stats'])
      return optax.softmax_cross_entropy_with_integer_labels(out['logits'], label).mean(), new

    grads, new = jax.grad(loss, has_aux=True)(v['params'])
    updates, opt = tx.update(grads, opt)
    return {**new, 'params': optax.apply_updates(v['params'], updates)}, opt

  v = jax.jit(net.init)(jax.random.key(0), batch)
  for kind, inner in {'native': native, 'ours': conv._conv}.items():
    with mock.patch.object(nn, 'Conv', conv.Conv), mock.patch.object(conv, '_conv', inner):
      f = jax.jit(lambda *args: step(*args)).lower(v, tx.init(v['params'])).compile()
    calls[kind] = lambda f=f: jax.block_until_ready(f(v, tx.init(v['params'])))
  if python:  # it ends with its input
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True, 'bufsize': 1}
    child = subprocess.Popen([python, Path(__file__).with_name('conv_torch.py')], **pipes)
    calls['torch'] = lambda: (child.stdin.write('\n'), child.stdout.readline())
  times = turns(calls, repeats)
  return {kind: {'ms': t, 'images_per_s': round(64e3 / t, 1)} for kind, t in times.items()}


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--repeats', type=int, default=7, help='turns of everything (default: %(default)s)')
  parser.add_argument('--shapes', nargs='*', default=SHAPES.split(), help='of the form above')
  parser.add_argument('--scan', nargs='*', default=[], help='which of them to run in a scan too')
  parser.add_argument('--torch', metavar='PYTHON', help='a Python that can import torch, to compare with')
  args = parser.parse_args()
  huge_pages.restart_with_huge_pages()
  results = {'jax': jax.__version__}
  for name in args.shapes:
    results[name] = shape(*map(int, name.split(',')), repeats=args.repeats, scan=name in args.scan)
    print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
  print(json.dumps(results | {'resnet': network(args.repeats, args.torch)}, indent=1))


if __name__ == '__main__':
  main()
