"""Missing modalities: similarities by the teacher's doubt, the worst gap made up (MMANet, 2304.08028)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.nn import losses, taps
from kdjax.nn.adapters import forward
from kdjax.options import Count, NonNegative, Share, Size, Tap, Taps
from kdjax.types import Method

WEIGHT = 1.0  # the authors' script has 30 and 0.5 on the terms, beside 1 on the labels
STEPS = 'steps'  # the option that is filled in with the steps of the training


class Regulariser(nn.Module):
  """Class scores of a feature, [B, ...] -> [B, C], by an MLP of one hidden layer."""

  classes: int
  width: int

  @nn.compact
  def __call__(self, x):
    x = losses.flatten(x)
    x = nn.relu(nn.Dense(self.width, dtype=x.dtype, name='hidden')(x))
    return nn.Dense(self.classes, dtype=x.dtype, name='out')(x)


def entropy_weights(logits, mask):
  """The entropy of the teacher's scores `[B, C]` as a share of the batch's; all alike where it is certain."""
  log_p = jax.nn.log_softmax(losses.soften(logits, 1.0))
  entropy = -losses.expected(jnp.exp(log_p), log_p) * mask
  total = entropy.sum()
  alike = mask / jnp.maximum(mask.sum(), 1)
  return jnp.where(total > 0, entropy / jnp.where(total > 0, total, 1), alike)


def mmanet(
  *,
  margin: NonNegative = 30.0,
  regularise: NonNegative = 0.5,
  mining: Share = 0.05,
  steps: Count = 1000,
  width: Size = 128,
  released: bool = False,
  modalities: Taps = ('image', 'text'),
  student: Tap = 'embed',
  teacher: Tap = 'embed',
  student_logits: Tap = 'logits',
  teacher_logits: Tap = 'logits',
  fused: Tap = 'embed',
) -> Method:
  """Margin-aware distillation and modality-aware regularisation of MMANet (CVPR 2023, arXiv 2304.08028).

  `margin` · Σ_i h_i · Σ_j (S - T)²_ij, S and T the Gram matrices of `sp` with rows of length 1, and h_i the
  entropy of the teacher's scores over that of the batch; plus `regularise` · the mean over the examples of
  CE(label, R(fused)) of those that lack the modality without which the student is weakest, R an MLP that is
  learned with it and discarded. Which modality that is, the first `mining` of the training tells, where the
  second term is 0: of the modalities, the one without which, the others being there, the classes that the
  student predicts are distributed the least as with all, by KL. It needs `student.drop` or data that lack
  modalities. It counts once a batch, and padding takes no part in it.

  Checked against shicaiwei123/MMANet-CVPR2023@523449b, classification/loss/kd/mad.py and
  lib/model_develop.py. Deviations: h weighs the rows, of length 1, where the code weighs the columns
  (`released`); the classes are those of the training examples, smoothed by one of each class, where the code
  takes them of the test split and a softmax of their frequencies; R is an MLP, where the code repeats the
  last stages of a ResNet; and the first term begins at once, where in the code both wait for the mining
  (`schedule` and `start` of the entry do that).

  Args:
    margin: the factor of the first term.
    regularise: the factor of the second.
    mining: share of the training in which the weakest combination is looked for.
    steps: of the training, which a recipe fills in.
    width: of the hidden layer of R.
    released: whether h weighs the columns of the difference.
    modalities: the inputs of the student that may be absent, by `<modality>/present`.
    student: its feature, flattened to [B, D].
    teacher: its feature, flattened to [B, E].
    student_logits: [B, C], of which the predicted classes are taken.
    teacher_logits: [B, C], of which the entropy is taken.
    fused: the student's feature that R reads, such as `joint` of the model `fusion`.
  """

  def init(rng, s, t, batch):
    classes = taps.tap(s, student_logits, 'mmanet', 'student').shape[-1]
    x = taps.tap(s, fused, 'mmanet', 'student')
    seen = jnp.zeros((len(modalities) + 1, classes), jnp.float32)
    return Regulariser(classes, width).init(rng, x)['params'], {'classes': seen}

  def margin_aware(s, t, m):
    a, b = taps.pair(s, t, student, teacher, 'mmanet', same_shape=False)
    _, p = taps.pair(s, t, student_logits, teacher_logits, 'mmanet')
    h, pairs = entropy_weights(p, m), m[:, None] * m[None]
    gaps = jnp.square(losses.similarities(a, pairs) - losses.similarities(b, pairs)) * pairs
    return jnp.sum(gaps * (h[None] if released else h[:, None]))

  def loss(params, stats, s, t, batch, *, step, rng):
    q = taps.tap(s, student_logits, 'mmanet', 'student')
    label, known = taps.labelled(q, batch, 'mmanet')
    m = taps.example_mask(batch, q)
    present = jnp.stack([presence(s, batch, name, q) for name in modalities], 1)  # [B, M]
    mined = step >= mining * steps
    absent = jnp.sum((1 - present) * weakest(stats['classes']).astype(q.dtype), 1)
    feature = taps.tap(s, fused, 'mmanet', 'student')
    costs = -losses.log_likelihood(forward(Regulariser(q.shape[-1], width), params, feature), label)
    scale = jnp.maximum(m.sum(), 1)
    missed = jnp.sum(costs * absent * known['mask'] * mined) / scale
    total = margin * margin_aware(s, t, m) + regularise * missed
    new = stats['classes'] + jnp.where(mined, 0, histograms(q, present, m)).astype(jnp.float32)
    return (total, jnp.ones_like(total)), {'classes': jax.lax.stop_gradient(new)}

  return Method(init, loss, relational=True)


def presence(s, batch, name, like):
  """`[B]`, 1 for an example that has the modality: as the student was given it, else as the data say."""
  key = f'{name}/present'
  present = s.get(key, batch.get(key))
  return jnp.ones(len(like), like.dtype) if present is None else (present > 0).astype(like.dtype)


def histograms(logits, present, mask):
  """`[M + 1, C]`: the classes predicted of examples that lack one modality alone, and of those with all."""
  chosen = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=logits.dtype) * mask[:, None]
  absent = 1 - present
  alone = absent * (absent.sum(1, keepdims=True) == 1)
  cases = jnp.concatenate([alone, present.all(1, keepdims=True).astype(logits.dtype)], 1)
  return jnp.matmul(cases.T, chosen, precision='highest')


def weakest(classes):
  """`[M]`, 1 for the modality without which the classes `[M + 1, C]` differ the most from those with all.

  0 throughout where no example lacked one of them alone.
  """
  shares = (classes + 1) / jnp.sum(classes + 1, -1, keepdims=True)
  without, whole = shares[:-1], shares[-1:]
  seen = classes[:-1].sum(-1) > 0
  gap = jnp.where(seen, jnp.sum(without * jnp.log(without / whole), -1), -1)
  return jax.nn.one_hot(jnp.argmax(gap), len(gap)) * seen.any()
