"""The cost of exported models, measured by a process of its own: SPEC.json in, JSON out.

  python -P -m kdjax.export.bench SPEC.json

SPEC: {'folders': {name: folder}, 'workdir' of the float model or null, its 'stage', 'seed', 'trusted',
'inputs': a .safetensors of rows, 'threads': 0 for all, 'repeats', 'seconds'}. One folder and no float model
give the cold start and the peak memory too.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from kdjax.export import alone

BATCH = 64


def main(path: str) -> None:
  """Measures what the file says and prints the result."""
  spec = json.loads(Path(path).read_text(encoding='utf-8'))
  if spec['threads'] == 1 and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  rows = load_file(spec['inputs'])
  began, before = time.perf_counter(), peak()
  runs = {name: alone.Model(folder, spec['threads']).run for name, folder in spec['folders'].items()}
  results: dict[str, Any] = {name: {} for name in runs}
  if spec['workdir'] is None and len(runs) == 1:
    (name,) = runs
    runs[name]({k: v[:1] for k, v in rows.items()})
    results[name] |= {'cold_start_s': time.perf_counter() - began, 'peak_bytes': peak() - before}
  elif spec['workdir'] is not None:
    runs['jax'] = jitted(spec)
  for name, times in timed(runs, rows, spec['repeats'], spec['seconds']).items():
    results.setdefault(name, {}).update(times)
  print(json.dumps(results))


def jitted(spec: Mapping[str, Any]) -> Callable:
  """The model of kdjax itself."""
  import jax

  from kdjax.experiment import predict

  predictor = predict.load(Path(spec['workdir']), spec['stage'], spec['seed'], spec['trusted'])

  def run(rows):
    count = len(next(iter(rows.values())))
    rest = {k: np.zeros((count, *v.shape), v.dtype) for k, v in predictor.example.items() if k not in rows}
    return jax.device_get(
      predictor.forward({k: v for k, v in {**rows, **rest}.items() if '/present' not in k})
    )

  return run


def timed(runs: Mapping[str, Callable], rows: Mapping, repeats: int, seconds: float) -> dict[str, dict]:
  """name -> latency_ms of one example and throughput_per_s, medians of repeats taken in turns."""
  count = min(BATCH, len(next(iter(rows.values()))))
  one, many = ({k: v[:n] for k, v in rows.items()} for n in (1, count))
  times = {name: ([], []) for name in runs}
  began, order = time.perf_counter(), np.random.default_rng(0)
  for i in range(repeats + 2):
    if i > 4 and time.perf_counter() - began > seconds:
      break
    for name in order.permutation(list(runs)).tolist():
      run = runs[name]
      for which, inputs in enumerate((one, many)):
        run(inputs)  # what ran before may still have the cache, and threads that spin
        start = time.perf_counter()
        run(inputs)
        times[name][which].append(time.perf_counter() - start)
  return {
    name: {
      'latency_ms': 1e3 * statistics.median(single[2:]),
      'throughput_per_s': count / statistics.median(batches[2:]),
    }
    for name, (single, batches) in times.items()
  }


def peak() -> int:
  """The most memory of this process so far, bytes."""
  status = Path('/proc/self/status')
  if status.exists():  # `getrusage` begins with the memory of the process that started this one
    lines = status.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


if __name__ == '__main__':
  main(sys.argv[1])
