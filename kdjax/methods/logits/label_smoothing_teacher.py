"""A virtual teacher that is right and nearly certain, softened (Yuan et al., 1909.11723, Tf-KD)."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import SomeShare, Tap, Temperature
from kdjax.types import Method

WEIGHT = 0.1  # the authors' reg_alpha, beside 0.9 on the labels; CIFAR-100, mean over examples


def label_smoothing_teacher(
  *,
  correct: SomeShare = 0.99,
  temperature: Temperature = 20.0,
  student: Tap = 'logits',
) -> Method:
  """Teacher-free distillation by regularisation, Tf-KD_reg (arXiv 1909.11723).

  KL(softmax(u / T) || softmax(student)), u = correct at the label and (1 - correct) / (C - 1)
  elsewhere; mean over the examples whose label is known. As in the authors' code the softmax
  is taken of the probabilities u, the student is not softened (the paper writes p_τ for it),
  and there is no T². Their mean over all elements times 100 is this sum over 100 classes.

  Args:
    correct: u at the label.
    temperature: T of the virtual teacher, above 0.
    student: its tap, [B, C]. A class that it rules out is none of the C.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q = taps.tap(s, student, 'label_smoothing_teacher', 'student')
    label, known = taps.labelled(q, batch, 'label_smoothing_teacher')
    right = jax.nn.one_hot(label, q.shape[-1], dtype=bool)
    out = losses.ruled_out(q)
    others = jnp.maximum(jnp.sum(~out, -1, keepdims=True) - 1, 1)
    u = jnp.where(right, correct, (1 - correct) / others).astype(q.dtype) / temperature
    return taps.mean_over_examples(losses.kl(jnp.where(out, -jnp.inf, u), q), known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
