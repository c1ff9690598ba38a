"""Whose random numbers are whose: streams apart by what is drawn, and averages of weights that warm up."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import taps
from kdjax.experiment import build, stages
from kdjax.experiment.workdir import claim_workdir
from kdjax.training import optimizers, schedules, setup, step, streams


def data_of(key):
  return tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())


def test_no_key_serves_two_purposes(monkeypatch):
  """Of 20 seeds and 50 steps: initial weights of every stage, the halves of each step, and views."""
  seen = {}

  def note(key, who):
    assert seen.setdefault(data_of(key), who) == who, f'{who} has the key of {seen[data_of(key)]}'

  parts = jax.jit(
    lambda seed: jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.key(seed), i)))(
      jnp.arange(50)
    )
  )
  for n in range(3):
    for stage in ('teacher', 'student'):
      (pair,) = streams.seeds((n,), stage)
      keys, steps = streams.initial(jnp.array(pair, jnp.uint32), 3)
      for i, key in enumerate(keys):
        note(key, (n, stage, 'weights', i))
      for i, both in enumerate(parts(steps)):
        for j, key in enumerate(both):
          note(key, (n, stage, 'step', i, j))
    for i, both in enumerate(parts(n)):  # fold_in(epoch), then of examples 0 and 1: see augment.make_view
      for j, key in enumerate(both):
        note(key, (n, 'view', i, j))


def test_student_and_baseline_share_a_stream_that_is_not_the_teachers():
  assert streams.seeds((0, 1), 'student') == streams.seeds((0, 1), 'baseline')
  assert not set(streams.seeds(range(50), 'student')) & set(streams.seeds(range(50), 'teacher'))
  assert streams.seeds((3,), 'teacher', protocol=1) == ((3, 3),)


def test_a_teacher_of_the_same_architecture_is_not_the_baseline(experiment):
  _, t, batch = taps.example()
  init = step.make_init(taps.peer(), build.method({}, 6), optimizers.optimiser({'name': 'sgd', 'lr': 0.5}, 6))
  exp = experiment()
  seeds = {s: jnp.array(stages.setup(exp, s).seeds[0], jnp.uint32) for s in ('teacher', 'baseline')}
  states = [jax.jit(init)(seed, t, batch) for seed in seeds.values()]
  a, b = (s.params['student'] for s in states)
  assert all((a[k] != b[k]).any() for k in a) and states[0].seed != states[1].seed


def test_a_workdir_stays_with_the_streams_it_was_begun_with(experiment):
  claim_workdir(exp := experiment())
  path = exp.workdir / 'protocol.json'
  assert json.loads(path.read_text())['protocol'] == streams.PROTOCOL > 1
  assert experiment().protocol == streams.PROTOCOL
  (new,) = stages.setup(exp, 'baseline').members.values()
  assert new.average.warmup and not stages.setup(exp, 'baseline').index_shuffle
  path.unlink()  # as a workdir of before was begun
  claim_workdir(old := experiment())
  (member,) = stages.setup(old, 'baseline').members.values()
  assert (
    experiment().protocol == 1
    and stages.setup(old, 'baseline').index_shuffle
    and stages.setup(old, 'baseline').seeds == ((0, 0),)
    and not member.average.warmup
  )


def test_an_average_longer_than_the_training_is_not_of_the_random_start():
  decay, average = schedules.average_decay(0.9999), 1.0  # what is left of the start
  for t in range(20):
    average *= float(decay(t))
  assert average < 1e-6
  assert [float(schedules.average_decay(0.5)(t)) for t in (0, 100)] == pytest.approx([0.1, 0.5])
  assert float(schedules.average_decay(0.999)(1_000_000)) == pytest.approx(0.999)


def test_the_average_of_a_training_follows_it():
  _, t, batch = taps.example()
  student, task, method = taps.peer(), build.task({'name': 'classification'}), build.method({}, 6)
  tx = optimizers.optimiser({'name': 'sgd', 'lr': 0.5, 'schedule': 'constant'}, 6)
  losses = []
  for decay in (schedules.average_decay(0.9999), 0.9999):
    state = jax.jit(step.make_init(student, method, tx, ema=True))(0, t, batch)
    update = jax.jit(step.make_update(student, task, method, tx, ema=decay))
    first = task.loss(student.apply(state.ema, batch)[0], batch)[0]
    for _ in range(60):
      state, _ = update(state, t, batch)
    now = {'params': state.params['student'], **state.stats['student']}
    losses.append([float(task.loss(student.apply(v, batch)[0], batch)[0] / first) for v in (state.ema, now)])
  (warm, trained), (cold, _) = losses
  assert trained < warm < 0.5 * (1 + trained) < 0.9 < cold


def test_a_copy_of_the_previous_epoch_is_taken_at_its_end():
  decay = setup.Average(previous_epoch=5).decay()
  assert [float(decay(step)) for step in range(6)] == [1, 1, 1, 1, 0, 1]
