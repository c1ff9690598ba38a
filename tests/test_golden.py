"""Losses and gradients against vectors that the reference implementations computed in float64.

`golden_cases/*.py` say which of kdjax's functions makes which array. `KDJAX_GOLDEN` names another
folder of vectors with the same files and keys. A vector without cases fails, and so does a loss,
a gradient or a reference array that no case accounts for.
"""

import importlib
import os
import pkgutil
from pathlib import Path

import jax
import numpy as np
import pytest

import golden_cases

FOLDER = Path(os.environ.get('KDJAX_GOLDEN') or Path(__file__).parent / 'golden')
CASES = {}
for found in pkgutil.iter_modules(golden_cases.__path__):
  CASES |= importlib.import_module(f'golden_cases.{found.name}').CASES


def close(got, wanted, tolerance, what, scale=None):
  """Within `tolerance` of the largest entry: small ones are differences of large ones."""
  got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
  scale = np.abs(wanted).max(initial=0) if scale is None else scale
  assert got.size == wanted.size, f'{what}: shape {got.shape}, reference {wanted.shape}'
  np.testing.assert_allclose(
    got.reshape(wanted.shape), wanted, rtol=tolerance, atol=tolerance * scale, err_msg=what
  )


def outputs_and_grads(cases, arrays):
  """(outputs, gradients) of each case, compiled as one program: that is most of the time of a vector."""

  def one(case, wrt):
    if not case.grads:
      return case.outputs(wrt), {}

    def loss(wrt):
      outputs = case.outputs(arrays | wrt)
      return outputs[case.loss].reshape(()), outputs

    return jax.grad(loss, has_aux=True)(wrt)[::-1]

  wrt = [{source: arrays[source] for source in case.grads.values()} or arrays for case in cases]
  return jax.jit(lambda wrt: [one(*pair) for pair in zip(cases, wrt, strict=True)])(wrt)


@pytest.mark.parametrize('dtype', ['float64', pytest.param('float32', marks=pytest.mark.whole)])
@pytest.mark.parametrize('name', sorted(path.stem for path in FOLDER.glob('*.npz')))
def test_golden(name, dtype):
  assert name in CASES, f'no case in tests/golden_cases makes the vector {name}'
  with np.load(FOLDER / f'{name}.npz', allow_pickle=False) as file:
    stored = dict(file)
  with jax.enable_x64(dtype == 'float64'):
    arrays = {k: v.astype(dtype) if v.dtype.kind == 'f' else v for k, v in stored.items()}
    claimed = set()
    for case, (outputs, grads) in zip(CASES[name], outputs_and_grads(CASES[name], arrays), strict=True):
      tolerance = {'float64': 1e-9, 'float32': case.float32}[dtype]
      for key, value in outputs.items():
        close(value, stored[key], tolerance, f'{name}: {key}')
      # A bias before a norm has a gradient of zero: the scale is that of all gradients.
      scale = max((np.abs(stored[key]).max() for key in case.grads), default=0)
      for key, source in case.grads.items():
        close(grads[source], stored[key], tolerance, f'{name}: {key}', scale)
      claimed |= outputs.keys() | case.grads.keys()
    wanted = {k for k in stored if k.startswith(('loss', 'grad'))}
    assert not wanted - claimed, f'{name}: no case accounts for {sorted(wanted - claimed)}'
