"""Quantises a .tflite file, as a program of its own: SOURCE TARGET SCHEME ROWS.safetensors."""

import sys
from pathlib import Path

from safetensors.numpy import load_file


def quantize(source: str, target: str, scheme: str, rows: str) -> None:
  """Writes `target`, in the `scheme` of `kdjax.export.quantize`; `rows` are examples for the ranges."""
  from ai_edge_quantizer import algorithm_manager, calibrator, qtyping, quantizer, recipe, recipe_manager
  from ai_edge_quantizer.utils import qsv_utils

  recipes = {
    'int8': recipe.dynamic_wi8_afp32,
    'int4': recipe.dynamic_wi4_afp32,
    'static8': recipe.static_wi8_ai8,
  }
  manager = recipe_manager.RecipeManager()
  manager.load_quantization_recipe(recipes[scheme]())
  left = algorithm_manager.AlgorithmName.NO_QUANTIZE
  # The matmuls of a spectrogram: 8 bits are too few for them.
  manager.add_quantization_config('.*front_end.*', qtyping.TFLOperationName.ALL_SUPPORTED, algorithm_key=left)
  chosen = manager.get_quantization_recipe()
  work, ranges = quantizer.Quantizer(source, chosen), None
  if work.need_calibration:
    arrays = load_file(rows)
    count = len(next(iter(arrays.values())))
    examples = [{k: v[i : i + 1] for k, v in arrays.items()} for i in range(count)]
    # The default is a moving average, which clips.
    observer = calibrator.Calibrator(source, qsv_update_func=qsv_utils.min_max_update)
    observer.calibrate({'serving_default': examples}, manager)
    ranges = observer.get_model_qsvs()
  quantised = work.quantize(ranges, enable_progress_report=False).quantized_model
  Path(target).write_bytes(bytes(quantised))


if __name__ == '__main__':
  quantize(*sys.argv[1:])
