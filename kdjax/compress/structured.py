"""Whole units taken out for real: a smaller model and its weights, which need no mask and no sparse kernel.

Filters and units by the norm of their weights (Li et al., 1608.08710, rank by those that come in; here those
that leave count as well). What is left is trained on as any student.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kdjax.compress.tree import flat as by_path
from kdjax.compress.tree import nested
from kdjax.errors import KdjaxError, unknown
from kdjax.options import SomeShare, check
from kdjax.pretrained.inherit import inherit

CHAINS = (
  'mlp',
  'lenet5',
)  # models whose layers follow each other, with nothing between them that has channels


def slimmed(
  config: Mapping[str, Any], variables: Mapping, density: Mapping[str, float] | float
) -> tuple[dict, dict]:
  """(config, variables) of the model with fewer units: hidden units of an `mlp`, also channels of a `lenet5`.

  The units with the largest product of the norms of the weights (and the bias) that come in and those that
  leave are kept, at least one a layer, in their order. Where all are kept, or those left out had no weight
  that leaves, the outputs are the same.

  Args:
    config: of the model, with its defaults left out or not.
    variables: its variables.
    density: the share of units that is kept; one a layer, such as 'hidden1', where layers differ.

  Raises:
    KdjaxError: for another model, a layer that it has not, or a share outside (0, 1].
  """
  name = config.get('model')
  if name not in CHAINS:
    raise unknown(
      'model to take units out of by slimmed; cut takes any that kdjax can inherit', str(name), CHAINS
    )
  flat = {'/'.join(k): np.asarray(v) for k, v in by_path(variables['params']).items()}
  first = (
    ['conv1', 'conv2', 'hidden']
    if name == 'lenet5'
    else [f'hidden{i + 1}' for i in range(len(flat) // 2 - 1)]
  )
  of = dict(density) if isinstance(density, Mapping) else dict.fromkeys(first, density)
  for layer, share in of.items():
    if layer not in first:
      raise unknown('layer to take units out of', layer, first)
    check(share, SomeShare, f'the share of units kept of {layer}')
  if 'head/linear/kernel' not in flat:
    raise KdjaxError('slimmed takes units out of classifiers, and this model has no head: set num_classes.')
  layers = [*first, 'head/linear']
  for layer, after in zip(layers, layers[1:], strict=False):
    units = flat[f'{layer}/bias'].size
    kept = _kept(flat, layer, after, max(1, round(of.get(layer, 1.0) * units)))
    for key in (f'{layer}/kernel', f'{layer}/bias'):
      flat[key] = flat[key].take(kept, -1)
    kernel = flat[f'{after}/kernel']
    if kernel.ndim == 4:
      flat[f'{after}/kernel'] = kernel.take(kept, 2)
    else:  # of a flattened map the channels lie next to each other
      grouped = kernel.reshape(-1, units, kernel.shape[-1]).take(kept, 1)
      flat[f'{after}/kernel'] = grouped.reshape(-1, kernel.shape[-1])
  sizes = [flat[f'{layer}/bias'].size for layer in first]
  smaller = (
    {'channels': tuple(sizes[:2]), 'hidden': sizes[2]} if name == 'lenet5' else {'hidden': tuple(sizes)}
  )
  return {**config, **smaller}, {
    **variables,
    'params': nested({tuple(k.split('/')): v for k, v in flat.items()}),
  }


def _kept(flat: Mapping[str, np.ndarray], layer: str, after: str, n: int) -> np.ndarray:
  bias, kernel = flat[f'{layer}/bias'].astype(np.float64), flat[f'{layer}/kernel'].astype(np.float64)
  out = flat[f'{after}/kernel'].astype(np.float64)
  coming = np.sqrt(np.sum(kernel.reshape(-1, bias.size) ** 2, 0) + bias**2)
  spatial = math.prod(out.shape[:2]) if out.ndim == 4 else out.shape[0] // bias.size
  leaving = np.sqrt(np.sum(out.reshape(spatial, bias.size, -1) ** 2, (0, 2)))
  return np.sort(np.argsort(-coming * leaving, kind='stable')[:n])


def cut(config: Mapping[str, Any], variables: Mapping, smaller: Mapping[str, Any], like: Mapping) -> dict:
  """The variables of a smaller model of the same kind: heads, layers, MLPs and widths of the largest weights.

  `kdjax.pretrained.inherit` by magnitude; for transformers and residual networks. Fewer units of the MLP
  blocks are `{**config, 'mlp': n}`, fewer layers `depth`, fewer heads a `width` and `heads` of one quotient.

  Args:
    config: of the model.
    variables: its variables.
    smaller: the config of the smaller one.
    like: the smaller one's variables, or their shapes.

  Raises:
    KdjaxError: as `inherit` does.
  """
  return inherit(variables, like, width='magnitude', teacher=config, student=smaller)
