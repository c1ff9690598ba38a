"""Tables of papers: planned, run, resumed, and compared with the published numbers.

A table is a file of `configs/tables/` with `get_table(scale) -> Table`: the experiments, as configs, and
those behind each cell. `plan` estimates the cost, `run` trains, `kdjax.report.tables` writes the result.
"""

from kdjax.paper_tables.measures import MEASURES, Measure
from kdjax.paper_tables.table import Cell, Table

__all__ = ['MEASURES', 'Cell', 'Measure', 'Table']
