"""Transport between class scores, cheap between classes that are alike (WKD-L, Lv et al., 2412.08139)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.nn import losses, taps
from kdjax.options import Multiplier, NonNegative, Steps, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # of the term of the label's class, as released, beside 1 on the labels
Blur = Annotated[float, Interval(ge=1e-3, le=100)]


def wkd(
  *,
  temperature: Temperature = 2.0,
  transport: NonNegative = 10.0,
  blur: Blur = 0.05,
  iterations: Steps = 10,
  sharpen: Multiplier = 1.0,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
  feature: Tap = 'embed',
) -> Method:
  """Wasserstein distillation of logits (WKD-L, arXiv 2412.08139, section 3.1).

  -p_y log q_y of the label's class y, at T = 1, plus `transport` · Σ_ij F_ij C_ij over the other classes, F
  the plan that brings the student's softmax at T, of these classes alone, to the teacher's, by `iterations`
  steps of Sinkhorn with entropy `blur`; mean over the examples whose label is known. The cost of a pair of
  classes is C_ij = 1 - exp(-κ (1 - cos(m_i, m_j))), m_i the sum of the teacher's features, at length 1, of
  the examples labelled i in the steps before: classes that the teacher takes to be alike are near, and one
  that was not seen is as far as can be. Checked against JiamingLv/WKD, mdistiller/distillers/WKD.py.
  Deviations: the code takes the rows of the teacher's classifier for m, or a file made by centred kernel
  alignment of the training features; Sinkhorn is in logarithms here. The plan has C² values an example: for
  some hundred classes.

  Args:
    temperature: T of the other classes, above 0.
    transport: the factor of the second term.
    blur: the factor of the entropy.
    iterations: of Sinkhorn, through which the gradient goes.
    sharpen: κ.
    student: its tap, [B, C].
    teacher: its tap, [B, C].
    feature: the teacher's tap that m is of, flattened to [B, D].
  """

  def added(t, label, known, classes):
    """`[C, D]`: the sum of the features of each class."""
    x = taps.raise_precision(losses.flatten(taps.tap(t, feature, 'wkd', 'teacher')))
    of = jax.nn.one_hot(label, classes, dtype=x.dtype) * known['mask'][:, None].astype(x.dtype)
    return jax.lax.stop_gradient(jnp.matmul(of.T, losses.unit(losses.scaled(x, -1)), precision='highest'))

  def init(rng, s, t, batch):
    q, _ = taps.pair(s, t, student, teacher, 'wkd')
    return {}, {'sum': added(t, *taps.labelled(q, batch, 'wkd'), q.shape[-1])}

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'wkd')
    label, known = taps.labelled(q, batch, 'wkd')
    target = jnp.exp(losses.log_likelihood(p, label))
    values = -target * losses.log_likelihood(q, label)
    a, b = (jax.nn.log_softmax(losses.soften(losses.without_class(x, label), temperature)) for x in (q, p))
    values += transport * sinkhorn(a, b, costs(stats['sum'], sharpen).astype(q.dtype), blur, iterations)
    new = {'sum': stats['sum'] + added(t, label, known, q.shape[-1])}
    return taps.mean_over_examples(values, known), new

  return Method(init, loss)


def costs(sums, sharpen):
  """`[C, C]`, from 0 to 1, 0 on the diagonal."""
  means = losses.unit(losses.scaled(sums, -1))
  cosine = jnp.clip(jnp.matmul(means, means.T, precision='highest'), -1, 1)
  seen = jnp.any(sums != 0, -1)
  distance = jnp.where(seen[:, None] & seen[None], 1 - cosine, 2) * (1 - jnp.eye(len(means)))
  return 1 - jnp.exp(-sharpen * distance)


def sinkhorn(log_a, log_b, cost, blur, iterations):
  """`[B]`: the cost of the plan from a to b, both logarithms of shares `[B, C]`."""
  kernel = -cost / blur
  least = jnp.finfo(log_a.dtype).min / 4
  log_a, log_b = jnp.maximum(log_a, least), jnp.maximum(log_b, least)
  f = jnp.where(log_a <= least, least, 0.0)  # a class without a share takes no part from the start
  for _ in range(iterations):
    g = log_b - jax.nn.logsumexp(kernel + f[:, :, None], 1)
    f = log_a - jax.nn.logsumexp(kernel + g[:, None], 2)
  plan = jnp.exp(f[:, :, None] + kernel + g[:, None])
  return jnp.sum(plan * cost, (1, 2))
