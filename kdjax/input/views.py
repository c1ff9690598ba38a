"""More views of an example beside the one that it is learned from: `student.views` of a recipe."""

import zlib
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.types import Model

MODALITIES = ('image', 'text', 'audio', 'video', 'words')
VIEW = 'view:'  # 'view:<name>/<key>' of a batch is <key> as the view of that name shows it


def mark(name: str) -> np.uint32:
  """A number for a view, so that what it draws is its own."""
  return np.uint32(zlib.crc32(name.encode()))


def check_names(views: Mapping[str, Iterable[str]]) -> None:
  """Raises KdjaxError for a view of no operations, or one whose taps would be called as others."""
  for name, operations in views.items():
    if not name.isidentifier() or name in MODALITIES or not operations:
      raise KdjaxError(
        f'student.views.{name} is {list(operations)}: a view has operations, and a name of letters, digits '
        f'and "_" that is none of {", ".join(MODALITIES)}.'
      )


def check(config: Mapping) -> None:
  """Raises KdjaxError where examples are made or written in training, which no view could show."""
  for key, there in (('generator', config['generator']), ('on_policy.share', config['on_policy']['share'])):
    if there and config['student']['views']:
      raise KdjaxError(f'student.views shows examples of the data, and {key} makes others: leave one out.')


def in_views(model: Model) -> Model:
  """The model, which looks at every view of a batch too: the taps of one are '<view>/<tap>'.

  Each view goes through on its own. In training batch norm takes its means over the view, and keeps for the
  evaluation, where there are no views, those of the examples as they are alone. So a view that nobody reads
  costs nothing and changes nothing. A batch without views is seen as the model sees it.
  """

  def apply(variables, batch, *, train=False, rng=None):
    shown = {}
    for key in [k for k in batch if k.startswith(VIEW)]:
      name, _, own = key.removeprefix(VIEW).partition('/')
      shown.setdefault(name, {})[own] = batch[key]
    if not shown:
      return model.apply(variables, batch, train=train, rng=rng)
    plain = {k: x for k, x in batch.items() if not k.startswith(VIEW)}
    outputs, stats = model.apply(variables, plain, train=train, rng=rng)
    for name in sorted(shown):
      own = rng if rng is None else jax.random.fold_in(rng, mark(name))
      found, _ = model.apply(variables, plain | shown[name], train=train, rng=own)
      outputs |= {f'{name}/{k}': x for k, x in found.items()}
    return outputs, stats

  return model._replace(apply=apply)
