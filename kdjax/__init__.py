"""kdjax: distil large multimodal teachers into small students, in JAX and Flax.

`kdjax.distill` runs a whole experiment, `kdjax.load` takes a published teacher or a saved student,
`kdjax.methods.kd(...)` is a loss for a training loop of your own, and so is what `kdjax.losses` holds.
"""

import importlib

__version__ = '0.1.0'

# Name -> module; imported when it is asked for, since most programs need a part.
_PUBLIC = {'distill': 'kdjax.api.distill', 'load': 'kdjax.api.models', 'host': 'kdjax.api.models'}
_PUBLIC |= {'weights': 'kdjax.api.models', 'Result': 'kdjax.api.result', 'KdjaxError': 'kdjax.errors'}
_MODULES = {'losses': 'kdjax.nn.losses', 'methods': 'kdjax.methods'}

__all__ = [*_PUBLIC, *_MODULES]


def __getattr__(name: str):
  if name in _MODULES:
    return importlib.import_module(_MODULES[name])
  if name in _PUBLIC:
    return getattr(importlib.import_module(_PUBLIC[name]), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted({*globals(), *__all__})
