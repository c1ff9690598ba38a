"""ONNX models in fewer bits: by onnxruntime where it computes in integers, and weights alone by ourselves."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.export import program as programs
from kdjax.runtime import files
from kdjax.runtime.packages import needed
from kdjax.training.quantize import channel_scale

PIP = 'pip install kdjax[onnx]'
SMALLEST = 128  # values of a weight that is worth a scale a channel
# Operation -> (which input is the weight, its axis of channels).
CHANNELS = {'Conv': (1, 0), 'ConvTranspose': (1, 1), 'MatMul': (1, -1), 'Gather': (0, 0)}


def quantise(source: Path, path: Path, scheme: str, calibration: Mapping[str, np.ndarray] | None) -> None:
  """Writes an ONNX file in fewer bits.

  'int8' multiplies matrices in integers, with the range of activations taken as they come; convolutions,
  which onnxruntime does many times slower so, keep float arithmetic and have weights of 8 bits. 'int4' has
  weights of 4 bits and float arithmetic. 'static8' has the true minimum and maximum of examples as ranges.

  Args:
    source: the file in float.
    path: of the new file.
    scheme: one of `formats.SCHEMES`.
    calibration: inputs [N, ...] of the program; 'static8' needs them.

  Raises:
    KdjaxError: without the packages, or for a model that cannot be quantised so.
  """
  onnx = needed('onnx', 'quantised ONNX', PIP)
  needed('onnxruntime', 'quantised ONNX', PIP)
  from onnxruntime import quantization
  from onnxruntime.quantization import registry

  with files.swapped_in(path) as part, tempfile.TemporaryDirectory() as temporary:
    named, between = (Path(temporary) / f'{name}.onnx' for name in ('named', 'quantised'))
    left: Any = {'nodes_to_exclude': _constants(onnx, source, named)}
    try:
      if scheme == 'int8':
        settings: Any = {'op_types_to_quantize': ['MatMul', 'Gemm'], 'per_channel': True} | left
        quantization.quantize_dynamic(named, between, weight_type=quantization.QuantType.QInt8, **settings)
      elif scheme == 'static8':
        kinds: Any = {'activation_type': quantization.QuantType.QUInt8, 'per_channel': True}
        kinds['weight_type'] = quantization.QuantType.QInt8
        # A table of embeddings with a scale a row would give its scales to what is looked up.
        known = sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry} - {'Gather'})
        rows = _reader(calibration or {})
        quantization.quantize_static(named, between, rows, op_types_to_quantize=known, **kinds, **left)
    except Exception as e:  # whatever the quantiser meets
      raise KdjaxError(f'this model cannot be quantised ({scheme}): {files.first_line(e)}') from e
    model = onnx.load(str(source if scheme == 'int4' else between))
    weights_alone(model, 4 if scheme == 'int4' else 8)
    part.write_bytes(model.SerializeToString())


def _is_weight(name: str) -> bool:
  """Whether an initialiser is a weight of the model; others, such as the mel filters, are never rounded."""
  return name.startswith(('params/', 'frozen/'))


def _constants(onnx: Any, source: Path, named: Path) -> list[str]:
  """Writes the model with a name for every node; returns the matmuls with a constant that is no weight."""
  model = onnx.load(str(source))
  constants = {x.name for x in model.graph.initializer if not _is_weight(x.name)}
  for i, node in enumerate(model.graph.node):
    node.name = node.name or f'{node.op_type}_{i}'
  onnx.save(model, str(named))
  return [n.name for n in model.graph.node if n.op_type in ('MatMul', 'Gemm') and n.input[1] in constants]


def _reader(calibration: Mapping[str, np.ndarray]) -> Any:
  """The examples one by one, as onnxruntime asks for them."""
  from onnxruntime import quantization

  given = {programs.name(k): v for k, v in calibration.items()}
  arrays = {k: v.astype(np.int32) if v.dtype == bool else v for k, v in given.items()}

  class Reader(quantization.CalibrationDataReader):
    def __init__(self):
      count = len(next(iter(arrays.values())))
      self.rows = iter([{k: v[i : i + 1] for k, v in arrays.items()} for i in range(count)])

    def get_next(self):
      return next(self.rows, None)

  return Reader()


def weights_alone(model: Any, bits: int) -> None:
  """Rounds the float weights of a model in place: symmetric, with a scale for each channel.

  A weight that is read in more than one way has the channels of the first.

  Args:
    model: an onnx.ModelProto.
    bits: 8 or 4.
  """
  onnx, graph, top = needed('onnx', 'quantised ONNX', PIP), model.graph, 2 ** (bits - 1) - 1
  helper, numpy_helper, kinds = onnx.helper, onnx.numpy_helper, onnx.TensorProto
  axes = dict(reversed(list(_channels(graph))))
  added = []
  for weight in list(graph.initializer):
    values = numpy_helper.to_array(weight) if weight.data_type == kinds.FLOAT else np.zeros(0)
    if weight.name not in axes or not _is_weight(weight.name) or values.ndim < 2 or values.size < SMALLEST:
      continue
    axis = axes[weight.name] % values.ndim
    scale = channel_scale(values, axis, top).astype(np.float32)
    rounded = np.round(values / scale).astype(np.int8)
    name, kind = weight.name, kinds.INT8 if bits == 8 else kinds.INT4
    packed = rounded.tobytes() if bits == 8 else _nibbles(rounded)
    graph.initializer.remove(weight)
    graph.initializer.append(helper.make_tensor(f'{name}/int{bits}', kind, values.shape, packed, raw=True))
    graph.initializer.append(numpy_helper.from_array(scale.reshape(-1), f'{name}/scale'))
    inputs = [f'{name}/int{bits}', f'{name}/scale']
    added.append(helper.make_node('DequantizeLinear', inputs, [name], axis=axis))
  nodes = [*added, *graph.node]
  del graph.node[:]
  graph.node.extend(nodes)
  for opset in model.opset_import:
    if opset.domain == '':
      opset.version = max(opset.version, 21)  # which has 4 bits
  model.ir_version = max(model.ir_version, 10)


def _channels(graph: Any) -> Iterator[tuple[str, int]]:
  """(name of a weight, its axis of channels) of each operation that reads one."""
  for node in graph.node:
    if node.op_type == 'Gemm':
      transposed = any(a.name == 'transB' and a.i for a in node.attribute)
      yield node.input[1], 0 if transposed else 1
    elif node.op_type in CHANNELS:
      which, axis = CHANNELS[node.op_type]
      yield node.input[which], axis


def _nibbles(values: np.ndarray) -> bytes:
  """i8 of 4 bits, two a byte, the first in the low half."""
  flat = values.reshape(-1)
  flat = np.append(flat, np.zeros(len(flat) % 2, np.int8)).astype(np.uint8) & 15
  return (flat[::2] | (flat[1::2] << 4)).astype(np.uint8).tobytes()
