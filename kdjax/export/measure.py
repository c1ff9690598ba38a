"""What an exported model is worth: its score on the test split in its own runtime, its size, its speed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from kdjax.errors import KdjaxError
from kdjax.evaluation import exports
from kdjax.export import answers
from kdjax.export import folder as folders
from kdjax.runtime import files, progress
from kdjax.training.evaluate import Evaluation, over_batches
from kdjax.types import Task

ROWS, REPEATS, SECONDS = 64, 30, 20
BATCH = 64


def evaluate(exported: folders.Exported, task: Task, source: Any, title: str) -> Evaluation:
  """The evaluation of an exported model on a split, as `training.evaluate` has it, of one seed."""
  inputs = exported.about['inputs']

  def forward(batch):
    outputs = exported.run(answers.arrays(inputs, batch))
    metrics = jax.device_get(task.metrics(outputs, batch))
    gathered = {k: outputs[k][None] for k in task.gather if k in outputs}
    shared = {k: batch[k] for k in ('mask', *task.gather) if k in batch}
    return {k: (s[None], n[None]) for k, (s, n) in metrics.items()}, gathered, shared

  return over_batches(forward, task, source, BATCH, title)


def against(task: Task, float_model: Evaluation, exported: Evaluation) -> dict[str, Any]:
  """The metrics of an exported model, and how far its outputs are from those of the float model."""
  (one,), (other,) = float_model.gathered, exported.gathered
  taps = [k for k in one if one[k].dtype.kind == 'f' and k in other and k != 'label']
  compared = task.compare(one, other)
  return {
    'metrics': {k: float(v[0]) for k, v in exported.metrics.items()},
    'float_metrics': {k: float(v[0]) for k, v in float_model.metrics.items()},
    'difference': max((float(np.abs(one[k] - other[k]).max()) for k in taps), default=0.0),
    **{k: v for k, v in compared.items() if k == 'agreement'},
  }


def costs(
  folders_of: Mapping[str, Path],
  source: Any,
  workdir: Path,
  stage: str,
  seed: int,
  trusted: tuple[str, ...] = (),
) -> dict[str, dict[str, Any]]:
  """The cost of exports, and under 'jax' that of the model of kdjax.

  name -> latency_ms of one example and throughput_per_s, on all cores and with '_one_thread'; of an export
  bytes on disk, cold_start_s from the import of its runtime to the first answer, and the peak_bytes of memory
  that these take.

  Latencies are medians of repeats that take turns. On one thread the process is bound to one core.
  """
  about = {name: folders.describe(path) for name, path in folders_of.items()}
  example = source.take(np.arange(min(ROWS, len(source))))
  results = {name: {'bytes': folders.size(folders_of[name], about[name])} for name in folders_of}
  with tempfile.TemporaryDirectory() as temporary:
    inputs = Path(temporary) / 'rows.safetensors'
    rows = {k: v for one in about.values() for k, v in answers.arrays(one['inputs'], example).items()}
    save_file({k: np.ascontiguousarray(v) for k, v in rows.items()}, inputs)
    spec = {'inputs': str(inputs), 'repeats': REPEATS, 'seconds': SECONDS, 'seed': seed, 'stage': stage}
    spec |= {'trusted': list(trusted)}
    names = {name: str(path) for name, path in folders_of.items()}
    with progress.bar('measuring the cost', len(names) + 2, 'run') as shown:
      for i, (name, path) in enumerate(names.items()):
        alone = _bench(spec | {'folders': {name: path}, 'workdir': None, 'threads': 1, 'repeats': 3}, inputs)
        results[name] |= {k: alone[name][k] for k in ('cold_start_s', 'peak_bytes')}
        shown.update(i + 1)
      for i, threads in enumerate((1, 0)):
        together = _bench(spec | {'folders': names, 'workdir': str(workdir), 'threads': threads}, inputs)
        for name, times in together.items():
          suffix = '_one_thread' if threads else ''
          results.setdefault(name, {}).update({f'{k}{suffix}': v for k, v in times.items()})
        shown.update(len(names) + i + 1)
  return results


def _bench(spec: Mapping[str, Any], inputs: Path) -> dict[str, Any]:
  path = inputs.with_name('spec.json')
  path.write_text(json.dumps(spec))
  root = str(Path(__file__).resolve().parents[2])
  environment = os.environ | {'PYTHONPATH': os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])}
  command = [sys.executable, '-m', 'kdjax.export.bench', str(path)]
  ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=inputs.parent)
  if ended.returncode:
    why = ended.stderr.strip().splitlines() or [f'exit status {ended.returncode}']
    raise KdjaxError(f'the cost cannot be measured: {why[-1]}')
  return json.loads(ended.stdout.strip().splitlines()[-1])


def record(folder: Path, measured: Mapping[str, Any]) -> None:
  """Writes what was measured of an export beside it."""
  files.write_json(folder / exports.FILE, measured)
