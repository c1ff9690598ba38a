"""Steps that work on each element, as nodes of ONNX; whole numbers wrap around as JAX's do."""

from collections.abc import Callable

import numpy as np

from kdjax.export.graph import Step
from kdjax.export.onnx_file import File

MASK = 2**32 - 1
HALF = 2**16
SIMPLE = {
  'abs': 'Abs',
  'acos': 'Acos',
  'acosh': 'Acosh',
  'add': 'Add',
  'asin': 'Asin',
  'asinh': 'Asinh',
  'atan': 'Atan',
  'atanh': 'Atanh',
  'ceil': 'Ceil',
  'cos': 'Cos',
  'cosh': 'Cosh',
  'div': 'Div',
  'eq': 'Equal',
  'erf': 'Erf',
  'exp': 'Exp',
  'floor': 'Floor',
  'ge': 'GreaterOrEqual',
  'gt': 'Greater',
  'le': 'LessOrEqual',
  'log': 'Log',
  'logistic': 'Sigmoid',
  'lt': 'Less',
  'max': 'Max',
  'min': 'Min',
  'mul': 'Mul',
  'neg': 'Neg',
  'pow': 'Pow',
  'round': 'Round',
  'sign': 'Sign',
  'sin': 'Sin',
  'sinh': 'Sinh',
  'sqrt': 'Sqrt',
  'sub': 'Sub',
  'tan': 'Tan',
  'tanh': 'Tanh',
}
BITS = {'and': 'And', 'or': 'Or', 'xor': 'Xor', 'not': 'Not'}
COMPARED = ('eq', 'ne', 'lt', 'le', 'gt', 'ge')


def elementwise(file: File, step: Step, tensors: list[str]) -> str | None:
  """The tensor of a step whose operands are `tensors`, in one order; None for an unknown primitive."""
  primitive, dtype = step.primitive, file.graph.dtype(step.inputs[-1])
  if primitive == 'convert':
    return _convert(file, tensors[0], dtype, step.output)
  if primitive == 'where':
    return _where(file, tensors, dtype)
  if primitive in BITS:
    return _bits(file, primitive, tensors, dtype)
  if dtype not in ('float32', 'int32', 'uint32', 'bool'):
    raise file.graph.unsupported(primitive, f'works in {dtype}')
  if dtype == 'uint32' and primitive not in COMPARED:
    return _unsigned(file, step, tensors)
  if primitive in ('max', 'min', 'clamp'):
    return _limited(file, step, tensors, dtype)
  if primitive == 'rem':
    return file.node('Mod', tensors, fmod=1)
  if primitive in COMPOSED:
    return COMPOSED[primitive](file, dtype, *tensors)
  if primitive == 'gelu':
    return file.node('Gelu', tensors, approximate='tanh' if step.params['approximate'] else 'none')
  return file.node(SIMPLE[primitive], tensors) if primitive in SIMPLE else None


def _bits(file, primitive, tensors, dtype):
  if dtype == 'bool':
    return file.node(BITS[primitive], tensors)
  if primitive == 'not' and dtype == 'uint32':
    return file.node('BitwiseXor', [*tensors, file.array(MASK, np.int64)])
  return file.node(f'Bitwise{BITS[primitive]}', tensors)


def cast(file: File, tensor: str, to: str) -> str:
  """The tensor in an ONNX type."""
  return file.node('Cast', [tensor], to=to)


def wrapped(file: File, tensor: str) -> str:
  """The lowest 32 bits, as a uint32 is held."""
  return file.node('BitwiseAnd', [tensor, file.array(MASK, np.int64)])


def _convert(file, tensor, dtype, output):
  result = cast(file, tensor, file.held(output))
  return (
    wrapped(file, result)
    if file.graph.dtype(output) == 'uint32' and dtype not in ('bool', 'uint8')
    else result
  )


def _where(file, tensors, dtype):
  which, yes, no = tensors
  if dtype != 'bool':
    return file.node('Where', [which, yes, no])
  first = file.node('And', [which, yes])
  return file.node('Or', [first, file.node('And', [file.node('Not', [which]), no])])


def _limited(file, step, tensors, dtype):
  """max, min, clamp: Relu or Clip where the limits are numbers, which runtimes join to the layer before."""
  numbers = [file.graph.scalar(n) for n in step.inputs]
  if step.primitive == 'clamp' and None not in (numbers[0], numbers[2]):
    return file.node('Clip', [tensors[1], file.array(numbers[0], dtype), file.array(numbers[2], dtype)])
  if step.primitive == 'clamp':
    return file.node('Min', [file.node('Max', tensors[:2]), tensors[2]])
  known = [i for i, n in enumerate(numbers) if n is not None]
  if not known or len(tensors) != 2:
    return file.node(SIMPLE[step.primitive], tensors)
  limit, tensor = numbers[known[0]], tensors[1 - known[0]]
  if limit == 0 and step.primitive == 'max' and dtype == 'float32':
    return file.node('Relu', [tensor])
  limits = [file.array(limit, dtype)] if step.primitive == 'max' else ['', file.array(limit, dtype)]
  return file.node('Clip', [tensor, *limits])


def _unsigned(file, step, tensors):
  """Arithmetic of uint32, held in int64, exact: no product has more than 49 bits."""
  primitive, number = step.primitive, file.graph.scalar(step.inputs[-1])
  if primitive == 'mul':
    half = file.array(HALF, np.int64)
    high, low = file.node('Div', [tensors[1], half]), file.node('Mod', [tensors[1], half])
    upper = file.node('Mod', [file.node('Mul', [tensors[0], high]), half])
    lower = file.node('Mul', [tensors[0], low])
    return wrapped(file, file.node('Add', [lower, file.node('Mul', [upper, half])]))
  if primitive in ('add', 'sub', 'neg'):
    return wrapped(file, file.node(SIMPLE[primitive], tensors))
  if primitive == 'rem':
    return file.node('Mod', tensors)
  if primitive in ('max', 'min', 'div'):
    return file.node(SIMPLE[primitive], tensors)
  if primitive in ('shift_right_logical', 'shift_left') and number is not None and number < 32:
    power = file.array(2**number, np.int64)
    if primitive == 'shift_right_logical':
      return file.node('Div', [tensors[0], power])
    kept = file.node('BitwiseAnd', [tensors[0], file.array(2 ** (32 - number) - 1, np.int64)])
    return file.node('Mul', [kept, power])
  raise file.graph.unsupported(primitive, 'works in uint32')


def _one(file, dtype):
  return file.array(1, dtype)


COMPOSED: dict[str, Callable] = {
  'cbrt': lambda file, dtype, x: file.node(
    'Mul', [file.node('Sign', [x]), file.node('Pow', [file.node('Abs', [x]), file.array(1 / 3, dtype)])]
  ),
  'erfc': lambda file, dtype, x: file.node('Sub', [_one(file, dtype), file.node('Erf', [x])]),
  'exp2': lambda file, dtype, x: file.node('Pow', [file.array(2, dtype), x]),
  'expm1': lambda file, dtype, x: file.node('Sub', [file.node('Exp', [x]), _one(file, dtype)]),
  'is_finite': lambda file, dtype, x: file.node(
    'Not', [file.node('Or', [file.node('IsInf', [x]), file.node('IsNaN', [x])])]
  ),
  'log1p': lambda file, dtype, x: file.node('Log', [file.node('Add', [x, _one(file, dtype)])]),
  'ne': lambda file, dtype, x, y: file.node('Not', [file.node('Equal', [x, y])]),
  'rsqrt': lambda file, dtype, x: file.node('Reciprocal', [file.node('Sqrt', [x])]),
  'square': lambda file, dtype, x: file.node('Mul', [x, x]),
}
