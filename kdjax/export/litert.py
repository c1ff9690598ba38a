"""LiteRT, the format of phones (.tflite): converted from StableHLO without TensorFlow.

One example at a time: a symbolic batch costs up to 2.7 times the latency.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import save_file

from kdjax.errors import KdjaxError
from kdjax.export import program as programs
from kdjax.export import rewrite
from kdjax.export.program import Program
from kdjax.runtime import files
from kdjax.runtime.packages import needed

FILE = 'model.tflite'
RUNTIME = 'ai_edge_litert'
PIP = 'pip install --no-deps litert-converter ai-edge-litert flatbuffers backports.strenum'
TIMEOUT = 1800  # seconds


def _gelu(inputs: list[Any], params: Mapping[str, Any]) -> list[Any]:
  """LiteRT's own GELU, which int8 knows too."""
  exact = 'erf' in str(params['jaxpr'])

  def formula(x, approximate):
    return jax.nn.gelu(x, approximate=approximate == 'tanh')

  composite = jax.lax.composite(formula, 'aten.gelu.default')
  return [composite(inputs[0], approximate='none' if exact else 'tanh')]


def _embedding(inputs: list[Any], params: Mapping[str, Any]) -> list[Any] | None:
  """Rows of a table as LiteRT's embedding lookup, which keeps the table in int8."""
  table, indices = inputs
  numbers = params['dimension_numbers']
  rows = numbers.collapsed_slice_dims == (0,) == numbers.start_index_map
  if table.ndim != 2 or not rows or params['slice_sizes'] != (1, table.shape[1]):
    return None
  if params['mode'] != jax.lax.GatherScatterMode.PROMISE_IN_BOUNDS:
    indices = jax.numpy.clip(indices, 0, table.shape[0] - 1)

  def formula(ids, table):
    return jax.numpy.take(table, ids, axis=0, mode='clip')

  composite = jax.lax.composite(formula, 'odml.embedding_lookup')
  return [composite(indices[..., 0].astype('int32'), table)]


RULES = {'jit:gelu': _gelu, 'gather': _embedding}


def write(program: Program, path: Path) -> None:
  """Writes the program as a .tflite file, for one example at a time.

  The converter runs in a process of its own, since what it cannot convert may end it.

  Raises:
    KdjaxError: without the packages, or for an operation that LiteRT lacks.
  """
  needed('litert_converter', 'LiteRT', PIP)
  weights = program.weights

  def forward(inputs):
    return program.apply(weights, inputs)

  shapes = programs.arguments(program.inputs, 1)
  exported = export.export(jax.jit(rewrite.rewritten(forward, RULES)), platforms=['cpu'])(shapes)
  names = [[programs.name(k) for k in sorted(keys)] for keys in (program.inputs, program.outputs)]
  with files.swapped_in(path) as part, tempfile.TemporaryDirectory() as folder:
    source = Path(folder) / 'model.mlir'
    source.write_text(exported.mlir_module())
    _run('litert_convert', 'the converter', source, part, *map(','.join, names))


def quantise(source: Path, path: Path, scheme: str, calibration: Mapping[str, np.ndarray] | None) -> None:
  """Writes a .tflite file in fewer bits.

  Args:
    source: the file in float.
    path: of the new file.
    scheme: one of `formats.SCHEMES`.
    calibration: inputs [N, ...] of the program; 'static8' needs them.

  Raises:
    KdjaxError: without the package, or for a model that cannot be quantised so.
  """
  needed('ai_edge_quantizer', 'quantised LiteRT', f'{PIP} ai-edge-quantizer')
  with files.swapped_in(path) as part, tempfile.TemporaryDirectory() as folder:
    rows = Path(folder) / 'rows.safetensors'
    save_file({programs.name(k): np.ascontiguousarray(v) for k, v in (calibration or {}).items()}, rows)
    _run('litert_quantize', 'the quantiser', source, part, scheme, rows)


def _run(program: str, who: str, source: Path, target: Path, *more: str | Path) -> None:
  """Runs a program of this folder that makes a file of another, in a process that may crash."""
  script = Path(__file__).with_name(f'{program}.py')
  command = [sys.executable, '-P', script, source, target, *more]
  ended = subprocess.run(list(map(str, command)), capture_output=True, timeout=TIMEOUT)
  if ended.returncode or not target.exists():
    lines = ended.stderr.decode('utf-8', 'replace').strip().splitlines()
    why = next((line for line in reversed(lines) if 'rror' in line), f'it ended with {ended.returncode}')
    raise KdjaxError(f'LiteRT cannot take this model: {who} says {why.strip()[:400]!r}.')
