"""The formats by name; each is a module with `FILE`, `RUNTIME`, `PIP` and `write`.

Some have `quantise`, and `finish`, which writes what the folder needs beside the model.

A name is that of a format, or with a scheme after a '-' that of its quantised form, such as 'litert-int8'.
"""

import importlib
from types import ModuleType

from kdjax.errors import KdjaxError, unknown

MODULES = {'stablehlo': 'stablehlo', 'litert': 'litert', 'onnx': 'onnx', 'python': 'numpy_code', 'web': 'web'}
SCHEMES = {
  'int8': 'weights of 8 bits a channel, activations of 8 bits whose range is taken as they come',
  'int4': 'weights of 4 bits a channel',
  'static8': 'weights and activations of 8 bits, with ranges observed on training examples',
}


def split(name: str) -> tuple[str, str]:
  """(format, scheme or '') of a name.

  Raises:
    KdjaxError: for an unknown one.
  """
  form, _, scheme = name.partition('-')
  if form not in MODULES:
    raise unknown('format', form, (*MODULES, 'hf'))
  if scheme and scheme not in SCHEMES:
    raise unknown('scheme', scheme, SCHEMES)
  return form, scheme


def module(name: str) -> ModuleType:
  """The module of a format.

  Raises:
    KdjaxError: for an unknown format or scheme, or a format that has no quantised form.
  """
  form, scheme = split(name)
  imported = importlib.import_module(f'kdjax.export.{MODULES[form]}')
  if scheme and not hasattr(imported, 'quantise'):
    raise KdjaxError(f'{name}: {form} has no quantised form; onnx, litert and web have.')
  return imported
