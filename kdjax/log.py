"""What a training writes down: metrics.jsonl, a record a line, and TensorBoard's files if asked."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from kdjax import files
from kdjax.errors import KdjaxError
from kdjax.progress import say


def read_log(path: Path) -> list[dict]:
  """The records of a metrics.jsonl, without a last line that a crash cut off and without damaged ones."""
  if not path.exists():
    return []
  lines = path.read_text(encoding='utf-8', errors='replace').split('\n')
  records = [record for line in lines if (record := _record(line)) is not None]
  if damaged := sum(1 for line in lines[:-1] if line) - len(records):
    say(f'{path}: {damaged} damaged line{"s" * (damaged > 1)} left out')
  return records


def _record(line: str) -> dict | None:
  """A line's content, None where it is not what was written; an earlier version wrote no checksum."""
  try:
    record = files.unsealed(files.parse(line))
  except ValueError:
    return None
  return None if files.misfit(record, {'step': int}) else record


def _line(record: Mapping) -> str:
  return json.dumps(files.sealed(record)) + '\n'


class Log:
  """Writes the records; those past the restored step are cut off first."""

  def __init__(self, folder: Path, step: int, tensorboard: bool):
    self.path, self.board = folder / 'metrics.jsonl', None
    if jax.process_index():
      self.path = None
      return
    kept = [r for r in read_log(self.path) if r['step'] <= step]
    files.write(self.path, ''.join(map(_line, kept)))
    if tensorboard:
      try:
        from tensorboardX import SummaryWriter
      except ImportError as e:
        raise KdjaxError('tensorboard=True needs tensorboardX: pip install tensorboardX') from e
      self.board = SummaryWriter(str(folder / 'tensorboard'), purge_step=step + 1)

  def write(self, step: int, record: Mapping) -> None:
    """Appends a record; a list in it has one value a seed."""
    if self.path is None:
      return
    plain = {k: np.asarray(v).tolist() for k, v in record.items()}
    with self.path.open('a', encoding='utf-8') as file:
      file.write(_line({'step': step, **plain}))
    for key, value in plain.items() if self.board else ():
      for i, x in enumerate(np.atleast_1d(value)):
        self.board.add_scalar(key if np.ndim(value) == 0 else f'{key}/seed{i}', x, step)
