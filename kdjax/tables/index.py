"""One page of all tables: what was run here, what in part, and what is a recipe alone."""

from pathlib import Path

from kdjax import files, progress, report
from kdjax.errors import KdjaxError
from kdjax.tables.results import results
from kdjax.tables.table import is_table, load

SHOWN = {'name': str, 'title': str, 'status': str, 'panels': {str: dict}, 'measures': {str: dict}}
STATUS = {'done': 'run here', 'not run': 'recipe only'}


def index(configs: Path, folder: Path) -> list[dict]:
  """Writes `README.md` and `index.html` into `folder`, and anew the tables whose NAME.json lies there.

  Args:
    configs: the folder of the tables' files.
    folder: of the finished tables, as a workdir has them.

  Returns:
    What is known of every table, with its 'standing'.

  Raises:
    KdjaxError: if there are no tables.
  """
  made = [load(str(path), 'paper') for path in sorted(configs.glob('*.py')) if is_table(path)]
  if not made:
    raise KdjaxError(f'{configs} holds no table.')
  found = []
  for table in made:
    kept = folder / f'{table.name}.json'
    if kept.exists():
      one = files.read_json(kept, SHOWN, f'run the table {table.name} again, which writes it')
      one['name'] = table.name  # files are named after it
      report.write_table(one, folder)
    else:
      call = f'python run.py table {configs}/{table.name}.py --scale=paper'
      one = results(table, {}, call)
    standing = STATUS.get(one['status'], f'partly: {one["status"]}')
    found.append(one | {'standing': standing, 'kept': kept.exists()})
  report.write_index(found, folder)
  progress.say(f'tables: {folder / "index.html"}')
  return found
