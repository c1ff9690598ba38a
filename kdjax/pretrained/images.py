"""How a published checkpoint reads images: mean, std, size, crop, interpolation, from the files beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdjax.errors import KdjaxError
from kdjax.pretrained.find import companion

PIL = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic', 4: 'box', 5: 'hamming'}  # of transformers


def _timm(given: Mapping[str, Any]) -> Mapping[str, Any]:
  """What a config.json of timm says of images; before `pretrained_cfg` it stood among the rest."""
  return given['pretrained_cfg'] if isinstance(given.get('pretrained_cfg'), Mapping) else given


def scaling(given: Mapping[str, Any], folder: Path) -> dict[str, tuple[float, ...]]:
  """`mean` and `std` of a checkpoint, of pixels in [0, 1]; {} where its files do not say.

  Args:
    given: its config.json, of timm or transformers.
    folder: where a preprocessor_config.json of transformers may lie.

  Raises:
    KdjaxError: if they are no three numbers each, or the pixels are scaled in another way than by 1/255.
  """
  beside, timm = companion(folder, 'preprocessor_config.json'), _timm(given)
  if beside.get('do_rescale') is False or abs(beside.get('rescale_factor', 1 / 255) - 1 / 255) > 1e-6:
    raise KdjaxError(
      f'{folder / "preprocessor_config.json"} does not scale pixels by 1/255, as models here do.'
    )
  if beside.get('do_normalize') is False:
    return {'mean': (0.0,) * 3, 'std': (1.0,) * 3}
  found = {k: timm.get(k, beside.get(f'image_{k}')) for k in ('mean', 'std')}
  for key, value in found.items():
    numbers = isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value)
    if value is not None and (not numbers or len(value) != 3 or (key == 'std' and min(value) <= 0)):
      raise KdjaxError(
        f"the checkpoint in {folder} has the {key} {value!r} of its images' pixels, and not three numbers."
      )
  return {k: tuple(map(float, v)) for k, v in found.items() if v is not None}


def describe(given: Mapping[str, Any], folder: Path) -> str:
  """Size, crop, interpolation, mean and std of a checkpoint's images in words; '' where nothing is said."""
  beside, timm = companion(folder, 'preprocessor_config.json'), _timm(given)
  size = timm['input_size'][-1] if isinstance(timm.get('input_size'), list) else _side(beside)
  crop, way = timm.get('crop_pct'), timm.get('interpolation', PIL.get(beside.get('resample')))
  told = [f'images of {size} × {size} pixels'] if size else []
  told += [f'the middle {100 * crop:g} % of them'] if isinstance(crop, (int, float)) and crop < 1 else []
  told += [f'resized {way}'] if isinstance(way, str) else []
  told += [f'{k} {", ".join(f"{x:g}" for x in v)}' for k, v in scaling(given, folder).items()]
  return ', '.join(told)


def _side(beside):
  """Pixels of a side in a preprocessor_config.json."""
  size = beside.get('crop_size') if beside.get('do_center_crop') else beside.get('size')
  if isinstance(size, Mapping):
    size = size.get('height', size.get('shortest_edge'))
  return size if isinstance(size, int) else None
