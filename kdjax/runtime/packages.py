"""Packages that are extras: of a format, a reader, a tracker."""

import importlib
import importlib.util
from types import ModuleType

from kdjax.errors import KdjaxError


def installed(package: str) -> bool:
  """Whether a package can be imported."""
  return importlib.util.find_spec(package) is not None


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
