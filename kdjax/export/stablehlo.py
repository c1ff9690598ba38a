"""StableHLO by `jax.export`: an archive that JAX loads on any platform, without kdjax and Flax."""

from pathlib import Path

import jax
from jax import export

from kdjax.export import program as programs
from kdjax.export.program import Program
from kdjax.runtime import files
from kdjax.runtime.packages import needed

FILE = 'model.stablehlo'
RUNTIME = 'flatbuffers'
PIP = 'pip install flatbuffers'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def write(program: Program, path: Path) -> None:
  """Writes the program, for any number of examples.

  Read it with `jax.export.deserialize(bytes).call(inputs)`, a dict of arrays.

  Raises:
    KdjaxError: without the package flatbuffers.
  """
  needed('flatbuffers', 'StableHLO', PIP)
  weights = program.weights

  def forward(inputs):
    return program.apply(weights, inputs)

  shapes = programs.arguments(program.inputs, programs.any_rows())
  with files.swapped_in(path) as part:
    part.write_bytes(export.export(jax.jit(forward), platforms=PLATFORMS)(shapes).serialize())
