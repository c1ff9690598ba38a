"""Contrast within the batch: InfoNCE between the student's and the teacher's embeddings."""

import jax
import jax.numpy as jnp

from kdjax.nn import groups, losses, taps
from kdjax.nn.adapters import TwoEmbeddings, forward
from kdjax.options import Size, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # CLIP-KD's interactive contrastive loss, of the same form


def crd_in_batch(
  *,
  dim: Size = 128,
  temperature: Temperature = 0.07,
  same_label: bool = False,
  student: Tap = 'embed',
  teacher: Tap = 'embed',
) -> Method:
  """CRD (arXiv 1910.10699) with no memory: InfoNCE between the two models over the batch.

  Mean of -log softmax_j(v_i·w_j / T) at j = i and of the same with student and teacher changed
  over; v and w are linear embeddings of the two taps, learned, of length 1. Deviation from the
  paper: a softmax over the batch takes the place of noise-contrastive estimation over the banks of
  `crd`. As there, examples of the same label are no negatives, and neither are those of the same
  `group`, such as the captions of an image. `temperature` brings no T². It counts once a batch, and
  padding takes no part in it.

  Args:
    dim: the width of the embeddings.
    temperature: T.
    same_label: whether other examples of the same label are negatives too.
    student: its tap, flattened to [B, D].
    teacher: its tap, flattened to [B, E].
  """

  def read(s, t):
    return taps.pair(s, t, student, teacher, 'crd_in_batch', same_shape=False)

  def init(rng, s, t, batch):
    return TwoEmbeddings(dim).init(rng, *read(s, t))['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b = forward(TwoEmbeddings(dim), params, *read(s, t))
    scores = jnp.matmul(losses.unit(a), losses.unit(b).T, precision='highest') / temperature
    allowed = groups.contrasted(batch, taps.example_mask(batch, a)) > 0
    allowed = jnp.broadcast_to(allowed, scores.shape)
    if not same_label and 'label' in batch:
      label = batch['label']
      allowed &= (label[:, None] != label[None]) | (label < 0)
    allowed |= jnp.eye(len(scores), dtype=bool)
    both = [jax.nn.log_softmax(jnp.where(allowed, x, -jnp.inf)) for x in (scores, scores.T)]
    values = -losses.total(jnp.diagonal(x) for x in both) / 2
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(init, loss, relational=True)
