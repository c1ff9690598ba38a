"""Mutual learning: the student and a peer, both untrained, teach each other (Zhang et al., 1706.00384)."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.nn import losses, taps
from kdjax.options import Tap
from kdjax.types import Method, Peer

WEIGHT = 1.0  # the paper and Knowledge-Distillation-Zoo, beside 1 on the labels


def dml(*, peer: Peer, student: Tap = 'logits') -> Method:
  """Deep mutual learning of two models (arXiv 1706.00384), of which only the student is evaluated.

  The student learns KL(softmax(peer) || softmax(student)) at T = 1, mean over the examples. The peer
  learns CE(label, peer), mean over the examples with a known label, + KL(softmax(student) ||
  softmax(peer)). Neither gets a gradient from the other's loss. The value is the student's KL alone;
  the peer's loss adds its gradient only. It counts once a batch.

  The peer's weights and statistics are the method's: the student's optimiser trains them, they count
  for the clipping of gradients, and are dropped after training. The weight of the method and its schedule are
  on all that the peer learns, so that a weight other than 1 is another learning rate of the peer
  under SGD, and a weight of 0 stops it. The teacher's taps are not read.

  Deviations: both are updated at once from the same forward passes, as in Knowledge-Distillation-Zoo,
  where the paper updates one after the other; the KL takes in examples with no label.

  Args:
    peer: the other model, with inputs of the batch.
    student: the tap of the student and of the peer, [B, C].
  """

  def init(rng, s, t, batch):
    stats = dict(peer.init(rng, batch))
    return {'peer': stats.pop('params')}, stats

  def loss(params, stats, s, t, batch, *, step, rng):
    q = taps.tap(s, student, 'dml', 'student')
    outputs, new_stats = peer.apply({'params': params['peer'], **stats}, batch, train=True, rng=rng)
    p = taps.tap(outputs, student, 'dml', 'peer')
    if p.shape != q.shape:
      raise KdjaxError(f'dml needs a peer with {student!r} {list(q.shape)}, and it has {list(p.shape)}.')
    label, known = taps.labelled(q, batch, 'dml')

    def mean(values, batch):
      return taps.as_batch_term(taps.mean_over_examples(values, batch))[0]

    detach = jax.lax.stop_gradient
    peer_loss = mean(-losses.log_likelihood(p, label), known) + mean(losses.kl(detach(q), p), batch)
    total = mean(losses.kl(detach(p), q), batch) + peer_loss - detach(peer_loss)
    return (total, jnp.ones_like(total)), new_stats

  return Method(init, loss, relational=True)
