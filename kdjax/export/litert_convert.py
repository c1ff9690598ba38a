"""Converts StableHLO to a .tflite file, as a program of its own: MODULE FILE INPUTS OUTPUTS."""

import sys
from pathlib import Path


def convert(source: str, target: str, inputs: str, outputs: str) -> None:
  """Converts the text of a module, whose main function has these inputs and outputs, with commas between."""
  from litert_converter import converter_api_ext as converter
  from litert_converter.mlir import ir, passmanager

  with ir.Context() as context:
    converter.prepare_mlir_context(context)
    module = ir.Module.parse(Path(source).read_text())
    functions = (o for o in module.body.operations if o.operation.name == 'func.func')
    main = next(o for o in functions if ir.StringAttr(o.attributes['sym_name']).value == 'main')
    converter.set_signature(main, 'serving_default', inputs.split(','), outputs.split(','))
    passes = passmanager.PassManager()
    converter.run_convert_to_tfl_passes(module, passes, converter.ConvertToTFLConfig())
    Path(target).write_bytes(converter.export_flatbuffer_to_bytes(module.operation))


if __name__ == '__main__':
  convert(*sys.argv[1:])
