"""How similar the tokens, or the patches, of one example are to each other, matched by KL."""

import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.options import NoOrSize, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0


def token_similarity(
  *,
  temperature: Temperature = 0.1,
  student_first: NoOrSize = 0,
  teacher_first: NoOrSize = 0,
  mask: str | None = None,
  student: Tap = 'text/block2',
  teacher: Tap = 'text/block2',
) -> Method:
  """Self-similarities of tokens: the patches' part of lightly-train's DistillationV3, by its formula.

  KL(softmax_j(cos(t_i, t_j) / T) || softmax_j(cos(s_i, s_j) / T)), t the tokens of the teacher, or the
  positions of its map, and s the student's: no width has to agree, and nothing is learned. Mean over the
  tokens i. Padding is neither i nor j. Grids of patches of two sizes are averaged to the smaller. MiniLMv2's
  relations (arXiv 2012.15828) are of this kind, of queries, keys and values, with products for cosines. For
  class tokens take `seed` beside it, which relates examples as this relates tokens.

  Args:
    temperature: T, above 0.
    student_first: tokens of the student before its patches, such as a class token, which are left out.
    teacher_first: those of the teacher.
    mask: a key of the batch with the validity of tokens, [B, L]; None for `<modality>/mask` of the
      student's tap, where there is one; '' for none.
    student: its tap, [B, L, D] or [B, H, W, D].
    teacher: its tap, with as many tokens, or with a square of patches, or a map.
  """

  def read(s, t, batch):
    """The tokens of both, and the weights of those of the student."""
    a, b = taps.pair(s, t, student, teacher, 'token_similarity', same_shape=False)
    both = a[:, student_first:], b[:, teacher_first:]
    if a.ndim == b.ndim == 3 and both[0].shape[1] == both[1].shape[1]:
      return *both, taps.valid_positions(batch, student, a, mask, 'token_similarity')[:, student_first:]
    a = taps.patch_map(a, student_first, student, 'token_similarity')
    b = taps.patch_map(b, teacher_first, teacher, 'token_similarity')
    a, b = (x.reshape(x.shape[0], -1, x.shape[-1]) for x in losses.to_one_size(a, b))
    return a, b, taps.positions(a[..., 0], batch, None, 'token_similarity')

  def loss(params, stats, s, t, batch, *, step, rng):
    a, b, weights = read(s, t, batch)

    def logs(x):
      x = losses.unit(x)
      cosines = jnp.einsum('bid,bjd->bij', x, x, precision='highest') / temperature
      return jax.nn.log_softmax(jnp.where(weights[:, None] > 0, cosines, jnp.finfo(x.dtype).min))

    log_p, log_q = logs(b), logs(a)
    return taps.mean_over_positions(losses.expected(jnp.exp(log_p), log_p - log_q), weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
