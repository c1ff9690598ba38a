"""Contrast learned mixtures of student and teacher (CLIP-KD: Yang et al., 2307.12732)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kdjax.nn import adapters, groups, losses, taps
from kdjax.options import Taps
from kdjax.types import Method

WEIGHT = 1.0  # as for CLIP-KD's other contrastive losses; its own AFD script runs another loss


def clip_afd(
  *,
  released: bool = False,
  student: Taps = ('image/embed', 'text/embed'),
  teacher: Taps = ('image/embed', 'text/embed'),
) -> Method:
  """Augmented feature distillation of CLIP-KD (arXiv 2307.12732, "AFD").

  CLIP's InfoNCE of Linear([S; T]), normalised, one learned layer a tower from both models'
  embeddings of length 1 to the student's width. The scale exp(p) is learned, from 1 / 0.07. Pairs of
  the same `group` are no negatives of each other, and padding takes no part. Deviation: the released
  code fails where the widths differ.

  Args:
    released: the scale is p, without the exponential, so that it starts at 2.66, as in CLIP-KD's
      code and the tables made with it.
    student: its image and text embedding, [B, D] each.
    teacher: its image and text embedding, [B, E] each.
  """

  def read(s, t):
    a = taps.towers(s, student, 'clip_afd', 'student')
    b = taps.towers(t, teacher, 'clip_afd', 'teacher')
    both = [jnp.concatenate([losses.unit(x), losses.unit(y)], -1) for x, y in zip(a, b, strict=True)]
    return nn.Dense(a[0].shape[-1], dtype=a[0].dtype), *both

  def init(rng, s, t, batch):
    fuse, image, text = read(s, t)
    rngs = jax.random.split(rng)
    return {
      'image': fuse.init(rngs[0], image)['params'],
      'text': fuse.init(rngs[1], text)['params'],
      'logit_scale': jnp.asarray(math.log(1 / 0.07), image.dtype),
    }, {}

  def loss(params, stats, s, t, batch, *, step, rng):
    fuse, image, text = read(s, t)
    image = losses.unit(adapters.forward(fuse, params['image'], image))
    text = losses.unit(adapters.forward(fuse, params['text'], text))
    scale = params['logit_scale'] if released else jnp.exp(params['logit_scale'])
    others = groups.contrasted(batch, taps.example_mask(batch, image))
    values = losses.clip_info_nce(image, text, scale, others)
    return taps.as_batch_term(taps.mean_over_examples(values, batch)), stats

  return Method(init, loss, relational=True)
