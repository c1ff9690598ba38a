"""Cross-entropy on tokens that the teacher generated (sequence-level KD: Kim & Rush, 1606.07947)."""

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Name, Tap
from kdjax.types import Method

WEIGHT = 1.0  # Kim & Rush; Distil-Whisper has 0.8, beside forward_kl


def seq_kd(
  *, target: Name = 'text/target', mask: str | None = 'text/mask', student: Tap = 'text/logits'
) -> Method:
  """Sequence-level knowledge distillation (arXiv 1606.07947, section 3.2).

  -log q(token) of the sequence that the teacher generated (the paper: its best by beam search),
  mean over the tokens that count. The tokens come with the data: the teacher generates them once, and
  no teacher runs in training. Filtering them, by word error rate as in Distil-Whisper, is a
  matter of the data too.

  Args:
    target: the batch key of the tokens, i32 [B, L], that the positions of `student` predict;
      negative (-100) where there is none.
    mask: the batch key of the positions that count, [B, L]; None counts all that have a target.
    student: its tap, [B, L, V].
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    logits = taps.tap(s, student, 'seq_kd', 'student')
    if target not in batch:
      raise unknown('key of the batch in methods.seq_kd', target, batch)
    tokens = batch[target]
    if tokens.shape != logits.shape[:-1]:
      raise KdjaxError(
        f'seq_kd cannot pair the student tap {student!r} {list(logits.shape)} with the key {target!r} '
        f'{list(tokens.shape)} of the batch: it needs [B, L, V] and [B, L].'
      )
    values = -losses.log_likelihood(logits, tokens)
    weights = taps.positions(values, batch, mask, 'seq_kd') * (tokens >= 0)
    return taps.mean_over_positions(values, weights), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
