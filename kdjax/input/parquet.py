"""Rows of a .parquet file, as those of a table of text."""

from pathlib import Path

from kdjax.errors import KdjaxError
from kdjax.runtime.files import regular_file
from kdjax.runtime.progress import size

LARGEST = 8e9  # bytes of all columns, which are held in memory


def rows(path: Path) -> list[dict]:
  """The rows, each with its '#', its number from 1; cells are texts, numbers, lists, dicts and bytes.

  Raises:
    KdjaxError: if it cannot be read, or is too large for memory.
  """
  import pyarrow.parquet as pq  # comes with TFDS; a second to import

  try:
    file = pq.ParquetFile(regular_file(path, 'table'))
    total = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    if total > LARGEST:
      raise KdjaxError(
        f'{path} has {size(total)}, which are held in memory: split it, or make tars (webdataset) of it.'
      )
    names = file.schema_arrow.names
    if twice := [n for n in names if names.count(n) > 1]:
      raise KdjaxError(f'{path} has the column {twice[0]!r} twice.')
    return [row | {'#': i} for i, row in enumerate(file.read().to_pylist(), 1)]
  except KdjaxError:
    raise
  except Exception as e:  # Arrow raises all sorts
    reason = ' '.join(str(e).split())[:200] or type(e).__name__
    raise KdjaxError(f'cannot read the manifest {path} ({reason}).') from e
