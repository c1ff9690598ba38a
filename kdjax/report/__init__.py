"""The comparison report: a table for the terminal, a Markdown file and one HTML page."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax.errors import printable, printable_lines
from kdjax.report import exports, frontier, ranking, tables, words
from kdjax.report.page import data_html, frontier_html, html, index_html, ranking_html, table_html
from kdjax.report.table import markdown, markdown_table, rows, setting, table
from kdjax.runtime.files import swapped_in, write_json
from kdjax.runtime.files import write as write_whole

__all__ = ['exports', 'frontier', 'markdown_table', 'ranking', 'rows', 'setting', 'table', 'tables', 'words']
__all__ += ['write', 'write_data', 'write_frontier', 'write_index', 'write_ranking', 'write_table']


def _printable(value: Any) -> Any:
  """Results with every text safe to print: names in them may come from untrusted files."""
  if isinstance(value, Mapping):
    return {_printable(k): _printable(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_printable(v) for v in value]
  return printable(value) if isinstance(value, str) else value


def write_file(path: Path, text: str) -> None:
  """Writes a report without control characters, so that it can be shown in a terminal."""
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
    examples: for the gallery: `truth` and a prediction per stage, with `image` (uint8
      [H, W, 1 or 3]) and `text` where there are any.
    folder: where to write; created if missing.
  """
  folder, results = Path(folder), _printable(results)
  paths = folder / 'report.md', folder / 'report.html'
  write_file(paths[0], markdown(results))
  write_file(paths[1], html(results, curves, examples))
  return paths


def write_ranking(ranked: Mapping, folder: str | os.PathLike) -> None:
  """Writes `ranking.json`, `ranking.md` and `ranking.html` of a cohort into `folder`."""
  folder = Path(folder)
  write_json(folder / 'ranking.json', ranked)
  ranked = _printable(ranked)
  write_file(folder / 'ranking.md', ranking.markdown(ranked))
  write_file(folder / 'ranking.html', ranking_html(ranked))


def write_table(results: Mapping, folder: str | os.PathLike) -> None:
  """Writes a paper's table as `NAME.json`, `.md`, `.html` and `.tex` into `folder`."""
  path = Path(folder) / results['name']
  write_json(path.with_suffix('.json'), results)
  results = _printable(results)
  write_file(path.with_suffix('.md'), tables.markdown(results))
  write_file(path.with_suffix('.html'), table_html(results))
  write_file(path.with_suffix('.tex'), tables.latex(results))


def write_data(
  summary: Mapping, sections: Sequence[Mapping], examples: Sequence[Mapping], folder: str | os.PathLike
) -> Path:
  """Writes the summary of a data set as `data.html` into `folder`, and returns its path."""
  path = Path(folder) / 'data.html'
  write_file(path, data_html(_printable(summary), _printable(sections), examples))
  return path


def write_frontier(shipped: Mapping, folder: str | os.PathLike) -> None:
  """Writes the forms of a student as `ship.json`, `.md` and `.html` into `folder`, and two figures."""
  folder = Path(folder)
  write_json(folder / 'ship.json', shipped)
  shipped = _printable(shipped)
  lines = [f'# {shipped["name"]}: to ship', '', frontier.verdict(shipped), '', *shipped['notes'], '']
  write_file(folder / 'ship.md', '\n'.join([*lines, *markdown_table(frontier.rows(shipped)), '']))
  write_file(folder / 'ship.html', frontier_html(shipped))
  for name, (figure, _, _) in zip(('size', 'latency'), frontier.figures(shipped), strict=True):
    for axes in figure.axes:
      axes.grid(color='#dddddd')
    with swapped_in(folder / f'{name}.png') as part:
      figure.savefig(part, format='png', dpi=110, bbox_inches='tight', facecolor='white')


def write_index(all_results: Sequence[Mapping], folder: str | os.PathLike) -> None:
  """Writes `README.md` and `index.html` of several tables into `folder`."""
  all_results = _printable(all_results)
  write_file(Path(folder) / 'README.md', tables.index_markdown(all_results))
  write_file(Path(folder) / 'index.html', index_html(all_results))
