"""One page of all tables: those run here, those run in part, and those that are only recipes."""

from pathlib import Path

from kdjax import report
from kdjax.errors import KdjaxError
from kdjax.paper_tables.results import results
from kdjax.paper_tables.table import is_table, load
from kdjax.recipes import TABLES
from kdjax.runtime import files, progress
from kdjax.runtime.program import program

SCHEMA = {'name': str, 'title': str, 'status': str, 'panels': {str: dict}, 'measures': {str: dict}}
STATUS = {'done': 'run here', 'not run': 'recipe only'}


def index(configs: Path, folder: Path) -> list[dict]:
  """Writes `README.md` and `index.html` into `folder`, and rewrites the tables whose NAME.json is there.

  Args:
    configs: the folder of the tables' files.
    folder: of the finished tables, laid out as a workdir.

  Returns:
    The results of every table, with its 'standing'.

  Raises:
    KdjaxError: if there are no tables.
  """
  tables = [load(str(path), 'paper') for path in sorted(configs.glob('*.py')) if is_table(path)]
  if not tables:
    raise KdjaxError(f'{configs} holds no table.')
  entries = []
  for table in tables:
    path = folder / f'{table.name}.json'
    if path.exists():
      entry = files.read_json(path, SCHEMA, f'run the table {table.name} again, which writes it')
      entry['name'] = table.name  # files are named after it
      report.write_table(entry, folder)
    else:
      command = f'{program()} table {TABLES}/{table.name}.py --scale=paper'
      entry = results(table, {}, command)
    standing = STATUS.get(entry['status'], f'partly: {entry["status"]}')
    entries.append(entry | {'standing': standing, 'written': path.exists()})
  report.write_index(entries, folder)
  progress.say(f'tables: {folder / "index.html"}')
  return entries
