"""Of several masked teachers, those that a router picks for each example (MST-Distill, 2507.07015)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import Count, NonNegative, Size, Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, beside 1 on the labels; it halves every 30 epochs of 100


class Router(nn.Module):
  """The score of each teacher `[B, K]`, from the student's class scores: two linear layers."""

  teachers: int

  @nn.compact
  def __call__(self, logits):
    x = nn.Dense(2 * logits.shape[-1], dtype=logits.dtype, name='in')(logits)
    return nn.Dense(self.teachers, dtype=x.dtype, name='out')(x)


class Mask(nn.Module):
  """How much of each value of a feature `[B, D]` is kept, from 0 to 1."""

  width: int

  @nn.compact
  def __call__(self, x):
    y = nn.gelu(nn.Dense(self.width, dtype=x.dtype, name='hidden')(x))
    return nn.sigmoid(nn.Dense(x.shape[-1], dtype=x.dtype, name='out')(y))


def pooled(x):
  """`[B, ..., D] -> [B, D]`, the mean over the places."""
  return x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)


def mst_distill(
  *,
  k: Count = 1,
  temperature: Temperature = 4.0,
  balance: NonNegative = 1.0,
  width: Size = 64,
  student: Tap = 'logits',
  teachers: Taps = ('logits',),
  masked: tuple[Tap, ...] = (),
) -> Method:
  """Mixture of specialised teachers for cross-modal distillation (arXiv 2507.07015), its last stage.

  The mean over the examples, and over the `k` teachers of each that a router gives the largest scores, of
  T² · KL(softmax(z / T) || softmax(student / T)), plus `balance` · KL(uniform || mean over the examples of
  the softmax of the router's scores). The router reads the student's scores. As in the code no gradient
  passes through its choice: it learns from the balance alone, and so does the student through it.

  With `masked` the scores z of a teacher are those of a linear head of its feature times a mask of the
  feature itself, which learns T² · KL(softmax(student / T) || softmax(z / T)), so that a teacher says what
  the student's modality can follow. The head learns the teacher's own scores from the whole feature. Both add
  their gradients only. It counts once a batch, and padding takes no part in it.

  Checked against Gray-OREO/MST-Distill@087db1c, KD_methods/MST.py and main-MST-Distill.py. Deviations: the
  code runs the rest of the teacher on a masked feature, whose place the head takes: it is the same where the
  feature is what the teacher's linear classifier reads; a mask is an MLP, without attention between the
  values; masks learn together with the student, where the code trains them before it and keeps them; teachers
  learn nothing, where the code first trains them with the student, each from the others; and the code divides
  the balance by the number of teachers.

  Args:
    k: how many teachers an example has, at most as many as there are.
    temperature: T, above 0.
    balance: the factor of the load balance of the router.
    width: of the hidden layer of a mask.
    student: its class scores, [B, C].
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`, of the student's shape.
    masked: the feature of each teacher that is masked, [B, ..., D]; () for teachers as they are. A teacher
      may be named several times, each time with another feature.
  """
  if k > len(teachers) or (masked and len(masked) != len(teachers)):
    raise KdjaxError(
      f'mst_distill picks {k} of the teachers {list(teachers)}, and masks {list(masked)}: name at least as '
      'many teachers, and a feature of each or none.'
    )
  router, mask = Router(len(teachers)), Mask(width)

  def read(s, t):
    both = [taps.pair(s, t, student, name, 'mst_distill') for name in teachers]
    features = [jax.lax.stop_gradient(pooled(taps.tap(t, f, 'mst_distill', 'teacher'))) for f in masked]
    return both[0][0], [p for _, p in both], features

  def init(rng, s, t, batch):
    q, _, features = read(s, t)
    params, head = {'router': router.init(rng, q)['params']}, nn.Dense(q.shape[-1])
    for i, x in enumerate(features):
      one, other = jax.random.split(jax.random.fold_in(rng, i))
      params[f'mask{i}'], params[f'head{i}'] = mask.init(one, x)['params'], head.init(other, x)['params']
    return params, {}

  def divergence(p, q):
    log_q, log_p, allowed = losses.log_distributions(q, p, temperature)
    return temperature**2 * losses.divergence(log_p, log_q, allowed)

  def loss(params, stats, s, t, batch, *, step, rng):
    q, scores, features = read(s, t)
    detach, learned = jax.lax.stop_gradient, jnp.zeros(len(q), q.dtype)
    for i, x in enumerate(features):
      head, own = nn.Dense(q.shape[-1], dtype=x.dtype), scores[i]
      learned += divergence(own, forward(head, params[f'head{i}'], x))
      part = forward(head, detach(params[f'head{i}']), x * forward(mask, params[f'mask{i}'], x))
      learned += divergence(detach(q), part)
      scores[i] = jnp.where(losses.ruled_out(own), own, detach(part))
    each = jnp.stack([losses.kl(p, q, temperature) for p in scores], 1)  # [B, K]
    log_gate = jax.nn.log_softmax(forward(router, params['router'], losses.zero_masked(q)))
    _, chosen = jax.lax.top_k(detach(log_gate), k)
    values = temperature**2 * jnp.take_along_axis(each, chosen, 1).mean(1) + learned - detach(learned)
    total, _ = taps.as_batch_term(taps.mean_over_examples(values, batch))
    total += balance * imbalance(log_gate, taps.example_mask(batch, q))
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)


def imbalance(log_gate, mask):
  """KL of the mean over the examples of gates `[B, K]`, given by their logs, from all alike; 0 of padding."""
  rows = jnp.where(mask[:, None] > 0, log_gate, jnp.finfo(log_gate.dtype).min)
  log_mean = jax.nn.logsumexp(rows, 0) - jnp.log(jnp.maximum(mask.sum(), 1))
  return jnp.where(mask.sum() > 0, -jnp.log(len(log_mean)) - log_mean.mean(), 0)
