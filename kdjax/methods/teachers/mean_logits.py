"""Several teachers as one: KL to the mean of their logits (as in TextBrewer)."""

from kdjax.nn import losses, taps
from kdjax.options import Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 0.9  # as `kd`, which it is of one teacher; TextBrewer takes 1 with no factor T²


def mean_logits(
  *, temperature: Temperature = 4.0, student: Tap = 'logits', teachers: Taps = ('logits',)
) -> Method:
  """Distillation from the mean of several teachers' logits, as in TextBrewer (arXiv 2002.12620).

  T² · KL(softmax(mean_k z_k / T) || softmax(student / T)), mean over the examples. The mean of
  logits is the normalised geometric mean of probabilities: a class needs a high one from every teacher.
  Deviation from TextBrewer: the factor T².

  Args:
    temperature: T, above 0.
    student: its tap, [..., C].
    teachers: a tap of each, `<teacher>/<tap>` of the members of an `ensemble`, of the student's shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    pairs = [taps.pair(s, t, student, name, 'mean_logits') for name in teachers]
    q, p = pairs[0][0], losses.total(p for _, p in pairs) / len(pairs)
    values = temperature**2 * taps.mean_over_axes(losses.kl(p, q, temperature))
    return taps.mean_over_examples(values, batch), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
