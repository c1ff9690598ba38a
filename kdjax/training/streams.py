"""The random streams of a training, all derived from the seed of a recipe.

The initial weights and the randomness of the steps have a stream each. Student and baseline share theirs,
so for one seed both start from the same weights and drop the same units; the teacher has others. The order
of the data (`pipeline.order`), the choice of the labelled subset and the augmentation
(`augment.make_augment`, a key for each epoch and example) have streams that all stages share.
"""

import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.runtime import files

# The version of the streams, and of the moving average of the weights; a workdir stays with its own.
# In version 1 weights, steps and augmentation of all stages had one stream, and the average had no warm-up.
# Before 3 the batches of a baseline with all labels held examples without one.
# Before 4 the order of the data was Grain's.
PROTOCOL = 4
ANEW = 'choose another --workdir'


def protocol(workdir: Path) -> int:
  """The version of a workdir, or of a new one."""
  default = 1 if (workdir / 'config.json').exists() else PROTOCOL
  recorded = files.read_json(workdir / 'protocol.json', {'protocol': int}, ANEW, {'protocol': default})
  return recorded['protocol']


def seed(base: int, *purpose: str) -> int:
  """A seed of 32 bits for a purpose, from the `base` seed of a recipe."""
  entropy = [base % 2**32, *(zlib.crc32(text.encode()) for text in purpose)]
  return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def seeds(bases: Iterable[int], stage: str, protocol: int = PROTOCOL) -> tuple[tuple[int, int], ...]:
  """(seed of the initial weights, seed of the steps) for each seed of a stage, as `initial` takes them."""
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
