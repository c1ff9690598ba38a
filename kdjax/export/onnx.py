"""Programs as ONNX files, written by kdjax's own translation of the primitives, and run by onnxruntime."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.export import onnx_quantize
from kdjax.export.equations import equations
from kdjax.export.onnx_elementwise import cast
from kdjax.export.onnx_file import File, Stored, begin
from kdjax.export.onnx_ops import translate
from kdjax.export.program import Program, any_rows, name
from kdjax.runtime import files
from kdjax.runtime.packages import needed

FILE = 'model.onnx'
RUNTIME = 'onnxruntime'
PIP = 'pip install kdjax[onnx]'
OPSET = 20
FORMAT = 9  # of the file, the first that has this opset
LARGEST = 2**31 - 1  # bytes of a file of protocol buffers
GIVEN = {'bool': 'INT32'}  # onnxruntime-web takes no bool
quantise = onnx_quantize.quantise
KEYS = 'kdjax'  # of the metadata: the keys of inputs and outputs, with their '/'


def write(program: Program, path: Path) -> None:
  """Writes a model as an ONNX file.

  Its inputs and outputs have the program's names (`program.name`), and 'batch' as their first axis; what is
  bool in the program is int32 in the file. Each weight is one initialiser of its own name, a kernel of a
  convolution with its axes in ONNX's order.

  Args:
    program: the model.
    path: the file, such as model.onnx.

  Raises:
    KdjaxError: if the package onnx is missing, the model has a primitive that is not translated, or the file
      would have more than 2 GB.
  """
  onnx = needed('onnx', 'ONNX', PIP)
  graph = equations(program, any_rows(), 'onnx')
  file = begin(graph, program.weights)
  for key in program.inputs:
    file.stored[key] = Stored(name(key), tuple(range(len(graph.shape(key)))))
    if graph.dtype(key) in ('bool', 'uint32'):
      tensor = cast(file, name(key), file.held(key))
      file.stored[key] = file.stored[key]._replace(tensor=tensor)
  for step in graph.steps.values():
    translate(file, step)
  outputs = {tap: _output(file, value) for tap, value in graph.outputs.items()}
  model = _model(onnx, program, file, outputs)
  if model.ByteSize() > LARGEST:
    raise KdjaxError(f'onnx: the model has {model.ByteSize():,} bytes, and a file has at most 2 GB.')
  onnx.checker.check_model(model)
  with files.swapped_in(path) as part:
    part.write_bytes(model.SerializeToString())


def _output(file: File, value: str) -> str:
  """The tensor of an output, of the program's dtype."""
  tensor = file.read(value)
  return cast(file, tensor, 'UINT32') if file.graph.dtype(value) == 'uint32' else tensor


def _model(onnx: ModuleType, program: Program, file: File, outputs: Mapping[str, str]):
  """The protocol buffer of a file."""
  produced = {node.output for node in file.nodes.values()}
  names, nodes = {}, []
  for tap, tensor in outputs.items():
    if tensor in produced and tensor not in names:
      names[tensor] = name(tap)
    else:
      nodes.append(('Identity', [tensor], name(tap), {}))
  listed = [(n.op, n.inputs, n.output, n.attributes) for n in file.nodes.values()] + nodes
  read = {tensor for _, inputs, _, _ in listed for tensor in inputs}
  protos = [
    onnx.helper.make_node(
      op,
      [names.get(tensor, tensor) for tensor in inputs],
      [names.get(output, output)],
      name=names.get(output, output),
      **{k: getattr(onnx.TensorProto, v) if k == 'to' else v for k, v in attributes.items()},
    )
    for op, inputs, output, attributes in listed
  ]
  arrays = [
    onnx.numpy_helper.from_array(np.asarray(a, order='C'), n) for n, a in file.arrays.items() if n in read
  ]
  infos = [
    [_info(onnx, key, value, GIVEN) for key, value in program.inputs.items()],
    [_info(onnx, tap, program.outputs[tap], {}) for tap in outputs],
  ]
  graph = onnx.helper.make_graph(protos, 'kdjax', *infos, arrays)
  opsets = [onnx.helper.make_opsetid('', OPSET)]
  model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=FORMAT, producer_name='kdjax')
  keys = {'inputs': list(program.inputs), 'outputs': list(outputs)}
  onnx.helper.set_model_props(model, {KEYS: json.dumps(keys)})
  return model


def _info(onnx, key, spec, others):
  shape, dtype = spec
  kind = getattr(onnx.TensorProto, others.get(dtype, dtype.upper().replace('FLOAT32', 'FLOAT')))
  return onnx.helper.make_tensor_value_info(name(key), kind, ['batch', *shape])
