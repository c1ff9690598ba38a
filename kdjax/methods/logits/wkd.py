"""Optimal transport between class scores, at a cost for each pair of classes (WKD, Lv et al., 2412.08139)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Interval, Len

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.options import Decay, NonNegative, Positive, Share, Steps, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, beside 1 on the labels
Costs = Annotated[tuple[tuple[Share, ...], ...], Len(2)]
Regularisation = Annotated[float, Interval(ge=0.02, le=1e4)]


def costs_between(prototypes, seen, sharpness: float):
  """1 - exp(-sharpness · (1 - cosine)) of the prototypes of C classes, [C, D] -> [C, C].

  A class of which nothing was seen is as far from all others as two directions at a right angle.
  """
  unit = losses.unit(jnp.where(seen[:, None], prototypes, 0))
  cosine = jnp.where(jnp.eye(len(unit), dtype=bool), 1, jnp.matmul(unit, unit.T, precision='highest'))
  return 1 - jnp.exp(-sharpness * jnp.maximum(1 - cosine, 0))


def transported(log_p, log_q, start, costs, regularisation: float, iterations: int):
  """The cost `[B]` of Sinkhorn's plan from p to q, `[B, C]` each, at costs `[C, C]`, after some iterations.

  It starts at the logarithms `start` of the scalings of p, and ends with that of p, whose marginal is then
  exact. The scalings are kept as logarithms: no class is too unlikely for them.
  """
  kernel = jnp.exp(-costs / regularisation)

  def through(matrix, log_x):
    """The products of exp(log_x) with a matrix, over exp(top), and top."""
    top = jax.lax.stop_gradient(jnp.max(log_x, -1, keepdims=True))
    return jnp.matmul(jnp.exp(log_x - top), matrix, precision='highest'), top

  def other(log_w, log_x, matrix):
    """The scaling of one side, of the weights w, for that of the other."""
    product, top = through(matrix, log_x)
    return log_w - jnp.log(product) - top

  def iterate(log_v, _):
    return other(log_q, other(log_p, log_v, kernel.T), kernel), None

  log_v = other(log_q, start, kernel)
  log_v, _ = jax.lax.scan(iterate, log_v, None, iterations - 1)
  mass, _ = through(kernel.T, log_v)
  paid, _ = through((kernel * costs).T, log_v)
  return jnp.sum(jnp.exp(log_p) * paid / mass, -1)


def wkd(
  *,
  transport: NonNegative = 800.0,
  temperature: Temperature = 8.0,
  sharpness: Positive = 1.0,
  regularisation: Regularisation = 0.05,
  iterations: Steps = 10,
  separate: bool = True,
  costs: Costs | None = None,
  classifier: str = '',
  momentum: Decay = 0.999,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
  embed: Tap = 'embed',
) -> Method:
  """Wasserstein distillation of the class scores, WKD-L (arXiv 2412.08139).

  -p[label] · log q[label], p and q the teacher's and the student's softmaxes at 1, + transport · the cost of
  moving q to p among the other classes, which have softmaxes of their own at T, with no T². The plan is that
  of the entropic problem, by Sinkhorn's iterations, and the gradient goes through them. Mean over the
  examples whose label is known. From class i to j it costs 1 - exp(-sharpness · (1 - cosine)), the cosine
  that of two prototypes. These are running means of the teacher's `embed` over the examples of a class
  (without a label, that of the teacher's decision), less the mean of all classes; or the columns of its
  `classifier`; or `costs` says everything.

  Checked against a copy of JiamingLv/WKD, hainn2803/WKD@635a710, mdistiller/distillers/WKD.py, which has the
  `classifier`'s costs, or any of a file. Deviations: the means of `embed`; the authors' own costs come of CKA
  between the features of two classes over the whole training set, which no step sees: compute them
  beforehand, and give them as `costs`. The transport's weight does not decay in the last 90 epochs of 240;
  where the code adds 1e-8 to divisors and costs, there are logarithms.

  Args:
    transport: the factor of the cost; 800 for CIFAR-100 in that copy, with T = 8 and costs of CKA.
    temperature: T, above 0.
    sharpness: κ, of the costs.
    regularisation: the factor of the entropy, over costs from 0 to 1; from 0.02.
    iterations: of Sinkhorn's algorithm.
    separate: whether the label's class is apart; without, all classes are moved among, with no first term,
      and no label is needed.
    costs: [C, C] from 0 to 1, of moving from each class to each; None for those of prototypes.
    classifier: a tap of the teacher, the weights of its last layer, [1, D, C], 'weights/head/linear/kernel';
      '' for means of `embed`.
    momentum: of the running sums behind the means, a step.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
    embed: a tap of the teacher, [B, ..., D], averaged to [B, D].
  """
  given = None if costs is None else jnp.asarray(costs)

  def read(s, t):
    q, p = taps.pair(s, t, student, teacher, 'wkd')
    if q.ndim != 2 or (given is not None and given.shape != (q.shape[1],) * 2):
      raise KdjaxError(f'wkd needs [B, C], and costs [C, C]; the tap {student!r} is {list(q.shape)}.')
    return q, p

  def sums(t, p, batch):
    """Of each class the sum of `embed`, and the number of examples."""
    x = jax.lax.stop_gradient(taps.tap(t, embed, 'wkd', 'teacher'))
    x = x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)
    decided = jnp.argmax(p, -1)
    label = batch.get('label')
    known = label if label is not None and label.shape == decided.shape else decided
    classes = jnp.where(known >= 0, known, decided)
    member = jax.nn.one_hot(classes, p.shape[-1], dtype=x.dtype) * taps.example_mask(batch, x)[:, None]
    return {'sum': jnp.matmul(member.T, x, precision='highest'), 'count': member.sum(0)}

  def init(rng, s, t, batch):
    _, p = read(s, t)
    return {}, {} if given is not None or classifier else sums(t, p, batch)

  def cost_matrix(t, stats, dtype):
    if given is not None:
      return given.astype(dtype)
    if classifier:
      weights = jax.lax.stop_gradient(taps.tap(t, classifier, 'wkd', 'teacher'))
      weights = weights.reshape(weights.shape[-2:]).T
      return costs_between(weights, jnp.ones(len(weights), bool), sharpness)
    seen = stats['count'] > 0
    means = stats['sum'] / jnp.where(seen, stats['count'], 1)[:, None]
    centre = jnp.sum(jnp.where(seen[:, None], means, 0), 0) / jnp.maximum(seen.sum(), 1)
    return costs_between(means - centre, seen, sharpness)

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = read(s, t)
    label, known = taps.labelled(q, batch, 'wkd') if separate else (None, batch)
    softened = [losses.soften(x, temperature) for x in (q, p)]
    start = jnp.zeros_like(q)
    if label is not None:
      *softened, start = (losses.without_class(x, label) for x in (*softened, start))
    log_q, log_p = (jax.nn.log_softmax(x) for x in softened)
    matrix = cost_matrix(t, stats, q.dtype)
    values = transport * transported(log_q, log_p, start, matrix, regularisation, iterations)
    if label is not None:
      own_q, own_p = (losses.log_likelihood(x, label) for x in (q, p))
      values -= losses.expected(jnp.exp(own_p)[:, None], own_q[:, None])
    new = jax.tree.map(lambda old, x: momentum * old + x, stats, sums(t, p, batch)) if stats else stats
    return taps.mean_over_examples(values, known), new

  return Method(init, loss)
