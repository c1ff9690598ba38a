"""The log of a training: metrics.jsonl, one record a line, which a tracker gets too."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from kdjax.runtime import files
from kdjax.runtime.progress import counted, say
from kdjax.training.tracking import NONE, Tracker


def read_log(path: Path) -> list[dict]:
  """The records of a metrics.jsonl, without damaged lines and a last line that is cut off."""
  if not path.exists():
    return []
  lines = path.read_text(encoding='utf-8', errors='replace').split('\n')
  records = [record for line in lines if (record := _record(line)) is not None]
  if damaged := sum(1 for line in lines[:-1] if line) - len(records):
    say(f'{path}: {counted(damaged, "damaged line")} left out')
  return records


def read_logs(folder: Path) -> list[dict]:
  """The records of a training; of seeds trained one by one, joined by step, with one value a seed."""
  if (folder / 'metrics.jsonl').exists():
    return read_log(folder / 'metrics.jsonl')
  each = [read_log(path) for path in sorted(folder.glob('seed_*/metrics.jsonl'), key=_number)]
  by_step = {}
  for record in (r for records in each for r in records):
    by_step.setdefault((record['step'], frozenset(record)), []).append(record)
  joined = []
  for (step, keys), records in by_step.items():
    if len(records) == len(each):
      values = {k: [r[k] for r in records] for k in keys - {'step'}}
      joined.append(
        {'step': step}
        | {k: np.concatenate(v).tolist() if np.ndim(v) > 1 else float(np.mean(v)) for k, v in values.items()}
      )
  return sorted(joined, key=lambda record: record['step'])


def _number(path):
  return int(path.parent.name.removeprefix('seed_'))


def _record(line: str) -> dict | None:
  """The record of a line, None where it is damaged; an earlier version wrote no checksum."""
  try:
    record = files.unsealed(files.parse(line))
  except ValueError:
    return None
  return None if files.misfit(record, {'step': int}) else record


def _line(record: Mapping) -> str:
  return json.dumps(files.sealed(record)) + '\n'


class Log:
  """Writes the records, after it has removed those past the restored step."""

  def __init__(self, folder: Path, step: int, tracker: Tracker = NONE):
    self.folder, self.tracker = folder, tracker
    self.path = folder / 'metrics.jsonl'
    if jax.process_index():
      self.path = None
      return
    records = [r for r in read_log(self.path) if r['step'] <= step]
    files.write(self.path, ''.join(map(_line, records)))

  def write(self, step: int, record: Mapping) -> None:
    """Appends a record; a list has one value a seed."""
    if self.path is None:
      return
    plain = {k: np.asarray(v).tolist() for k, v in record.items()}
    with self.path.open('a', encoding='utf-8') as file:
      file.write(_line({'step': step, **plain}))
    self.tracker.log(self.folder, step, plain)
