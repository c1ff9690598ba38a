"""How long a step of distillation takes, beside the student alone and beside PyTorch's: one JSON object.

    python -m benchmarks.step --torch=/path/to/python > step.json      # of a venv with torch and torchdistill
    python -m benchmarks.step --quick

Three pairs of teacher and student, float32, one batch for all: 'cnn' (RepDistiller's resnet32x4 and resnet8x4
at 32×32), 'vit' (6 layers of 192 and 4 of 96, 64 tokens), 'vqa' (the quickstart's models). Columns, in
milliseconds a step, medians of seconds of steps that run in turns:

  student       the student alone
  live          cross-entropy and kd at T = 4, with the teacher's forward
  store         the same with the teacher's outputs read from a store in memory, the reading included
  seeds         5 students with one teacher's forward
  torch_...     the same models in PyTorch: 'student', and live 'eager', 'compile' (torch.compile) and
                'torchdistill' (its DistillationBox); in a process of their own, with as many threads

'cohort' is a training of 5 seeds × 4 methods beside 20 live runs, 'start' the time from the command to the
first step of the quickstart, 'memory' the peak of a process with the 5 seeds, 'card' the least time of the
student's and the teacher's arithmetic on a GPU. 'goals' compares with the goals. On a machine with a GPU the
same command measures the GPU; the columns of torch, on CPU, are then of no use.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from benchmarks import store as stored
from kdjax.evaluation import compare, cost
from kdjax.experiment import build
from kdjax.input import splits
from kdjax.nn import functional
from kdjax.runtime import huge_pages, progress
from kdjax.teacher_store import record
from kdjax.training import memory, optimizers, sharding
from kdjax.training import step as steps
from kdjax.training.compiled_step import compile_step
from kdjax.training.setup import LoopConfig, Member, Setup

ROOT = Path(__file__).parents[1]
TURN = 1000  # milliseconds
KD = {'kd': {'weight': 1.0, 'temperature': 4.0}}
METHODS = {'kd': KD, **{name: {name: {}} for name in ('dkd', 'dist', 'nkd')}}
SGD = {'name': 'sgd', 'lr': 0.05, 'momentum': 0.9, 'weight_decay': 5e-4, 'schedule': 'constant'}
ADAMW = {'name': 'adamw', 'lr': 1e-3, 'weight_decay': 1e-4, 'schedule': 'constant'}
# float32 FLOP/s without tensor cores, in TF32 with them, bytes/s of the memory: NVIDIA's data sheets
CARDS = {
  'A100 SXM 80 GB': (19.5e12, 156e12, 2.04e12),
  'H100 SXM 80 GB': (67e12, 494e12, 3.35e12),
}


def cnn(depth):
  attributes = {'model': 'cifar_resnet', 'depth': depth, 'widen': 4}
  return lambda classes: build.module(attributes | {'num_classes': classes}, {})


def vit(width, depth):
  return lambda classes: build.module(
    {'model': 'vit', 'width': width, 'depth': depth, 'heads': 3, 'patch': 4, 'num_classes': classes}, {}
  )


def vqa(width, widths, blocks, words):
  image = {'model': 'resnet', 'widths': widths, 'blocks': blocks, 'patch': 4, 'pool': 'max'}
  encoders = {'image': image, 'text': {'model': 'bag_of_words', 'width': words, 'vocab_size': 64}}
  return lambda classes: build.module(
    {'model': 'fusion', 'width': width, 'encoders': encoders, 'num_classes': classes}, {}
  )


PAIRS = {  # teacher, student, classes, side of the image, optimiser: those of step_torch
  'cnn': (cnn(32), cnn(8), 100, 32, SGD),
  'vit': (vit(192, 6), vit(96, 4), 100, 32, ADAMW),
  'vqa': (vqa(256, (32, 64, 128), (1, 1, 1), 128), vqa(64, (16, 24), (0, 1), 16), 13, 64, ADAMW),
}


class Pair:
  """The models and the batch of a pair, and its training steps."""

  def __init__(self, name: str, size: int):
    teacher, student, self.classes, side, self.optimiser = PAIRS[name]
    self.teacher, self.student = (functional.functions(m(self.classes), {}) for m in (teacher, student))
    rng, words = np.random.default_rng(0), np.arange(size * 16, dtype=np.int32).reshape(size, 16) % 64
    self.batch = {
      'image': rng.uniform(-1, 1, (size, side, side, 3)).astype(np.float32),
      'text': words,
      'text/mask': words > 8,
      'label': np.arange(size, dtype=np.int32) % self.classes,
      'id': np.arange(size, dtype=np.int32),
      'epoch': np.zeros(size, np.int32),
    }
    self.variables = jax.jit(self.teacher.init)(jax.random.key(0), self.batch)
    self.task, self.mesh = build.task({'name': 'classification'}), sharding.make_mesh()

  def setup(self, methods, seeds=1, reader=None):
    """The setup of a student's training, a member for each of the methods; {} is the student alone."""

    def member(config):
      tx, method = optimizers.optimiser(self.optimiser, 1000), build.method(config, 1000)
      return Member(self.student, method, tx, 1.0, Path())

    live = any(methods.values()) and not reader
    return Setup(
      name='student',
      members={name: member(config) for name, config in methods.items()},
      task=self.task,
      augment=lambda batch: batch,
      teacher=record.model(reader.taps) if reader else self.teacher if live else None,
      teacher_variables=self.variables if live else {},
      source=splits.InMemorySplit(self.batch),
      validation=None,
      seeds=tuple(range(seeds)),
      cohort=len(methods) > 1,
      steps=1000,
      batch_size=len(self.batch['id']),
      reader=reader,
    )

  def step(self, methods, seeds=1, reader=None):
    """`run(n)`: n steps of all members, awaited; the batch is on the device, stored outputs are read."""
    joined = reader.join(self.batch) if reader else self.batch
    placed = sharding.to_global_arrays(joined, self.mesh)
    how = LoopConfig('last', 'jit', 1, 1, 1, 1, 1)
    compiled, states = compile_step(self.setup(methods, seeds, reader), how, self.mesh, placed)

    def run(n):
      for _ in range(n):
        batch = placed
        if reader:
          outputs = reader.take(self.batch['id'], self.batch['epoch'])
          batch = placed | sharding.to_global_arrays(outputs, self.mesh)
        batch, t = compiled.teacher_forward(batch)
        for name in states:
          states[name], losses = compiled.update(name, states[name], t, batch)
      jax.block_until_ready((states, losses))

    return run

  def teacher_forward(self):
    """`run(n)`: n forward passes of the teacher, awaited."""
    forward = jax.jit(steps.make_teacher_forward(self.teacher, lambda batch: batch, frozenset({'logits'})))
    placed = sharding.to_global_arrays(self.batch, self.mesh)
    return lambda n: [jax.block_until_ready(forward(self.variables, placed)) for _ in range(n)]

  def card(self):
    """The least milliseconds of a live step on each GPU, by its arithmetic and by its memory traffic."""
    batch, student = self.batch, self.student
    method, tx = build.method(KD, 1000), optimizers.optimiser(self.optimiser, 1000)
    t = jax.eval_shape(lambda v: self.teacher.apply(v, batch)[0], self.variables)
    state = jax.eval_shape(steps.make_init(student, method, tx), 0, t, batch)
    forward_teacher = functools.partial(steps.make_teacher_forward(self.teacher, dict, frozenset({'logits'})))
    programs = {'teacher': (forward_teacher, (self.variables, batch))}
    programs['student'] = steps.make_update(student, self.task, method, tx), (state, t, batch)
    costs = {}
    for who, (program, args) in programs.items():
      costs[who] = {'gflop': cost.flops(program, *args) / 1e9}

    def backward(params, stats):
      def forward(params):
        taps, _ = student.apply({'params': params, **stats}, batch, train=True, rng=jax.random.key(0))
        return taps['logits']

      return jax.vjp(forward, params)[1]

    activations = memory.size(jax.eval_shape(backward, state.params['student'], state.stats['student']))
    # Activations are written once and read once; weights and moments are read and written.
    costs['student']['mbyte'] = (2 * activations + 3 * memory.size((state.params, state.opt_state))) / 1e6
    costs['teacher']['mbyte'] = memory.size((self.variables, batch['image'])) / 1e6
    for who in tuple(costs):
      costs[who] |= {
        card: {
          'float32_ms': 1e12 * costs[who]['gflop'] / flops,
          'tf32_ms': 1e12 * costs[who]['gflop'] / fast,
          'memory_ms': 1e9 * costs[who]['mbyte'] / speed,
        }
        for card, (flops, fast, speed) in CARDS.items()
      }
    return costs


class Peer:
  """PyTorch's steps, in a process that lives as long as this object is not closed."""

  def __init__(self, python: str, size: int, pages: bool):
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True, 'bufsize': 1}
    script = Path(__file__).with_name('step_torch.py')
    env = {k: v for k, v in os.environ.items() if pages or k != 'GLIBC_TUNABLES'}
    command = [python, script, f'--batch={size}', f'--threads={cores()}']
    self.child = subprocess.Popen(command, env=env, **pipes)
    self.errors, self.version = {}, ''

  def measure(self, pair: str, column: str, steps: int) -> float | None:
    """Milliseconds of one of these steps, None where it does not work."""
    self.child.stdin.write(f'{pair} {column} {steps}\n')
    line = self.child.stdout.readline()
    answer = json.loads(line) if line else {'error': 'the process ended', 'torch': self.version}
    self.version = answer['torch']
    if 'error' in answer:
      self.errors[f'{pair} {column}'] = answer['error']
    return answer.get('ms')

  def close(self):
    self.child.stdin.close()
    self.child.wait()


def cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def turns(calls: dict, repeats: int) -> dict:
  """name -> median milliseconds of a step, of `call(n)` made in turns, after two of each that do not count.

  A turn takes as many steps as fill `TURN`, twice, and the first half of them does not count: after a pause
  steps are slower, in JAX and in PyTorch, while memory that was given back is fetched again.
  A call that gives a number has measured itself, one that gives None is left out when it is a peer's.
  """
  times, steps = {name: [] for name in calls}, dict.fromkeys(calls, 1)
  for i in range(repeats + 2):
    for name, call in calls.items():
      call(steps[name])
      began = time.perf_counter()
      measured = call(steps[name])
      ms = measured if name.startswith('torch_') else 1e3 * (time.perf_counter() - began) / steps[name]
      if i == 1 and ms:
        steps[name] = max(1, round(TURN / ms))
      times[name] += [ms] if i > 1 and ms is not None else []
  return {name: statistics.median(values) for name, values in times.items() if values}


def measure(name: str, args, folder: Path, peer: Peer | None) -> dict:
  """All columns of a pair."""
  pair = Pair(name, args.batch)
  how = argparse.Namespace(examples=4 * args.batch, shard=4096, dtype='float16')
  with mock.patch.object(stored, 'BATCH', args.batch):
    written, _ = stored.build(folder / name, {'logits': (pair.classes,)}, 0, how)
  reader = stored.read.Reader(written.folder, stored.manifest.load(written.folder))
  calls = {
    'student': pair.step({'student': {}}),
    'live': pair.step({'student': KD}),
    'store': pair.step({'student': KD}, reader=reader),
    'seeds': pair.step({'student': KD}, args.seeds),
    'teacher': pair.teacher_forward(),
  }
  for column in ('student', 'eager', 'compile', 'torchdistill') if peer else ():
    calls[f'torch_{column}'] = functools.partial(peer.measure, name, column)
  results = {'ms': turns(calls, args.repeats), 'card': pair.card()}
  say(name, results['ms'])
  members = {'cohort': pair.step(METHODS, args.seeds)}
  members |= {f'live_{n}': pair.step({'student': m}) for n, m in METHODS.items()}
  ms = turns(members | {'teacher': calls['teacher']}, args.repeats)
  alone = args.seeds * sum(ms[f'live_{n}'] for n in METHODS)
  n, t = args.seeds * len(METHODS), ms['teacher']
  s = alone / n - t
  results['cohort'] = {'ms': ms, 'members': n, 'speedup': alone / ms['cohort']}
  results['cohort'] |= {'ideal': (t + s) / (t / n + s)}
  say(name, results['cohort'])
  return results


def start(folder: Path) -> list[float]:
  """Seconds from the command to the end of the first step, of two starts that share compiled programs."""
  seconds = []
  for i in range(2):
    workdir = folder / f'start{i}'
    command = [sys.executable, 'run.py', 'teacher', '--config=configs/quickstart.py', f'--workdir={workdir}']
    command += [f'--cache={folder / "xla"}', '--config.run.log_every=1', '--config.teacher.train.steps=3']
    began, log = time.monotonic(), workdir / 'teacher' / 'metrics.jsonl'
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while child.poll() is None and not (log.exists() and log.stat().st_size):
      time.sleep(0.02)
    seconds.append(time.monotonic() - began)
    child.wait()
  return seconds


def peak(name: str, args) -> None:
  """Prints the peak in bytes of this process, or of its device, after steps of all seeds."""
  step = Pair(name, args.batch).step({'student': KD}, args.seeds)
  step(3)
  stats = jax.devices()[0].memory_stats() or {}
  print(stats.get('peak_bytes_in_use') or high_water())


def high_water() -> int:
  """The peak in bytes of this process's own memory; ru_maxrss is never below that of who started it."""
  (line,) = (x for x in Path('/proc/self/status').read_text().splitlines() if x.startswith('VmHWM'))
  return 1024 * int(line.split()[1])


def goals(results: dict) -> dict:
  """Each measured figure beside its goal: whether it is reached, and by how many percent it is missed."""
  figures = {}
  for name, pair in results['pairs'].items():
    ms = pair['ms']
    figures[f'{name}: store / student'] = ms['store'] / ms['student'], 1.05, 'most'
    if 'torch_eager' in ms:
      figures[f'{name}: live, images/s against eager'] = ms['torch_eager'] / ms['live'], 1.0, 'least'
    if name == 'cnn' and 'torch_torchdistill' in ms:
      figures['cnn: store against torchdistill, live'] = ms['torch_torchdistill'] / ms['store'], 2.0, 'least'
    share = pair['cohort']['speedup'] / pair['cohort']['ideal']
    figures[f'{name}: cohort of {pair["cohort"]["members"]}, of the ideal'] = share, 0.9, 'least'
  if 'start_s' in results:
    figures['second start of the quickstart, s'] = results['start_s'][1], 8.0, 'most'
  verdicts = {}
  for what, (value, goal, kind) in figures.items():
    short = value / goal - 1 if kind == 'most' else 1 - value / goal
    verdicts[what] = {'value': value, f'at_{kind}': goal, 'reached': short <= 0}
    verdicts[what] |= {'missed_by_percent': 100 * short} if short > 0 else {}
  return verdicts


def say(*what):
  print(*(json.dumps(rounded(w)) for w in what), file=sys.stderr, flush=True)


def rounded(tree):
  if isinstance(tree, dict):
    return {k: rounded(v) for k, v in tree.items()}
  if isinstance(tree, list):
    return [rounded(v) for v in tree]
  return float(f'{tree:.4g}') if isinstance(tree, float) else tree


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--torch', metavar='PYTHON', help='a Python that can import torch, to compare with')
  parser.add_argument('--pages', action='store_true', help='large pages for torch too, as run.py has them')
  parser.add_argument('--pairs', nargs='*', default=list(PAIRS), choices=list(PAIRS))
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--seeds', type=int, default=5)
  parser.add_argument('--repeats', type=int, default=7, help='turns of everything (default: %(default)s)')
  parser.add_argument('--quick', action='store_true', help='the vqa pair alone, few and small turns')
  parser.add_argument('--peak', choices=list(PAIRS), help=argparse.SUPPRESS)
  args = parser.parse_args()
  huge_pages.restart_with_huge_pages()
  progress.silence()
  if args.quick:
    args.pairs, args.batch, args.seeds, args.repeats = ['vqa'], 8, 2, 2
  if args.peak:
    return peak(args.peak, args)
  results = {'jax': jax.__version__, 'hardware': compare.hardware(), 'batch': args.batch, 'seeds': args.seeds}
  results |= {'repeats': args.repeats, 'pairs': {}}
  peer = Peer(args.torch, args.batch, args.pages) if args.torch else None
  with tempfile.TemporaryDirectory() as folder:
    for name in args.pairs:
      results['pairs'][name] = measure(name, args, Path(folder), peer)
    if peer:
      peer.close()
      results |= {'torch': peer.version, 'torch_does_not_run': peer.errors}
    for name in args.pairs if not args.quick else ():
      command = [sys.executable, '-m', 'benchmarks.step', f'--peak={name}']
      command += [f'--batch={args.batch}', f'--seeds={args.seeds}']
      out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
      results['pairs'][name]['memory_bytes'] = int(out.split()[-1])
    if not args.quick:
      results['start_s'] = start(Path(folder))
  print(json.dumps(rounded(results | {'goals': goals(results)}), indent=1))


if __name__ == '__main__':
  main()
