"""Collaborative learning: all models learn from the best mixture of their scores (Guo et al., CVPR 2020)."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.nn import losses, taps
from kdjax.options import Tap, Temperature
from kdjax.types import Array, Method, Peer

WEIGHT = 1.0  # the paper's λ, beside 1 on the labels, at T = 2
STEPS = 30


def naive(z: Array, label: Array) -> Array:
  """Of `[M, B, C]`, the scores `[B, C]` of the model with the lowest loss on the example."""
  best = jnp.argmax(jax.vmap(losses.log_likelihood, (0, None))(z, label), 0)
  return jnp.take_along_axis(z, best[None, :, None], 0)[0]


def minlogit(z: Array, label: Array) -> Array:
  """The smallest score of each class, once the label's is taken off each model's."""
  return jnp.min(z - jnp.take_along_axis(z, label[None, :, None], -1), 0)


def linear(z: Array, label: Array) -> Array:
  """Σ_i α_i z_i with the α of each example, on the simplex, that lower its loss the most.

  Exponentiated gradient, which undoes a step that raises an example's loss, convex in its α.
  """
  out = jnp.any(losses.ruled_out(z), 0)  # what one rules out has no chance in any convex combination
  z = jnp.where(out, 0, z)
  away = z - z.mean(0)
  spread = jnp.max(away.max(-1) - away.min(-1), 0)
  rate = 4 / jnp.maximum(spread, 1e-6) ** 2  # 1 / the largest curvature that the loss can have
  target = jax.nn.one_hot(label, z.shape[-1], dtype=z.dtype)

  def mix(log_alpha):
    mixed = jnp.einsum('mb,mbc->bc', jax.nn.softmax(log_alpha, 0), z, precision='highest')
    return jnp.where(out, -jnp.inf, mixed)

  def step(_, carry):
    old, rate, best = carry
    error = jax.nn.softmax(mix(old)) - target
    new = old - rate * jnp.einsum('bc,mbc->mb', error, away, precision='highest')
    fit = losses.log_likelihood(mix(new), label)
    better = fit >= best
    return (
      jnp.where(better, new, old),
      jnp.where(better, 2 * rate, rate / 4),
      jnp.where(better, fit, best),
    )

  start = jnp.zeros(z.shape[:2], z.dtype)
  carry = start, rate, losses.log_likelihood(mix(start), label)
  return mix(jax.lax.fori_loop(0, STEPS, step, carry)[0])


ENSEMBLES = {'naive': naive, 'minlogit': minlogit, 'linear': linear}


def kdcl(
  *,
  peers: Mapping[str, Peer],
  ensemble: Literal['naive', 'minlogit', 'linear'] = 'minlogit',
  temperature: Temperature = 2.0,
  student: Tap = 'logits',
) -> Method:
  """Knowledge distillation by collaborative learning (Guo et al., CVPR 2020).

  The student learns T² · KL(softmax(z / T) || softmax(student / T)), z the scores that the ensemble of
  the student and the peers makes, without gradient; each peer learns its own such KL + CE(label, peer).
  Mean over the examples with a known label, which every ensemble needs. The value is the student's KL
  alone; the peers' losses add their gradients only.

  The peers' weights and statistics are the method's, as in `dml`: trained by the student's optimiser,
  dropped after training, and under the weight and the schedule of the method. The teacher's taps are
  not read.

  Deviations: the ensemble 'general', whose weights come from a validation split, is left out; all
  models get the same view, where the paper distorts each model's images anew; 'linear' takes 30
  steps towards the best weights of each example.

  Args:
    peers: name -> model, with inputs of the batch; one or more.
    ensemble: 'naive' for the model with the lowest loss on the example, 'linear' for the convex
      combination with the lowest loss, 'minlogit' for the minimum of each class's score after the
      label's is taken off.
    temperature: T, above 0.
    student: the tap of the student and of every peer, [B, C].
  """
  if ensemble not in ENSEMBLES:
    raise unknown('ensemble of methods.kdcl', ensemble, ENSEMBLES)
  if not peers:
    raise KdjaxError('kdcl needs one peer or more: peers={name: {"model": ...}}.')
  names = sorted(peers)

  def init(rng, s, t, batch):
    variables = {n: dict(peers[n].init(jax.random.fold_in(rng, i), batch)) for i, n in enumerate(names)}
    return {n: v.pop('params') for n, v in variables.items()}, variables

  def loss(params, stats, s, t, batch, *, step, rng):
    z, new_stats = [taps.tap(s, student, 'kdcl', 'student')], {}
    for i, n in enumerate(names):
      variables, key = {'params': params[n], **stats[n]}, jax.random.fold_in(rng, i)
      outputs, new_stats[n] = peers[n].apply(variables, batch, train=True, rng=key)
      z.append(taps.tap(outputs, student, 'kdcl', f'peer {n}'))
      if z[i + 1].shape != z[0].shape:
        shapes = f'{list(z[0].shape)}, and {n!r} has {list(z[i + 1].shape)}'
        raise KdjaxError(f'kdcl needs peers with {student!r} {shapes}.')
    label, known = taps.labelled(z[0], batch, 'kdcl')
    detach = jax.lax.stop_gradient
    target = detach(ENSEMBLES[ensemble](detach(jnp.stack(z)), label))
    values, *peer_values = (temperature**2 * losses.kl(target, q, temperature) for q in z)
    peer_loss = losses.total(
      v - losses.log_likelihood(p, label) for v, p in zip(peer_values, z[1:], strict=True)
    )
    return taps.mean_over_examples(values + peer_loss - detach(peer_loss), known), new_stats

  return Method(init, loss)
