"""The packages of a format, which are extras."""

import importlib
from types import ModuleType

from kdjax.errors import KdjaxError


def needed(package: str, what: str, pip: str) -> ModuleType:
  """Imports a package.

  Args:
    package: the name to import.
    what: it is needed for.
    pip: the command that installs it.

  Raises:
    KdjaxError: if it is not installed.
  """
  try:
    return importlib.import_module(package)
  except ImportError as e:
    raise KdjaxError(f'{what} needs the package {package} ({e}): {pip}') from e
