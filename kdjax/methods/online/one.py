"""On-the-fly native ensemble: branches of one trunk and their mixture (ONE, Lan et al., 1806.04606)."""

from typing import Annotated

import flax.linen as nn
import jax
import jax.numpy as jnp
from annotated_types import Interval

from kdjax.errors import KdjaxError
from kdjax.nn import adapters, losses, taps
from kdjax.nn.conv import Conv
from kdjax.options import NoOrSize, Tap, Temperature, Whole
from kdjax.types import Method

WEIGHT = 1.0  # the paper, beside 1 on the student's labels, at T = 3


class Branch(nn.Module):
  """Class scores [B, classes] from a map [B, H, W, C] or a vector [B, D]: layers of `width`, then linear."""

  classes: int
  width: int
  layers: int

  @nn.compact
  def __call__(self, x, mask):
    for i in range(self.layers):
      if x.ndim == 4:
        stride = 1 if i else 2
        x = Conv(self.width, (3, 3), stride, use_bias=False, dtype=x.dtype, name=f'layer{i}')(x)
      else:
        x = nn.Dense(self.width, use_bias=False, dtype=x.dtype, name=f'layer{i}')(x)
      x = nn.relu(adapters.BatchNorm(name=f'norm{i}')(x, mask))
    x = x.reshape(len(x), -1, x.shape[-1]).mean(1)
    return nn.Dense(self.classes, dtype=x.dtype, name='classifier')(x)


class Branches(nn.Module):
  """(scores [M, B, C] of all branches, the student's first; the gate's weights [B, M], of sum 1)."""

  branches: int
  width: int
  layers: int

  @nn.compact
  def __call__(self, trunk, logits, mask):
    scores = [
      Branch(logits.shape[-1], self.width, self.layers, name=f'branch{i}')(trunk, mask)
      for i in range(1, self.branches + 1)
    ]
    pooled = trunk.reshape(len(trunk), -1, trunk.shape[-1]).mean(1)
    gate = nn.Dense(self.branches + 1, dtype=trunk.dtype, name='gate')(pooled)
    gate = nn.softmax(nn.relu(adapters.BatchNorm(name='gate_norm')(gate, mask)))
    return jnp.stack([logits, *scores]), gate


def one(
  *,
  branches: Annotated[int, Interval(ge=1, le=100)] = 2,
  width: NoOrSize = 0,
  layers: Annotated[int, Interval(ge=1, le=100)] = 2,
  temperature: Temperature = 3.0,
  rampup: Whole = 0,
  student: Tap = 'logits',
  trunk: Tap = 'image/stage2',
) -> Method:
  """Distillation by an on-the-fly native ensemble (arXiv 1806.04606).

  Learned branches grow from a tap of the student, whose own class scores are branch 0; a learned gate
  on the same tap weighs them: e = Σ_i g_i z_i. The loss is CE(label, e) + Σ CE(label, z_i) over the
  added branches, means over the examples with a known label, + T² · Σ KL(softmax(e / T) || softmax(z_i
  / T)) over all branches, the student's too, mean over the examples, with e a constant in the KL. The
  student's own CE is the task's. The branches and the gate are dropped after training. It counts once
  a batch; the batch norms relate the examples of a batch, and padding takes no part in them. The
  teacher's taps are not read.

  Deviations: the paper's branches are copies of the student's last stage, here they are plain layers;
  the KL takes in examples with no label.

  Args:
    branches: how many are added to the student's own; 2 in the paper.
    width: of a branch's layers; 0 for twice the channels of the tap.
    layers: of a branch, 3×3 convolutions for a map, the first of stride 2, or linear for a vector, each
      with batch norm and ReLU; then the mean over the places and a linear classifier.
    temperature: T, above 0.
    rampup: steps over which the factor of the KL grows to 1, as exp(-5 (1 - step / rampup)²); 80 of 300
      epochs in the authors' code, 0 for none.
    student: its class scores, [B, C].
    trunk: the student's tap that the branches grow from, a map [B, H, W, C] or a vector [B, D].
  """

  def read(s, batch):
    x, q = (taps.tap(s, name, 'one', 'student') for name in (trunk, student))
    if x.ndim not in (2, 4):
      raise KdjaxError(
        f'one grows its branches from a map [B, H, W, C] or a vector [B, D], not {trunk!r} {list(x.shape)}.'
      )
    return Branches(branches, width or 2 * x.shape[-1], layers), (x, q, taps.example_mask(batch, q))

  def init(rng, s, t, batch):
    module, inputs = read(s, batch)
    return module.init(rng, *inputs)['params'], {}

  def loss(params, stats, s, t, batch, *, step, rng):
    module, inputs = read(s, batch)
    z, gate = adapters.forward(module, params, *inputs)
    out = losses.ruled_out(z[0])  # by the student: then the branches rule it out too
    mixture = jnp.einsum('bm,mbc->bc', gate, jnp.where(out, 0, z), precision='highest')
    mixture = jnp.where(out, -jnp.inf, mixture)
    label, known = taps.labelled(mixture, batch, 'one')
    hard = -losses.total(losses.log_likelihood(x, label) for x in (mixture, *z[1:]))
    target = jax.lax.stop_gradient(mixture)
    soft = temperature**2 * losses.total(losses.kl(target, x, temperature) for x in z)
    if rampup:
      soft *= jnp.exp(-5 * (1 - jnp.minimum(step / rampup, 1)) ** 2)
    parts = taps.mean_over_examples(hard, known), taps.mean_over_examples(soft, batch)
    total = sum(taps.as_batch_term(part)[0] for part in parts)
    return (total, jnp.ones_like(total)), stats

  return Method(init, loss, relational=True)
