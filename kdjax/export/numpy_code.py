"""Programs as folders with a Python file that needs NumPy alone, and the weights beside it."""

import inspect
import re
from pathlib import Path

import numpy as np

from kdjax.export import numpy_functions
from kdjax.export.equations import equations
from kdjax.export.graph import Graph
from kdjax.export.numpy_lines import line, operand
from kdjax.export.program import Program, any_rows
from kdjax.runtime import files

FILE = '.'  # the folder itself
RUNTIME = 'numpy'
PIP = 'pip install numpy'
CODE, WEIGHTS = 'model.py', 'weights.npz'
FUNCTIONS = dict(inspect.getmembers(numpy_functions, inspect.isfunction))
TEXT = '''"""{about}

Written by kdjax. It needs NumPy alone. The inputs are arrays of any number B of examples:
{inputs}
The outputs are:
{outputs}

  weights = dict(np.load('{file}'))
  outputs = apply(weights, {{{example}}})
"""

import numpy as np

{functions}
def apply(weights, inputs):
  """The outputs, name -> array, from the weights and the inputs, name -> array."""
{lines}
  return {{
{results}
  }}
'''


def write(program: Program, folder: Path, about: str = 'The forward pass of a model.') -> None:
  """Writes a model as a folder with model.py and weights.npz.

  Args:
    program: the model.
    folder: it is made where it is missing.
    about: what the model is, a sentence for the docstring of model.py.

  Raises:
    KdjaxError: if the model has a primitive that is not translated.
  """
  graph = equations(program, any_rows(), 'python')
  arrays = {n: np.asarray(program.weights[n]) for n in sorted(graph.weights)}
  arrays |= {n: a for n, a in graph.constants.items() if a.ndim}
  for key, array in arrays.items():
    if not array.dtype.isbuiltin:
      raise graph.unsupported(key, f'is {array.dtype}')
  with files.swapped_in(folder / WEIGHTS) as part, part.open('wb') as file:
    np.savez(file, allow_pickle=False, **arrays)
  files.write(folder / CODE, _code(program, graph, about))


def _code(program: Program, graph: Graph, about: str) -> str:
  """The text of model.py."""
  lines = [f'{step.output} = {line(graph, step)}' for step in graph.steps.values()]
  if any('broadcast_to' in text for text in lines):
    lines.insert(0, f'b = len(inputs[{next(iter(program.inputs))!r}])')
  results = [f'{tap!r}: {operand(graph, value)},' for tap, value in graph.outputs.items()]
  specs = [
    [f'- {key}: {dtype} [{", ".join(["B", *map(str, shape)])}]' for key, (shape, dtype) in specs.items()]
    for specs in (program.inputs, program.outputs)
  ]
  return TEXT.format(
    about=about.replace('\\', '/').replace('"', "'"),
    file=WEIGHTS,
    inputs='\n'.join(specs[0]),
    outputs='\n'.join(specs[1]),
    example=', '.join(f'{key!r}: ...' for key in program.inputs),
    functions=_functions('\n'.join(lines)),
    lines='\n'.join(f'  {text}' for text in lines),
    results='\n'.join(f'    {text}' for text in results),
  )


def _functions(text: str) -> str:
  """The sources of the functions that are called in a text, and of those that these call."""
  called: dict[str, str] = {}
  while True:
    words = set(re.findall(r'\b(\w+)\(', '\n'.join([text, *called.values()])))
    more = [n for n in FUNCTIONS if n in words and n not in called]
    if not more:
      return ''.join(f'\n{called[n]}\n' for n in FUNCTIONS if n in called)
    called |= {n: inspect.getsource(FUNCTIONS[n]) for n in more}
