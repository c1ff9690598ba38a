"""The comparison report: a table for the terminal, a Markdown file and one HTML page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.errors import printable, printable_lines
from kdjax.files import write as write_whole
from kdjax.files import write_json
from kdjax.report import ranking, tables
from kdjax.report.page import html, index_html, ranking_html, table_html
from kdjax.report.table import markdown, table

__all__ = ['ranking', 'table', 'tables', 'write', 'write_index', 'write_ranking', 'write_table']


def _shown(value: Any) -> Any:
  """Results with every text fit to be shown: names in them may come from anybody."""
  if isinstance(value, Mapping):
    return {_shown(k): _shown(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_shown(v) for v in value]
  return printable(value) if isinstance(value, str) else value


def write_file(path: Path, text: str) -> None:
  """Writes a report, for whoever shows it in a terminal."""
  write_whole(path, printable_lines(text))


def write(
  results: Mapping,
  curves: Mapping[str, Sequence[Mapping]],
  examples: Sequence[Mapping],
  folder: str | os.PathLike,
) -> tuple[Path, Path]:
  """Writes `report.md` and `report.html` into `folder` and returns their paths.

  Args:
    results: the comparison, as `kdjax.report.table.rows` reads it.
    curves: the logged records of each stage; a stage may be missing or empty.
    examples: answered examples for the gallery: `truth` and an answer per stage, with
      `image` (uint8 [H, W, 1 or 3]) and `text` where there are any.
    folder: where to write; made if it is not there.
  """
  folder, results = Path(folder), _shown(results)
  paths = folder / 'report.md', folder / 'report.html'
  write_file(paths[0], markdown(results))
  write_file(paths[1], html(results, curves, examples))
  return paths


def write_ranking(ranked: Mapping, folder: str | os.PathLike) -> None:
  """Writes `ranking.json`, `ranking.md` and `ranking.html` of a cohort into `folder`."""
  folder = Path(folder)
  write_json(folder / 'ranking.json', ranked)
  ranked = _shown(ranked)
  write_file(folder / 'ranking.md', ranking.markdown(ranked))
  write_file(folder / 'ranking.html', ranking_html(ranked))


def write_table(found: Mapping, folder: str | os.PathLike) -> None:
  """Writes a paper's table as `NAME.json`, `.md`, `.html` and `.tex` into `folder`."""
  path = Path(folder) / found['name']
  write_json(path.with_suffix('.json'), found)
  found = _shown(found)
  write_file(path.with_suffix('.md'), tables.markdown(found))
  write_file(path.with_suffix('.html'), table_html(found))
  write_file(path.with_suffix('.tex'), tables.latex(found))


def write_index(found: Sequence[Mapping], folder: str | os.PathLike) -> None:
  """Writes `README.md` and `index.html` of several tables into `folder`."""
  found = _shown(found)
  write_file(Path(folder) / 'README.md', tables.index_markdown(found))
  write_file(Path(folder) / 'index.html', index_html(found))
