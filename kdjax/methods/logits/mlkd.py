"""Class scores on three levels: example, class and batch (Jin et al., CVPR 2023, MLKD)."""

from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Len

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.9  # the authors' code, beside 0.1 on the labels of each view; 9 when standardised


def gram(x):
  """The inner products of the rows, `[N, D] -> [N, N]`."""
  return jnp.matmul(x, x.T, precision='highest')


def mlkd(
  *,
  temperatures: Annotated[tuple[Temperature, ...], Len(1)] = (4.0, 3.0, 5.0, 2.0, 6.0),
  instance: NonNegative = 1.0,
  classes: NonNegative = 1.0,
  examples: NonNegative = 1.0,
  standardise: bool = False,
  released: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
  student_strong: Tap | None = None,
  teacher_strong: Tap | None = None,
) -> Method:
  """Multi-level logit distillation (Jin, Wang & Lin, CVPR 2023).

  Σ over T of instance · T² · KL(P_T || P_S) + classes · ||P_Tᵀ P_T - P_Sᵀ P_S||² / C
  + examples · ||P_T P_Tᵀ - P_S P_Sᵀ||² / B, P [B, C] the softmaxes at T. The last two have no
  T², as in the paper, and use the weak view alone, as in the authors' code. It counts once a
  batch, and padding takes no part in it. The strong view comes from a recipe's
  student.views={'strong': ('rand_augment',)}, with the taps 'strong/logits' of both. Deviations: its crop
  and flip are those of the weak view, where the authors draw them anew, and their cross-entropy of the
  strong view to the label is no part of it.

  Args:
    temperatures: the T, each above 0. The first is the one that the configs set: 4, or 2 when
      standardised.
    instance: the factor of the KL.
    classes: the factor of the correlation of classes.
    examples: the factor of the correlation of examples.
    standardise: gives each example's logits mean 0 and deviation 1 over the classes first, in
      the KL alone (arXiv 2403.01427).
    released: two slips of the code that made the tables. Masks for uncertain examples and
      classes meet values already summed up, so each term of the weak view is multiplied with
      the share of the examples (in `classes`, of the classes) at or below the teacher's median
      confidence; and the strong view takes the weak logits for all but the first three T.
    student: its tap for the weak view, [B, C].
    teacher: its tap for the weak view, of the same shape.
    student_strong: its tap for a strongly augmented view, such as 'strong/logits'; None where there is one
      view only.
    teacher_strong: its tap for that view.
  """
  if (student_strong is None) != (teacher_strong is None):
    raise KdjaxError('mlkd needs both student_strong and teacher_strong, or neither.')

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'mlkd')
    if q.ndim != 2:
      raise KdjaxError(f'mlkd cannot use the tap {student!r} {list(q.shape)}: it needs [B, C].')
    mask = taps.example_mask(batch, q)
    n = jnp.maximum(mask.sum(), 1)

    def level(q, p, T):
      if standardise:
        q, p = losses.standardise(q), losses.standardise(p)
      return T**2 * taps.as_batch_term(taps.mean_over_examples(losses.kl(p, q, T), batch))[0]

    def correlations(T):
      a, b = (jax.nn.softmax(losses.soften(x, T)) * mask[:, None] for x in (q, p))
      by_class = jnp.sum(jnp.square(gram(b.T) - gram(a.T))) / q.shape[-1]
      by_example = jnp.sum(jnp.square(gram(b) - gram(a))) / n
      return classes * share_of_classes * by_class + examples * share * by_example

    share = share_of_classes = 1.0
    if released:
      confidence = jax.nn.softmax(p) * mask[:, None]
      most = jnp.where(mask > 0, confidence.max(-1), jnp.nan)
      share = jnp.sum((most <= jnp.nanmedian(most)) * mask) / n
      share_of_classes = jnp.mean(confidence.sum(0) <= jnp.median(confidence.sum(0)))

    total = jnp.zeros((), q.dtype)
    for T in temperatures:
      total += instance * share * level(q, p, T) + correlations(T)
    if student_strong is not None and teacher_strong is not None:
      strong = taps.pair(s, t, student_strong, teacher_strong, 'mlkd')
      for i, T in enumerate(temperatures):
        total += instance * level(*((q, p) if released and i > 2 else strong), T)
    return (total, jnp.ones((), q.dtype)), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss, relational=True)
