"""Several teachers, each weighted by its confidence in the label (CA-MKD, Zhang et al., 2201.00007)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.nn.adapters import Bottleneck, forward, norm_without_padding
from kdjax.options import NonNegative, Size, Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the paper's α, beside 1 on the labels


class Projectors(nn.Module):
  """The student's map for each teacher, of its size and width, through a `Bottleneck` of its own."""

  factor: int

  @nn.compact
  def __call__(self, x, targets, norm):
    projected = []
    for i, target in enumerate(targets):
      width = target.shape[-1]
      projector = Bottleneck(width, max(width // self.factor, 1), name=f'teacher{i}')
      projected.append(projector(losses.to_one_size(x, target)[0], norm))
    return projected


def confidence(costs):
  """The weights of K teachers by their costs, `[K, B]` both; 1 for a single one."""
  return (1 - jax.nn.softmax(costs, 0)) / (len(costs) - 1) if len(costs) > 1 else jnp.ones_like(costs)


def ca_mkd(
  *,
  temperature: Temperature = 4.0,
  features: NonNegative = 0.0,
  factor: Size = 2,
  student: Tap = 'logits',
  teachers: Taps = ('logits',),
  student_map: Tap = 'image/stage3',
  teacher_maps: Taps = ('image/stage3',),
  classifiers: Taps = ('weights/head/linear',),
) -> Method:
  """Confidence-aware multi-teacher distillation (arXiv 2201.00007), L_KD + features · L_inter.

  L_KD = Σ_k w_k · T² · KL(softmax(z_k / T) || softmax(student / T)), w_k = (1 - softmax_k(CE_k)) / (K - 1)
  with CE_k teacher k's cross-entropy to the label of the example; mean over the examples with a
  known label. The weights of an example add up to 1, and a single teacher has the weight 1.

  L_inter = Σ_k v_k · mean (r_k(F_S) - F_k)² of maps, r_k a projector for each teacher, of convolutions of
  1×1, 3×3 and 1×1 with batch norm and ReLU. v_k is as w_k, with the cross-entropy of teacher k's classifier
  on the mean of r_k(F_S) over the positions; the gradient goes through it, as in the code. The larger map
  is averaged to the size of the other.

  Checked against Rorozhl/CA-MKD@acc8c2b, distiller_zoo/CAMKD.py and helper/loops.py. Deviations: the authors'
  code also divides by K; for its scale divide the weight by K. It leaves L_inter out of the first epoch. The
  batch norms of r_k leave padding out.

  Args:
    temperature: T, above 0.
    features: the factor of L_inter. 0 leaves it out, which reads no maps and no weights.
    factor: the hidden layers of r_k have D / factor channels.
    student: its tap, [B, C].
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`, of the student's shape.
    student_map: its last map, [B, H, W, D].
    teacher_maps: that of each teacher, [B, H, W, E].
    classifiers: the path of each teacher's last layer, in an ensemble
      `weights/members_<teacher>/head/linear`. Its taps `<path>/kernel` [1, E, C] and `<path>/bias` [1, C] are
      read.
  """
  if features and not len(teachers) == len(teacher_maps) == len(classifiers):
    raise KdjaxError(
      f'ca_mkd has {len(teachers)} teachers, {len(teacher_maps)} teacher_maps and {len(classifiers)} '
      'classifiers: give as many of each.'
    )

  def maps(s, t):
    both = taps.stages(s, t, (student_map,) * len(teacher_maps), teacher_maps, 'ca_mkd')
    return both[0][0], [b for _, b in both]

  def classified(t, name, x):
    kernel, bias = (
      jax.lax.stop_gradient(taps.tap(t, f'{name}/{k}', 'ca_mkd', 'teacher')) for k in ('kernel', 'bias')
    )
    return jnp.matmul(x, kernel.reshape(kernel.shape[-2:]), precision='highest') + bias.reshape(-1)

  def init(rng, s, t, batch):
    if not features:
      return {}, {}
    x, targets = maps(s, t)
    norm = norm_without_padding(taps.example_mask(batch, x))
    return Projectors(factor).init(rng, x, targets, norm)['params'], {}

  def of_maps(params, s, t, batch, label):
    x, targets = maps(s, t)
    projected = forward(
      Projectors(factor), params, x, targets, norm_without_padding(taps.example_mask(batch, x))
    )
    logits = [classified(t, name, y.mean((1, 2))) for name, y in zip(classifiers, projected, strict=True)]
    v = confidence(-jnp.stack([losses.log_likelihood(z, label) for z in logits]))
    errors = [
      taps.mean_over_axes(jnp.square(y - losses.to_one_size(x, z)[1]))
      for y, z in zip(projected, targets, strict=True)
    ]
    return jnp.sum(v * jnp.stack(errors), 0)

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = [taps.pair(s, t, student, name, 'ca_mkd') for name in teachers]
    label, known = taps.labelled(pairs[0][0], batch, 'ca_mkd')
    w = confidence(-jnp.stack([losses.log_likelihood(p, label) for _, p in pairs]))
    each = jnp.stack([losses.kl(p, q, temperature) for q, p in pairs])
    values = temperature**2 * jnp.sum(w * each, 0)
    if features:
      values += features * of_maps(params, s, t, batch, label)
    return taps.mean_over_examples(values, known), stats

  return Method(init, loss, relational=bool(features))  # batch norm's
