"""A teacher of each modality, and the weaker ones learn first (G²D, Rakib & Bagavathi, 2506.21514)."""

import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.options import Count, NonNegative, Share, Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the authors' code, every term, beside 1 on the labels
STEPS = 'steps'  # the option that is filled in with the steps of the training


def g2d(
  *,
  temperature: Temperature = 1.0,
  feature: NonNegative = 1.0,
  prioritise: Share = 0.5,
  steps: Count = 1000,
  encoders: Taps = ('encoders_image', 'encoders_text'),
  features: Taps = ('image/embed', 'text/embed'),
  teachers: Taps = ('image/class_logits', 'text/class_logits'),
  teacher_features: Taps = ('image/embed', 'text/embed'),
  student: Tap = 'logits',
) -> Method:
  """Gradient-guided distillation with sequential modality prioritisation (arXiv 2506.21514).

  Σ over the modalities m of T² · KL(softmax(teacher_m / T) || softmax(student / T)) + `feature` · the mean of
  (P f_m - teacher's f_m)² over the values, P a learned linear layer where the widths differ; mean over the
  examples. Of all that the student learns, from the labels too, its encoders get unequal shares: in the first
  `prioritise` of the training only those of the modalities whose teachers are the least sure of the labels
  learn, one in the first of M - 1 equal parts, two in the second, and so on; the gradients of the others'
  weights are 0. How sure a teacher is, is the mean probability of the label in the batch.

  Checked against rAIson-Lab/G2D@8a60cf3, student.py and utils/utils.py, which have two modalities: with more,
  the order of the parts is this file's. Deviations: all weights of an encoder are held, where the code holds
  those of its convolutions; and teachers that are equally sure keep their order, where the code stops. The
  gradients are scaled whatever the weight of the entry and its schedule; weight decay, and momentum of what
  was learned before, move an encoder that is held all the same, as in the code.

  Args:
    temperature: T, above 0.
    feature: the factor of the distance of the features.
    prioritise: share of the training before all encoders learn; 0 scales no gradient.
    steps: of the training, which a recipe fills in.
    encoders: the student's submodules, one a modality, as in its tree of weights: `encoders_<modality>` of a
      `fusion`.
    features: the student's feature of each modality, [B, ..., D].
    teachers: the scores of each teacher, [B, C], such as `<member>/logits` of an `ensemble` of a model of
      each modality.
    teacher_features: the feature of each teacher, [B, ..., E], of as many axes.
    student: its scores of all modalities, [B, C].
  """
  if len({len(names) for names in (encoders, features, teachers, teacher_features)}) > 1:
    raise KdjaxError(
      f'g2d pairs the encoders {list(encoders)}, the features {list(features)}, the teachers '
      f'{list(teachers)} and their features {list(teacher_features)}: give as many of each, one a modality.'
    )
  align = adapters.Align()

  def pairs(s, t):
    return taps.stages(s, t, features, teacher_features, 'g2d', rank=None, differ=(-1,))

  def init(rng, s, t, batch):
    stats = {'sure': jnp.zeros(len(teachers), jnp.float32), 'learning': jnp.float32(len(teachers))}
    return align.init(rng, pairs(s, t)).get('params', {}), stats

  def loss(params, stats, s, t, batch, *, step, rng):
    each = [taps.pair(s, t, student, name, 'g2d') for name in teachers]
    values = temperature**2 * losses.total(losses.kl(p, q, temperature) for q, p in each)
    if feature:
      near = adapters.forward(align, params, pairs(s, t))
      values += feature * losses.total(taps.mean_over_axes((a - b) ** 2) for a, b in near)
    total, count = taps.mean_over_examples(values, batch)
    label, known = taps.labelled(each[0][0], batch, 'g2d')
    sure = [jnp.exp(losses.log_likelihood(p, label)) * (known['mask'] > 0) for _, p in each]
    sure = jnp.stack([taps.mean_over_examples(x, batch)[0] for x in sure]) / jnp.maximum(count, 1)
    new = {'sure': jnp.where(count > 0, sure, stats['sure']).astype(jnp.float32)}
    return (total, count), new | {'learning': learning(step, prioritise * steps, len(teachers))}

  def gains(stats):
    """1 for the encoders of the modalities that learn, the least sure first, and 0 for the others."""
    order = jnp.argsort(jnp.argsort(stats['sure']))
    return {name: (order[i] + 0.5 < stats['learning']).astype(jnp.float32) for i, name in enumerate(encoders)}

  return Method(init, loss, gains=gains if prioritise else None)


def learning(step, until, n):
  """f32 []: how many of n modalities learn: 1 at first, one more after each part, n from the step `until`."""
  share = jnp.asarray(step, jnp.float32) / jnp.maximum(jnp.float32(until), 1e-6)
  return jnp.clip(1 + jnp.floor((n - 1) * share), 1, n)
