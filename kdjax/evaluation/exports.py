"""What was measured of the exports of a workdir, for its results and its report."""

from pathlib import Path
from typing import Any

from kdjax.runtime import files

FOLDER, FILE = 'exports', 'measured.json'
SCHEMA = {'metric': str, 'value': files.NUMBER, 'float_value': files.NUMBER, 'bytes': int, 'seed': int}


def recorded(workdir: Path) -> dict[str, dict[str, Any]]:
  """Name of an export -> its score, its difference from the float model, its cost (`export.measure`).

  Raises:
    KdjaxError: for a damaged file.
  """
  paths = sorted((workdir / FOLDER).glob(f'*/{FILE}'))
  return {p.parent.name: files.read_json(p, SCHEMA, 'export the model again') for p in paths}
