"""Be your own teacher: shallow classifiers learn from the deepest (Zhang et al., 1905.08094)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.nn import adapters, layers, losses, taps
from kdjax.options import NonNegative, Share, Tap, Taps, Temperature
from kdjax.types import Method

WEIGHT = 1.0  # the paper, beside 1 on the deepest classifier's labels


class Shallow(nn.Module):
  """(feature [B, width], class scores [B, classes]) of each vector: two layers, then a linear classifier."""

  width: int
  classes: int

  @nn.compact
  def __call__(self, xs):
    outputs = []
    for i, x in enumerate(xs):
      x = nn.relu(nn.Dense(self.width, dtype=x.dtype, name=f'in{i}')(x))
      feature = nn.Dense(self.width, dtype=x.dtype, name=f'out{i}')(x)
      outputs.append((feature, nn.Dense(self.classes, dtype=x.dtype, name=f'classifier{i}')(feature)))
    return outputs


def byot(
  *,
  alpha: Share = 0.3,
  features: NonNegative = 0.03,
  temperature: Temperature = 3.0,
  student: Taps = ('image/stage1', 'image/stage2'),
  logits: Tap = 'logits',
  embed: Tap = 'embed',
) -> Method:
  """Self-distillation of a model's layers from its last (arXiv 1905.08094).

  Σ over the shallow taps of (1 - alpha) · CE(label, z_i), mean over the examples with a known label,
  + alpha · T² · KL(softmax(logits / T) || softmax(z_i / T)) + features · ||f_i - embed||², summed over
  the channels, mean over the examples. f_i is a learned bottleneck of the tap, averaged over its
  places, at the width of `embed`; z_i is a learned linear classifier of f_i. The deepest logits and
  embedding are constants here: they learn from the labels alone. The added layers are dropped after
  training; the model learns through its shallow taps. It counts once a batch. The teacher's taps are
  not read.

  The defaults are those of the authors' released training script. Deviations: the bottleneck works on
  averaged features, where the paper's convolves maps; the script has no T², takes the norm of the
  features of a whole batch unsquared, and leaves it out for the shallowest tap.

  Args:
    alpha: the share of the deepest classifier beside the label.
    features: the factor of the squared distance of features, the paper's λ.
    temperature: T, above 0.
    student: the shallow taps, maps [B, H, W, C], tokens [B, L, D], of which the valid ones are
      averaged, or vectors [B, D].
    logits: the tap of the target class scores, [B, C].
    embed: the tap of the target feature, [B, E].
  """
  names = (student,) if isinstance(student, str) else tuple(student)

  def read(s, batch):
    xs = []
    for name in names:
      x = taps.tap(s, name, 'byot', 'student')
      if x.ndim == 3:
        x = layers.masked_mean(x, taps.valid_positions(batch, name, x, None, 'byot'))
      xs.append(x.reshape(len(x), -1, x.shape[-1]).mean(1))
    deep = taps.tap(s, logits, 'byot', 'student')
    feature = losses.flatten(taps.tap(s, embed, 'byot', 'student'))
    return xs, *jax.lax.stop_gradient((deep, feature)), Shallow(feature.shape[-1], deep.shape[-1])

  def init(rng, s, t, batch):
    xs, *_, shallow = read(s, batch)
    return shallow.init(rng, xs)['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    xs, deep, feature, shallow = read(s, batch)
    label, known = taps.labelled(deep, batch, 'byot')
    hard = soft = jnp.zeros((), deep.dtype)
    for f, z in adapters.forward(shallow, params, xs):
      hard -= (1 - alpha) * losses.log_likelihood(z, label)
      soft += alpha * temperature**2 * losses.kl(deep, z, temperature)
      soft += features * jnp.sum((f - feature) ** 2, -1)
    parts = taps.mean_over_examples(hard, known), taps.mean_over_examples(soft, batch)
    total = sum(taps.as_batch_term(part)[0] for part in parts)
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)
