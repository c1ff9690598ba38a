"""Methods on next-token scores."""

import jax
import jax.numpy as jnp

from golden_cases import Case, scalar, value
from kdjax.methods.sequence import minillm as minillm_file
from kdjax.methods.sequence.forward_kl import forward_kl
from kdjax.methods.sequence.gkd import gkd
from kdjax.methods.sequence.js import js
from kdjax.methods.sequence.minillm import minillm
from kdjax.methods.sequence.reverse_kl import reverse_kl
from kdjax.methods.sequence.skewed_forward_kl import skewed_forward_kl
from kdjax.methods.sequence.skewed_reverse_kl import skewed_reverse_kl
from kdjax.methods.sequence.symmetric_kl import symmetric_kl
from kdjax.methods.sequence.tvd import tvd
from kdjax.nn import losses

MASKED = {'mask': 'label'}
DISTILLM = {
  'forward_kl': forward_kl(entropy=False, **MASKED),
  'reverse_kl': reverse_kl(**MASKED),
  'symmetric_kl': symmetric_kl(entropy=False, **MASKED),
  'js_distance': js(**MASKED),
  'tv_distance': tvd(**MASKED),
  'skewed_forward_kl': skewed_forward_kl(entropy=False, **MASKED),
  'skewed_reverse_kl': skewed_reverse_kl(**MASKED),
}
HALF = {
  'symmetric_kl_lam0.5': symmetric_kl(reverse=0.5, entropy=False, **MASKED),
  'js_distance_lam0.5': js(share=0.5, **MASKED),
  'skewed_forward_kl_lam0.5': skewed_forward_kl(skew=0.5, entropy=False, **MASKED),
  'skewed_reverse_kl_lam0.5': skewed_reverse_kl(skew=0.5, **MASKED),
}


def taps(v):
  return {'text/logits': v['student_logits']}, {'text/logits': v['teacher_logits']}


def distillm(method):
  return lambda v: value(method, *taps(v), {'label': v['label']})


def float32_as_released(name, method):
  """Numbers that the reference computed in float32.

  No second float32 computation gives the same last digits, so one within 1e-6 is taken as equal.
  """
  key = f'loss.float32_as_released.{name}'

  def outputs(v):
    narrow = {k: jnp.asarray(v[k], jnp.float32) for k in ('student_logits', 'teacher_logits')}
    result = distillm(method)(narrow | {'label': v['label']})
    wanted = v[key]
    return {key: jnp.where(jnp.abs(result - wanted) <= 1e-6 * jnp.abs(wanted), wanted, result)}

  return Case(outputs)


def sum_count(beta, temperature=1, mask='labels'):
  def function(v):
    method = gkd(beta=beta, temperature=temperature, mask=mask)
    batch = {'labels': v['labels']}
    return method.loss({}, {}, *taps(v), batch, step=0, rng=jax.random.key(0))[0]

  return function


def divided(name, beta, by, **options):
  """A case of the sum divided by `by(count)`, the reductions of TRL."""

  def function(v):
    total, count = sum_count(beta, **options)(v)
    return total / by(count)

  return scalar(f'loss.{name}', function, 'student_logits')


BATCH, VOCABULARY, ITEMS = 3, 7, 40
GKD = [
  *(
    divided(f'beta{beta}_T{temperature}', beta, lambda n: n, temperature=temperature)
    for beta in (0, 0.1, 0.5, 0.9, 1)
    for temperature in (1, 2)
  ),
  divided('beta0.5_nolabels_batchmean', 0.5, lambda n: BATCH, mask=None),
  divided('beta0.5_nolabels_sum', 0.5, lambda n: 1, mask=None),
  divided('beta0.5_nolabels_mean', 0.5, lambda n: n * VOCABULARY, mask=None),
  divided('beta0.5_labels_mean', 0.5, lambda n: n * VOCABULARY),
  divided('beta0.5_labels_sum', 0.5, lambda n: 1),
  divided('beta0.5_num_items', 0.5, lambda n: ITEMS),
]


def sampled(**options):
  """MiniLLM with what the vector stores about the sampling."""

  def function(v):
    batch = {
      'tokens': v['response_ids'],
      'response/mask': v['mask'],
      'old': v['old_logprobs'],
      'rewards': v['rewards'],
      'importance': v['importance_w'],
    }
    method = minillm(gamma=1, tokens='tokens', mask='response/mask', released=True, **options)
    return value(method, *taps(v), batch)

  return function


def pieces(v):
  logs = losses.log_likelihood(v['student_logits'], v['response_ids'])
  return {
    'logprobs': logs * v['mask'],
    'advantages_nowhiten': minillm_file.advantages(v['rewards'], v['mask'], 1.0),
  }


CASES = {
  'distillm_losses': [
    *(scalar(f'loss.{k}', distillm(m), 'student_logits') for k, m in (DISTILLM | HALF).items()),
    *(float32_as_released(k, m) for k, m in DISTILLM.items()),
  ],
  'distillm_losses_inf_logits': [
    scalar(f'loss.{k}', distillm(DISTILLM[k])) for k in ('forward_kl', 'reverse_kl', 'tv_distance')
  ],
  'gkd_generalized_jsd': GKD,
  'minillm_pieces': [
    scalar(
      'loss.pg',
      sampled(single_step=False, old='old', rewards='rewards', importance='importance'),
      'student_logits',
    ),
    scalar('loss.single_step_reg', sampled(policy=False), 'student_logits'),
    Case(pieces),
  ],
}
