"""Additional augmented views of each example: `student.views` of a recipe."""

import zlib
from collections.abc import Iterable, Mapping

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.types import MODALITIES, Model

VIEW = 'view:'  # 'view:<name>/<key>' of a batch is <key> of the view of that name


def mark(name: str) -> np.uint32:
  """A number for a view, to derive its random key from."""
  return np.uint32(zlib.crc32(name.encode()))


def check_names(views: Mapping[str, Iterable[str]]) -> None:
  """Raises KdjaxError for a view without operations, or one whose taps would clash with others."""
  for name, operations in views.items():
    if not name.isidentifier() or name in MODALITIES or not operations:
      raise KdjaxError(
        f'student.views.{name} is {list(operations)}: a view has operations, and a name of letters, digits '
        f'and "_" that is none of {", ".join(MODALITIES)}.'
      )


def check(config: Mapping) -> None:
  """Raises KdjaxError where examples are generated in training, which have no views."""
  for key, value in (('generator', config['generator']), ('on_policy.share', config['on_policy']['share'])):
    if value and config['student']['views']:
      raise KdjaxError(f'student.views shows examples of the data, and {key} makes others: leave one out.')


def in_views(model: Model) -> Model:
  """The model, applied to every view of a batch too: the taps of a view are '<view>/<tap>'.

  Each view is a forward pass of its own. In training batch norm normalises a view by its own statistics, and
  its running averages are of the plain batch alone. So a view whose taps are not read costs and changes
  nothing.
  """

  def apply(variables, batch, *, train=False, rng=None):
    views = {}
    for key in [k for k in batch if k.startswith(VIEW)]:
      name, _, bare = key.removeprefix(VIEW).partition('/')
      views.setdefault(name, {})[bare] = batch[key]
    if not views:
      return model.apply(variables, batch, train=train, rng=rng)
    plain = {k: x for k, x in batch.items() if not k.startswith(VIEW)}
    outputs, stats = model.apply(variables, plain, train=train, rng=rng)
    for name in sorted(views):
      view_rng = rng if rng is None else jax.random.fold_in(rng, mark(name))
      view_outputs, _ = model.apply(variables, plain | views[name], train=train, rng=view_rng)
      outputs |= {f'{name}/{k}': x for k, x in view_outputs.items()}
    return outputs, stats

  return model._replace(apply=apply)
