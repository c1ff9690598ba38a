"""The formats by name; each is a module with `FILE`, `write` and `load`."""

import importlib
from types import ModuleType

from kdjax.errors import unknown

MODULES = {'stablehlo': 'stablehlo', 'litert': 'litert', 'onnx': 'onnx', 'python': 'numpy_code'}


def module(name: str) -> ModuleType:
  """The module of a format.

  Raises:
    KdjaxError: for an unknown one.
  """
  if name not in MODULES:
    raise unknown('format', name, MODULES)
  return importlib.import_module(f'kdjax.export.{MODULES[name]}')
