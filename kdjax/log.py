"""What a training writes down: metrics.jsonl, a record a line, and TensorBoard's files if asked."""

import json
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from kdjax.checkpoint import write
from kdjax.errors import KdjaxError


def read_log(path: Path) -> list[dict]:
  """The records of a metrics.jsonl; a line that a crash cut off is left out."""
  records = []
  if path.exists():
    for line in path.read_text(encoding='utf-8').splitlines():
      try:
        records.append(json.loads(line))
      except json.JSONDecodeError:
        continue
  return records


class Log:
  """Writes the records; those past the restored step are cut off first."""

  def __init__(self, folder: Path, step: int, tensorboard: bool):
    self.path, self.board = folder / 'metrics.jsonl', None
    if jax.process_index():
      self.path = None
      return
    kept = [r for r in read_log(self.path) if r['step'] <= step]
    write(self.path, ''.join(json.dumps(r) + '\n' for r in kept))
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
      file.write(json.dumps({'step': step, **plain}) + '\n')
    for key, value in plain.items() if self.board else ():
      for i, x in enumerate(np.atleast_1d(value)):
        self.board.add_scalar(key if np.ndim(value) == 0 else f'{key}/seed{i}', x, step)
