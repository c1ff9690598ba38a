"""Reverse KL over whole sequences, by policy gradient (MiniLLM: Gu et al., 2306.08543)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Rate, Share, Tap
from kdjax.types import Method

WEIGHT = 1.0  # the authors' scripts, beside 1 on the language modelling of other text


def advantages(rewards, mask, gamma, later=False, length_norm=True):
  """Discounted sums of the rewards to come, each divided by the number of tokens to come.

  Args:
    rewards: `[B, L]`.
    mask: `[B, L]`, 0 where a position does not count.
    gamma: the discount of a step.
    later: whether a token's own reward is left out, and the token with it.
    length_norm: whether the sums are divided.
  """

  def back(total, reward):
    total = reward + gamma * total
    return total, total

  start = jnp.zeros_like(rewards[:, 0])
  _, sums = jax.lax.scan(back, start, (jnp.where(mask > 0, rewards, 0) * mask).T, reverse=True)
  remaining = jnp.cumsum(mask[:, ::-1], 1)[:, ::-1]
  sums = sums.T
  if later:
    sums, remaining = (jnp.pad(x[:, 1:], ((0, 0), (0, 1))) for x in (sums, remaining))
  return (sums / jnp.maximum(remaining, 1) if length_norm else sums) * mask


def minillm(
  *,
  policy: bool = True,
  single_step: bool = True,
  gamma: Share = 0.95,
  length_norm: bool = True,
  clip: Rate = 0.2,
  whiten: bool = False,
  released: bool = False,
  tokens: str = 'text/target',
  old: str | None = None,
  rewards: str | None = None,
  importance: str | None = None,
  mask: str | None = 'text/mask',
  student: Tap = 'text/logits',
  teacher: Tap = 'text/logits',
) -> Method:
  """MiniLLM (arXiv 2306.08543, section 2.2): the gradient of KL(q || p) over sequences y that q samples.

  Σ_n w_n · KL(q(. | y_<n) || p(. | y_<n)), the exact part of one step, plus
  Σ_n max(-A_n r_n, -A_n clip(r_n, 1 ± ε)), the effect on later steps by PPO's objective, mean over
  the tokens that count. r_n = w_n · q(y_n) / q_old(y_n), and A_n is the mean reward of the tokens after n,
  discounted, the reward being log p(y) - log q_old(y). The tokens are in the batch,
  sampled beforehand from the student or from a mixture with the teacher. The paper's third part, language
  modelling of other text, is the loss on the labels, `task_weight`.

  On-policy distillation with the teacher as the reward (OPD: Thinking Machines, 2025), where the advantage of
  a token is log p(y_n) - log q_old(y_n) alone, is `single_step=False, gamma=0, length_norm=False`, with
  `on_policy.share=1`. Checked against thinking-machines-lab/tinker-cookbook@0333e7c,
  tinker_cookbook/distillation/train_on_policy.py, which does not clip; nor is anything here, on samples of
  this very student.

  Args:
    policy: whether the policy gradient is in.
    single_step: whether the exact part is in; without it, A_n begins with the reward of n itself.
    gamma: the discount of a step.
    length_norm: whether A is the mean of rewards (the paper's length normalisation); False: their sum.
    clip: ε.
    whiten: whether A is brought to mean 0 and variance 1 over the batch, as in the authors' code.
    released: A begins with the reward of n in any case, so that `single_step` counts it twice, and
      the exact part is not weighted by w, as in the authors' code.
    tokens: the batch key of the sampled tokens, i32 [B, L], that the positions of `student` predict;
      negative where there is none.
    old: the batch key of log q_old of the tokens, [B, L]; None: sampled from this very student.
    rewards: the batch key of the rewards, [B, L]; None: log p - log q_old.
    importance: the batch key of w, [B, L], which is q_old(y) / (α p(y) + (1 - α) q_old(y)) where α of the
      teacher was mixed in; None: 1.
    mask: the batch key of the positions that count, [B, L]: a validity, or target tokens (-100:
      none) if its name does not end in 'mask'; None counts all.
    student: its tap, [B, L, V].
    teacher: its tap, of the same shape.

  Raises:
    KdjaxError: if both parts are left out.
  """
  if not (policy or single_step):
    raise KdjaxError('minillm has nothing to do without policy and without single_step.')

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = taps.pair(s, t, student, teacher, 'minillm')

    def batch_array(key):
      if key not in batch:
        raise unknown('key of the batch in methods.minillm', key, batch)
      if a.ndim != 3 or batch[key].shape != a.shape[:-1]:
        raise KdjaxError(
          f'minillm cannot pair the student tap {student!r} {list(a.shape)} with the key {key!r} '
          f'{list(batch[key].shape)} of the batch: it needs [B, L, V] and [B, L].'
        )
      return batch[key]

    ids = batch_array(tokens)
    log_q = losses.log_likelihood(a, ids)
    weights = taps.positions(log_q, batch, mask, 'minillm') * (ids >= 0)
    w = batch_array(importance).astype(a.dtype) if importance else jnp.ones_like(log_q)
    values = jnp.zeros_like(log_q)
    if policy:
      log_old = batch_array(old).astype(a.dtype) if old else jax.lax.stop_gradient(log_q)
      reward = batch_array(rewards).astype(a.dtype) if rewards else losses.log_likelihood(b, ids) - log_old
      gain = advantages(reward, weights, gamma, single_step and not released, length_norm)
      if whiten:
        n = jnp.maximum(weights.sum(), 1)
        gain = gain - jnp.sum(gain * weights) / n
        gain = gain * jax.lax.rsqrt(jnp.sum(gain**2 * weights) / n + 1e-8)
      change = jnp.where(weights > 0, log_q - log_old, 0)
      ratio = jnp.exp(jnp.minimum(change, 30)) * w  # e³⁰ is far beyond the clip, and finite
      values += jnp.maximum(-gain * ratio, -gain * jnp.clip(ratio, 1 - clip, 1 + clip))
    if single_step:
      exact = losses.divergence(*losses.log_distributions(a, b))
      values += exact if released else w * exact
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=whiten)
