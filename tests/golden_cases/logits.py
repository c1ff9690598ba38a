"""Methods on the class scores, and DOT."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from golden_cases import Case, nhwc, scalar, value
from kdjax.methods.dynamic import ctkd as ctkd_file
from kdjax.methods.dynamic import cwsm, flsw
from kdjax.methods.dynamic.ctkd import ctkd
from kdjax.methods.logits.dist import dist
from kdjax.methods.logits.dkd import dkd
from kdjax.methods.logits.euclidean import euclidean
from kdjax.methods.logits.hard_label import hard_label
from kdjax.methods.logits.kd import kd
from kdjax.methods.logits.logit_mse import logit_mse
from kdjax.methods.logits.mlkd import mlkd
from kdjax.methods.logits.nkd import nkd
from kdjax.methods.logits.soft_cross_entropy import soft_cross_entropy
from kdjax.nn import losses
from kdjax.training.schemes import dot

WEAK, STRONG = 'student_logits_weak', 'student_logits_strong'


def on_logits(method):
  def function(v):
    batch = {'label': v['labels']} if 'labels' in v else {}
    return value(method, {'logits': v['student_logits']}, {'logits': v['teacher_logits']}, batch)

  return function


def on_logits_of_each(method):
  """The loss of every example by itself."""

  def one(student, teacher):
    return value(method, {'logits': student[None]}, {'logits': teacher[None]})

  return lambda v: jax.vmap(one)(v['student_logits'], v['teacher_logits'])


def on(method, student, teacher, layout=lambda x: x):
  """On arrays of other names, brought into Flax's layout."""
  return lambda v: value(method, {'logits': layout(v[student])}, {'logits': layout(v[teacher])})


def cross_entropy(logits, labels):
  return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def with_cross_entropy(v):
  ce = cross_entropy(v['student_logits'], v['labels'])
  return 0.1 * ce + 0.9 * on_logits(kd(temperature=4))(v)


def distance(name, method, of=None):
  """Of the batch and of each example, as `of(key, loss, v)` changes them."""

  def function(v):
    values = {f'loss.{name}': on_logits(method)(v), f'per_example.{name}': on_logits_of_each(method)(v)}
    return {k: of(k, x, v) for k, x in values.items()} if of else values

  return Case(function, f'loss.{name}', {f'grad.student_logits.{name}': 'student_logits'})


def in_rounded_labels(key, smooth, v):
  """From the loss with smoothing to what big_vision has: labels and their entropy in float32.

  The loss less the entropy is linear in the labels, so the loss without smoothing completes it.
  """
  others = v['teacher_logits'].shape[-1] - 1
  on, off = np.float32(0.9), np.float32(0.1 / others)
  right = jax.nn.one_hot(jnp.argmax(v['teacher_logits'], -1), others + 1, dtype=bool)
  entropy = jnp.sum(jnp.where(right, on * np.log(on), off * np.log(off)), -1)
  exact = 0.9 * np.log(0.9) + 0.1 * np.log(0.1 / others)
  ratio = float(off) / (0.1 / others)
  each = key.startswith('per_example')
  plain = (on_logits_of_each if each else on_logits)(hard_label())(v)
  result = ratio * (smooth - float(exact)) + (float(on) - 0.9 * ratio) * plain
  return result + (entropy if each else entropy.astype(result.dtype).mean())


def textbrewer(loss, method, temperatures=None):
  """With one temperature an example, or position."""
  seq = 'seq_' if loss.endswith('seq') else ''
  student, teacher = f'student_{seq}logits', f'teacher_{seq}logits'

  def function(v):
    options = {'temperature': v[temperatures][..., None]} if temperatures else {}
    return on(method(**options), student, teacher)(v)

  return scalar(f'loss.{loss}', function, student)


def textbrewer_temperatures(v):
  s, t = v['student_logits'], v['teacher_logits']
  return {
    'flsw_temperature_b1_g2_base8': flsw.temperatures(s, t, {}, 8, 1, 2, 1),
    'cwsm_temperature_b1_base8': cwsm.temperatures(s, {}, 8, 1, 1),
  }


def with_theta(name, step, loops=10):
  """θ is 0.3, and λ goes from 0 to -1 over the loops."""

  def function(v):
    def loss(theta):
      s, t = {'logits': v['student_logits']}, {'logits': v['teacher_logits']}
      return value(ctkd(steps=loops), s, t, params={'theta': theta}, step=step)

    theta = jnp.full((), 0.3, v['student_logits'].dtype)
    result, grad = jax.value_and_grad(loss)(theta)
    return {
      f'loss.{name}': result,
      f'grad.global_T.{name}': grad,
      f'temperature.{name}': ctkd_file.temperature(theta, 1, 20),
    }

  return Case(function, f'loss.{name}', {f'grad.student_logits.{name}': 'student_logits'})


def levels(v, **options):
  """MLKD of the two views, as the code was released."""
  method = mlkd(student='weak', teacher='weak', student_strong='strong', teacher_strong='strong', **options)
  return value(
    method,
    {'weak': v[WEAK], 'strong': v[STRONG]},
    {'weak': v['teacher_logits_weak'], 'strong': v['teacher_logits_strong']},
  )


def mlkd_cases(first, standardise):
  temperatures = (first, 3, 5, 2, 6)

  def total(v):
    released = {'temperatures': temperatures, 'standardise': standardise, 'released': True}
    parts = {'kd': (1, 0, 0), 'cc': (0, 1, 0), 'bc': (0, 0, 1)}
    values = {
      f'loss.{name}': 9 * levels(v, instance=i, classes=c, examples=e, **released)
      for name, (i, c, e) in parts.items()
    }
    ce = 0.1 * (cross_entropy(v[WEAK], v['labels']) + cross_entropy(v[STRONG], v['labels']))
    return values | {'loss.ce': ce, 'loss.total': ce + 9 * levels(v, **released)}

  def single(name, **factors):
    options = {'temperatures': (first,), 'instance': 0, 'classes': 0, 'examples': 0} | factors
    return scalar(f'loss.{name}', on(mlkd(**options), WEAK, 'teacher_logits_weak'), WEAK)

  return [
    Case(total, 'loss.total', {f'grad.{k}': k for k in (WEAK, STRONG)}),
    single('single_cc', classes=1),
    single('single_bc', examples=1),
  ]


def dot_trace(v):
  """Four steps of three parameters: of both losses, of the task alone, of distillation alone."""
  trainer = dot.dot(0.05, weight_decay=5e-4, released=True)
  params = {k: v[f'p_{k}0'] for k in ('both', 'task_only', 'kd_only')}
  state, values = trainer.init(params), {}
  for i in range(1, 5):
    task = {'both': v[f'g_task_both{i}'], 'task_only': v[f'g_task_only{i}'], 'kd_only': None}
    distilled = {'both': v[f'g_kd_both{i}'], 'task_only': None, 'kd_only': v[f'g_kd_only{i}']}
    updates, state = trainer.update(task, distilled, state, params)
    params = optax.apply_updates(params, updates)
    values |= {f'p_{k}{i}': p for k, p in params.items()}
  return values


CASES = {
  'kd_hinton': [
    *(scalar(f'loss.T{n}', on_logits(kd(temperature=n)), 'student_logits') for n in (1, 2, 4, 20)),
    scalar('loss.total_ce0.1_kd0.9_T4', with_cross_entropy, 'student_logits'),
  ],
  'bigvision_distances': [
    distance('kl_T1', kd(temperature=1)),
    distance('kl_T10', kd(temperature=10)),
    distance('euclidean', euclidean()),
    distance('l2', euclidean(squared=True)),
    distance('hard', hard_label()),
    distance('hard_ls0p1', hard_label(label_smoothing=0.1), in_rounded_labels),
    distance('logsoftmax_euclidean', euclidean(logsoftmax=True)),
  ],
  'ctkd_global_T': [
    with_theta('lambda-1', 10),
    with_theta('lambda-0.5', 5),
    with_theta('lambda0', 0),
    scalar('loss.logit_stand_T2', on_logits(kd(temperature=2, standardise=True)), 'student_logits'),
  ],
  'dist': [
    scalar('loss.inter', on_logits(dist(gamma=0)), 'student_logits'),
    scalar('loss.intra', on_logits(dist(beta=0)), 'student_logits'),
    scalar('loss.total_1_1', on_logits(dist()), 'student_logits'),
    scalar('loss.total_2_2', on_logits(dist(beta=2, gamma=2)), 'student_logits'),
    Case(
      lambda v: {'loss.seg': on(dist(), 'seg_student', 'seg_teacher', nhwc)(v)},
      'loss.seg',
      {'grad.seg_student': 'seg_student'},
    ),
  ],
  'dkd': [
    scalar('loss.tckd_T4', on_logits(dkd(beta=0)), 'student_logits'),
    scalar('loss.nckd_T4', on_logits(dkd(alpha=0, beta=1)), 'student_logits'),
    scalar('loss.total_1_8_T4', on_logits(dkd()), 'student_logits'),
    scalar('loss.total_1_0p5_T1', on_logits(dkd(beta=0.5, temperature=1)), 'student_logits'),
  ],
  'logit_standardization': [
    *(
      scalar(f'loss.kd_stand_T{n}', on_logits(kd(temperature=n, standardise=True)), 'student_logits')
      for n in (2, 3, 4)
    ),
    scalar('loss.dkd_stand_1_8_T2', on_logits(dkd(temperature=2, standardise=True)), 'student_logits'),
    Case(
      lambda v: {f'standardised_{k}': losses.standardise(v[f'{k}_logits']) for k in ('student', 'teacher')}
    ),
  ],
  'mimic_mse': [scalar('loss', on(logit_mse(), 'student_feat', 'teacher_feat', nhwc), 'student_feat')],
  'mlkd_plain': mlkd_cases(4, False),
  'mlkd_logit_stand': mlkd_cases(2, True),
  'nkd': [
    scalar(f'loss.{name}_T{n}', on_logits(nkd(temperature=n, keep_target=keep)), 'student_logits')
    for name, keep in (('target_removed', False), ('variant_target_kept', True))
    for n in (1, 2)
  ],
  'textbrewer_kd_losses': [
    *(
      scalar(f'loss.{name}_T{n}', on_logits(method(temperature=n)), 'student_logits')
      for name, method in (('kd_mse', logit_mse), ('kd_ce', soft_cross_entropy))
      for n in (1, 8)
    ),
    textbrewer('kd_mse_tempvec', logit_mse, 'temp_vec'),
    textbrewer('kd_mse_seq', logit_mse, 'temp_seq'),
    textbrewer('kd_ce_tempvec', soft_cross_entropy, 'temp_vec'),
    textbrewer('kd_ce_seq', soft_cross_entropy, 'temp_seq'),
    Case(textbrewer_temperatures),
  ],
  'dot_optimizer_trace': [Case(dot_trace)],
}
