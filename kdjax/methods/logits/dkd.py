"""Target class and other classes apart, each with a weight of its own (Zhao et al., 2203.08679)."""

from kdjax.nn import losses, taps
from kdjax.options import NonNegative, Tap, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # mdistiller, beside 1 on the labels, warmed up over 20 of 240 epochs


def dkd(
  *,
  alpha: NonNegative = 1.0,
  beta: NonNegative = 8.0,
  temperature: Temperature = 4.0,
  standardise: bool = False,
  student: Tap = 'logits',
  teacher: Tap = 'logits',
) -> Method:
  """Decoupled knowledge distillation (arXiv 2203.08679, equation 7).

  T² · (alpha · KL of the two-way distributions (label, rest) + beta · KL of the softmaxes over
  the other classes), mean over the examples whose label is known. Deviation from mdistiller:
  the label's class is taken out exactly, not by 1000 off its logit, so that large logits do not
  bring it back.

  Args:
    alpha: the factor of the target class.
    beta: the factor of the other classes. mdistiller has 8 for most pairs on CIFAR-100, 6 for
      VGG and WRN, 2 for small ResNets; on ImageNet 0.5 or 2, with T = 1.
    temperature: T, above 0.
    standardise: gives each example's logits mean 0 and deviation 1 over the classes first
      (arXiv 2403.01427); its authors use T = 2 with weight 9 for most pairs.
    student: its tap, [B, C].
    teacher: its tap, of the same shape.
  """

  def loss(params, stats, s, t, batch, *, step, rng):
    q, p = taps.pair(s, t, student, teacher, 'dkd')
    label, known = taps.labelled(q, batch, 'dkd')
    if standardise:
      q, p = losses.standardise(q), losses.standardise(p)
    q, p = (losses.soften(x, temperature) for x in (q, p))
    others_q, others_p = losses.without_class(q, label), losses.without_class(p, label)
    target = losses.kl(losses.two_way(p, label), losses.two_way(q, label))
    values = alpha * target + beta * losses.kl(others_p, others_q)
    return taps.mean_over_examples(temperature**2 * values, known), stats

  return Method(lambda rng, s, t, batch: ({}, {}), loss)
