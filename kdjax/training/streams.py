"""Streams of random numbers, one for each thing that is drawn, all from the seed of a recipe.

Initial weights and the randomness of the steps have a stream each, the teacher's apart from those of student
and baseline, which share theirs: of one seed both start from the same weights and drop the same units. The
order of the data (Grain), the labels that are kept (NumPy) and the views of the augmentation
(`augment.make_augment`, a key for each epoch and example) are streams of their own too, and the same in every
stage.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.runtime import files

# How random numbers are drawn and averages of weights are kept; a workdir stays with what it was begun with.
# 1 had one stream for the weights of every stage, their steps and the views, and averages with no warm-up.
PROTOCOL = 2
ANEW = 'choose another --workdir'


def protocol(workdir: Path) -> int:
  """That of a workdir, or of one that is to be begun."""
  default = 1 if (workdir / 'config.json').exists() else PROTOCOL
  recorded = files.read_json(workdir / 'protocol.json', {'protocol': int}, ANEW, {'protocol': default})
  return recorded['protocol']


def seed(base: int, *purpose: str) -> int:
  """A seed of 32 bits for a purpose, from the seed `of` a recipe."""
  entropy = [base % 2**32, *(zlib.crc32(text.encode()) for text in purpose)]
  return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def seeds(bases: Iterable[int], stage: str, protocol: int = PROTOCOL) -> tuple[tuple[int, int], ...]:
  """Of each seed of a stage (that of the initial weights, that of the steps), as `initial` takes them."""
  if protocol < 2:
    return tuple((n, n) for n in bases)
  model = 'teacher' if stage == 'teacher' else 'student'
  return tuple((seed(n, model, 'weights'), seed(n, model, 'steps')) for n in bases)


def initial(seeds: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
  """(n keys for the initial weights, the seed u32 [] of the steps).

  Args:
    seeds: u32 [2], as `seeds` gives them; one number is the seed of both.
    n: how many keys.
  """
  weights, steps = jnp.broadcast_to(jnp.asarray(seeds, jnp.uint32), (2,))
  return jax.random.split(jax.random.key(weights), n), steps
