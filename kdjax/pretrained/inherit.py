"""A student's first weights, taken out of its teacher's: layers copied or skipped, widths sliced.

Layers as in DistilBERT (Sanh et al., 1910.01108) and Distil-Whisper (Gandhi et al., 2311.00430), widths
after the manual inheritance of TinyCLIP (Wu et al., 2309.12314).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from flax import traverse_util

from kdjax import registry
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained import safetensors_io

NUMBERED = re.compile(r'(.*\D)(\d+)')
LAYERS = {  # which of n layers the m of the student are, from 0
  'first': lambda n, m: range(m),
  'alternate': lambda n, m: [i * n // m for i in range(m)],
  'spaced': lambda n, m: [i * (n - 1) // max(m - 1, 1) for i in range(m)],
}
WIDTHS = ('first', 'uniform', 'magnitude')
HEADS = {'query', 'key', 'value'}
INPUTS = {'patch', 'stem', 'conv1'}  # outside of layers: their inputs are those of the model
CLASSES = re.compile(r'(.*/)?head(/linear)?/(kernel|bias)')
TABLE = re.compile(r'(.*/)?positions(/embedding)?')


def inherit(
  variables: Mapping,
  like: Mapping,
  *,
  layers: str | Sequence[int] = 'spaced',
  width: str = 'uniform',
  teacher: Mapping[str, Any] | None = None,
  student: Mapping[str, Any] | None = None,
) -> dict:
  """The student's variables, each an array of the teacher's, or a slice of one.

  Layers are the modules whose names end in a number, 'block3' or 'stage2_block1'. A student of as many
  gets each; of fewer, those that `layers` says, and what lies outside of layers as it is.

  Widths differ where the shapes do: on the input and output axis of a kernel, and on the last axis of
  anything else. Axes that a layer shares with the next have to keep the same channels. They are told by
  their sizes: all axes of n channels in the teacher and m in the student keep the same m of the n, in
  the teacher's order, except for the hidden layer of each MLP and for the heads of each attention, which
  choose their own. A head is kept whole or left out, so that teacher and student need heads of one size.
  Of a table of positions for longer texts the first are kept.

  What is not done: no learned masks, no data, no rescaling of what is left, no new classes, vocabulary,
  patches or grid of an image. Features that are joined or flattened before a layer keep the right
  channels under 'uniform' alone, and layers of several widths only where none of them is skipped.
  Deviation from TinyCLIP: its manual choices are by hand and per model.

  Args:
    variables: of the teacher, one seed's.
    like: the student's, or their shapes.
    layers: 'spaced' (first and last kept, as far apart as can be), 'alternate' (every n/m-th from the
      first: every second for half as many), 'first', or the numbers of the teacher's layers.
    width: 'first', 'uniform' (every n/m-th channel and head), or 'magnitude' (those of the largest mean
      absolute weight, each array's relative to its mean, added up over the arrays that share them).
    teacher: the config of its model, for the number of heads; needed where heads are left out.
    student: the config of its model, to see that its heads are of the teacher's size.

  Raises:
    KdjaxError: if the student cannot be cut out of this teacher; it says where.
  """
  if width not in WIDTHS:
    raise unknown('width of an inheritance', width, WIDTHS)
  stored: dict[str, Any] = traverse_util.flatten_dict(variables, sep='/')
  wanted: dict[str, Any] = traverse_util.flatten_dict(like, sep='/')
  sources = _sources(stored, wanted, layers)
  arrays = {name: np.asarray(stored[old]) for name, old in sources.items() if old in stored}
  sizes = {}
  for config, size_of in ((teacher, arrays), (student, wanted)):
    for name, size in _head_sizes(config or {}, size_of):
      if sizes.setdefault(name, size) != size:
        raise KdjaxError(
          f'{name} has heads of {size} channels in the student and of {sizes[name]} in the teacher, and they '
          f'are kept whole: set heads so that width / heads is {sizes[name]}.'
        )
  groups: dict[tuple[str, int, int], list[tuple[str, int]]] = {}
  for name, x in arrays.items():
    for axis in _sliced(name, x.shape, wanted[name].shape):
      key = (_scope(name, axis, x.ndim), x.shape[axis], wanted[name].shape[axis])
      groups.setdefault(key, []).append((name, axis))
  kept = {
    key: _kept(*key, [(arrays[name], axis) for name, axis in groups[key]], width, sizes) for key in groups
  }
  for key, places in groups.items():
    for name, axis in places:
      arrays[name] = arrays[name].take(kept[key], axis)
  return safetensors_io.fit(arrays, like, 'the teacher to inherit from')


def _place(name: str) -> tuple[str, str, int, str] | None:
  """Of a name within a layer: the path to it, its stem, its number, and the path within it."""
  parts = name.split('/')
  for i, part in enumerate(parts[1:-1], 1):
    if match := NUMBERED.fullmatch(part):
      return '/'.join(parts[1:i]), match[1], int(match[2]), '/'.join(parts[i + 1 :])
  return None


def _numbers(names: Mapping) -> dict[tuple[str, str], list[int]]:
  """(path, stem) -> the numbers of the layers there."""
  by_path = {}
  for place in filter(None, map(_place, names)):
    by_path.setdefault(place[:2], set()).add(place[2])
  return {key: sorted(numbers) for key, numbers in by_path.items()}


def _sources(stored, wanted, layers) -> dict[str, str]:
  """The teacher's name of each of the student's."""
  theirs, mine = _numbers(stored), _numbers(wanted)
  chosen = {key: _chosen(key[1], theirs[key], mine[key], layers) for key in mine if key in theirs}
  sources = {}
  for name in wanted:
    place = _place(name)
    sources[name] = name
    if place and place[:2] in chosen:
      path, stem, number, below = place
      parts = (name.split('/')[0], path, f'{stem}{chosen[path, stem][number]}', below)
      sources[name] = '/'.join(part for part in parts if part)
  return sources


def _chosen(stem, theirs, mine, layers) -> dict[int, int]:
  """The student's numbers of layers -> the teacher's."""
  n, m = len(theirs), len(mine)
  if n == m:
    taken = theirs
  elif not isinstance(layers, str):
    taken = list(layers)
    if len(taken) != m or not set(taken) <= set(theirs):
      raise KdjaxError(f'layers is {tuple(taken)}; the student has {m} {stem!r}, to be chosen from {theirs}.')
  elif layers not in LAYERS:
    raise unknown('layers of an inheritance', layers, LAYERS)
  elif m > n:
    raise KdjaxError(
      f'the student has {m} {stem!r} and the teacher {n}: set its depth to {n} or less, or name {m} layers.'
    )
  else:
    taken = [theirs[i] for i in LAYERS[layers](n, m)]
  return dict(zip(mine, taken, strict=True))


def _towers(config: Mapping, path: str = '') -> Iterator[tuple[str, int]]:
  """(path of a model's variables, its heads) of each model of a config that has heads."""
  if 'model' in config:
    default = registry.options('models', config['model']).get('heads')
    if isinstance(heads := config.get('heads', default), int):
      yield path, heads
  for key, value in config.items():
    if isinstance(value, Mapping):  # Linen joins the name of a dict of modules with theirs
      inner = {key: value} if 'model' in value else {f'{key}_{k}': v for k, v in value.items()}
      for name, model in inner.items():
        if isinstance(model, Mapping):
          yield from _towers(model, f'{path}/{name}'.lstrip('/'))


def _head_sizes(config, arrays) -> Iterator[tuple[str, int]]:
  """(path of an attention, the size of its heads); a model's heads are those of its innermost config."""
  towers = sorted(_towers(config), key=lambda tower: len(tower[0]), reverse=True)
  for name, x in arrays.items():
    if name.startswith('params/') and name.endswith('/query/kernel'):
      path = name.removeprefix('params/').removesuffix('/query/kernel')
      heads = (n for tower, n in towers if not tower or path.startswith(f'{tower}/'))
      if n := next(heads, None):
        yield path, x.shape[-1] // n


def _sliced(name, theirs, mine) -> list[int]:
  """The axes on which the student has less; raises KdjaxError where that is no width."""
  if len(theirs) != len(mine):
    raise KdjaxError(f'{name} is {list(theirs)} in the teacher and {list(mine)} in the student.')
  last, module = len(theirs) - 1, name.split('/')[-2]
  wide = {last, last - 1} if name.endswith('/kernel') else {last}
  if CLASSES.fullmatch(name):
    wide -= {last}
  if module in INPUTS and not _place(name.rpartition('/')[0]):
    wide -= {last - 1}
  if TABLE.fullmatch(name):
    wide |= {0}
  axes = [axis for axis in range(len(theirs)) if theirs[axis] != mine[axis]]
  for axis in axes:
    if axis not in wide or mine[axis] > theirs[axis]:
      raise KdjaxError(
        f'{name} is {list(theirs)} in the teacher and {list(mine)} in the student, and nothing can be cut '
        f'out of axis {axis}: give both the same size there.'
      )
  return axes


def _scope(name, axis, ndim) -> str:
  """Where channels are chosen together: 'first', '<attention>/heads', '<layer>/mlp', or '', everywhere."""
  path, module, leaf = f'/{name}'.rsplit('/', 2)
  path = path.strip('/').partition('/')[2]  # without the collection
  if TABLE.fullmatch(name) and not axis:
    return 'first'
  inputs = leaf == 'kernel' and axis == ndim - 2
  if (module in HEADS and not inputs) or (module == 'out' and inputs):
    return f'{path}/heads'.lstrip('/')
  if (module == 'mlp_in' and not inputs) or (module == 'mlp_out' and inputs):
    return f'{path}/mlp'.lstrip('/')
  return ''


def _kept(scope, n, m, places, width, sizes) -> np.ndarray:
  """The m of n channels that are kept, in order; `places` are the arrays and axes that share them."""
  size = 1
  if scope.endswith('/heads'):
    path = scope.removesuffix('/heads')
    if path not in sizes:
      raise KdjaxError(f'{path} has heads, and how many is not said: give the config of the teacher.')
    size = sizes[path]
    if m % size:
      raise KdjaxError(
        f'{path} has {m} channels in the student, and a head of the teacher {size}: keep whole heads.'
      )
  n, m = n // size, m // size
  if scope == 'first' or width == 'first':
    chosen = np.arange(m)
  elif width == 'uniform':
    chosen = np.arange(m) * n // m
  else:
    scores = sum((_score(x, axis) for x, axis in places), np.zeros(())).reshape(n, size).sum(1)
    chosen = np.sort(np.argsort(-scores, kind='stable')[:m])
  return (chosen[:, None] * size + np.arange(size)).ravel()


def _score(x, axis) -> np.ndarray:
  """Mean |x| of each channel, relative to that of all."""
  means = np.abs(x.astype(np.float64)).mean(tuple(i for i in range(x.ndim) if i != axis))
  return means / (means.mean() or 1)
