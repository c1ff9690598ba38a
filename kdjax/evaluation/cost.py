"""The cost of a model: parameters, bytes, FLOPs, latency, throughput."""

import time
from collections.abc import Collection, Mapping

import jax
import numpy as np

from kdjax.nn import conv
from kdjax.types import Model


def count(variables: Mapping) -> dict[str, int | None]:
  """'params', the number of parameters, and 'bytes', of all variables."""
  leaves = jax.tree.leaves(variables)
  if len(leaves) == 1 and 'none' in variables.get('frozen', {}):  # a function, whose weights are not known
    return {'params': None, 'bytes': None}
  return {
    'params': int(sum(x.size for k in ('params', 'frozen') for x in jax.tree.leaves(variables.get(k)))),
    'bytes': int(sum(x.size * x.dtype.itemsize for x in leaves)),
  }


def measure(
  models: Mapping[str, tuple[Model, Mapping]],
  batch: Mapping,
  taps: Collection[str] = ('logits',),
  repeats: int = 30,
  seconds: float = 30,
) -> dict[str, dict]:
  """The cost of inference of each model, measured in turns so that all have the same noise.

  Args:
    models: name -> (model, variables).
    batch: the throughput is measured on all of it, the latency on its first row.
    taps: the outputs to compute.
    repeats: of each call, for medians.
    seconds: the time limit, after five repeats.

  Returns:
    name -> params, bytes, flops_per_example, latency_ms (batch 1), throughput_per_s.
  """
  one, many = ({k: jax.device_put(v[:n]) for k, v in batch.items()} for n in (1, None))
  calls, results = {}, {}
  for name, (model, variables) in models.items():

    def forward(v, b, m=model):
      return {t: m.apply(v, b, train=False)[0][t] for t in taps}

    single, full = (jax.jit(forward).lower(variables, b).compile() for b in (one, many))
    variables = jax.device_put(variables)
    calls[name] = (single, variables, one), (full, variables, many)
    results[name] = count(variables) | {'flops_per_example': flops(forward, variables, one)}
  times = {(name, i): [] for name in calls for i in (0, 1)}
  start = time.perf_counter()
  for n in range(repeats + 2):
    if n > 6 and time.perf_counter() - start > seconds:
      break
    for name, pair in calls.items():
      for i, (run, variables, inputs) in enumerate(pair):
        began = time.perf_counter()
        jax.block_until_ready(run(variables, inputs))
        times[name, i].append(time.perf_counter() - began)
  rows = len(next(iter(batch.values())))
  for name in calls:
    single, full = (float(np.median(times[name, i][2:])) for i in (0, 1))
    results[name] |= {'latency_ms': 1e3 * single, 'throughput_per_s': rows / full}
  return results


def flops(f, *args) -> float | None:
  """The floating-point operations of f, with XLA's own convolutions; None if unknown."""
  with conv.plain(True):
    analysis = jax.jit(f).lower(*args).cost_analysis() or {}
  return float(analysis['flops']) if analysis.get('flops', -1) > 0 else None
