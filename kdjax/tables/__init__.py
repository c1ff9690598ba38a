"""Tables of papers: planned, run, resumed, and laid beside the published numbers.

A table is a file of `configs/tables/` with `get_table(scale) -> Table`: the experiments, as configs, and for
each cell whose score it shows. `plan` is what that takes, `run` does it, `kdjax.report.tables` writes it.
"""

from kdjax.tables.measures import MEASURES, Measure
from kdjax.tables.table import Cell, Table

__all__ = ['MEASURES', 'Cell', 'Measure', 'Table']
