"""Image preprocessing of a published checkpoint: scaling, size, crop, interpolation, from its files."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdjax import options
from kdjax.errors import KdjaxError, unknown
from kdjax.pretrained.find import CONFIGS, Files, companion, files, read_json
from kdjax.runtime.progress import say

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
TIMM = 'pretrained_cfg'
OPEN_CLIP = 'preprocess_cfg'
TIMM_KEYS = ('mean', 'std', 'input_size', 'crop_pct', 'crop_mode', 'interpolation')
# Steps of transformers that change pixel values and are not in kdjax.
UNDONE = ('do_flip_channel_order', 'do_color_quantize', 'do_grayscale', 'rescale_offset', 'offset')
FILTERS = ('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming')  # as Pillow numbers them


MAPS = ('convnext', 'dinov2', 'eva02', 'swin')  # models with patches that take images of any size


class Reading(NamedTuple):
  """Image preprocessing from the files beside a checkpoint.

  Attributes:
    source: the file, None where no file has any.
    scaling: `mean` and `std` of channels in [0, 1], or {}.
    size: (height, width) that the network was trained on, None if unknown.
    resizing: how an image gets to that size, in words; '' for as kdjax does it, and if unknown.
  """

  source: Path | None = None
  scaling: Mapping[str, tuple[float, ...]] = {}
  size: tuple[int, int] | None = None
  resizing: str = ''


def read(config: Mapping[str, Any], folder: Path) -> Reading:
  """The preprocessing in a config.json of timm or open_clip, or a preprocessor_config.json of transformers.

  Raises:
    KdjaxError: if one of them cannot be read, holds anything else in a key, or names a step that changes
      pixels and is not done here.
  """
  if TIMM in config or ('architecture' in config and 'mean' in config):
    settings = config.get(TIMM, config)
    if not isinstance(settings, Mapping):
      raise KdjaxError(
        f'{folder / "config.json"} has {TIMM} {options.shown(settings)}; it has to be an object.'
      )
    return _timm(settings, folder / 'config.json')
  if isinstance(config.get('model_cfg'), Mapping):
    return _open_clip(config, folder / CONFIGS[1])
  for name, key in (('preprocessor_config.json', ''), ('processor_config.json', 'image_processor')):
    settings = companion(folder, name)
    settings = settings.get(key) if key else settings.get(TIMM, settings)
    if isinstance(settings, Mapping) and settings:
      return (_timm if 'input_size' in settings else _transformers)(settings, folder / name)
  return Reading()


def scaling(config: Mapping[str, Any], folder: Path) -> dict[str, tuple[float, ...]]:
  """`mean` and `std` as attributes of a model, {} where the files have none; raises as `read` does."""
  return dict(read(config, folder).scaling)


def _validated(value, annotation, path, key):
  return options.check(value, annotation, f'{path}: {key}')


def _channels(settings, names, path):
  """Mean and std, one value or one a channel."""
  moments = {}
  for ours, theirs in names.items():
    if settings.get(theirs) is not None:
      value = settings[theirs] if isinstance(settings[theirs], list) else [settings[theirs]]
      kind = options.Means if ours == 'mean' else options.Scales
      moments[ours] = tuple(map(float, _validated(value, kind, path, theirs)))
      if len(moments[ours]) not in (1, 3):
        raise KdjaxError(f'{path} has {len(moments[ours])} values in {theirs}; images have 3 channels.')
  return moments


def _timm(settings, path):
  moments = _channels(settings, {'mean': 'mean', 'std': 'std'}, path)
  size = settings.get('input_size')
  if size is not None:
    size = _validated(size, tuple[options.Size, options.Size, options.Size], path, 'input_size')[1:]
  interpolation, crop_pct = str(settings.get('interpolation') or 'bicubic'), settings.get('crop_pct')
  crop_pct = 1.0 if crop_pct is None else _validated(crop_pct, options.SomeShare, path, 'crop_pct')
  crop_mode = str(settings.get('crop_mode') or 'center')
  # At crop_pct 1 too, the short side is resized and the center cropped, unless crop_mode is 'squash'.
  squashed = crop_pct == 1 and crop_mode == 'squash'
  parts = [interpolation] if interpolation != 'bicubic' else []
  parts += [] if squashed else [f'the middle {100 * crop_pct:g} %' if crop_pct < 1 else 'the middle square']
  return Reading(path, moments, size, ', '.join(parts) if size else '')


def _open_clip(config, path):
  settings, towers = config.get(OPEN_CLIP) or {}, config['model_cfg'].get('vision_cfg')
  if not isinstance(settings, Mapping) or not isinstance(towers, Mapping):
    raise KdjaxError(f'{path} has {OPEN_CLIP} {options.shown(settings)}; it has to be an object.')
  moments, side = _channels(settings, {'mean': 'mean', 'std': 'std'}, path), towers.get('image_size', 224)
  modes = {'shortest': 'the middle square', 'longest': 'with the proportions kept', 'squash': ''}
  interpolation, mode = settings.get('interpolation') or 'bicubic', settings.get('resize_mode') or 'shortest'
  if mode not in modes:
    raise unknown(f'resize_mode in {path}', str(mode), modes)
  parts = ['' if interpolation in ('bicubic', 'random') else str(interpolation), modes[mode]]
  return Reading(path, moments, _sides(side, path), ', '.join(filter(None, parts)))


def _transformers(settings, path):
  for key in UNDONE:
    if settings.get(key):
      raise KdjaxError(f'{path} has {key}, which is not done here: take another checkpoint.')
  given = _channels(settings, {'mean': 'image_mean', 'std': 'image_std'}, path)
  moments = {'mean': (0.0,) * 3, 'std': (1.0,) * 3} if settings.get('do_normalize') is False else dict(given)
  twice = settings.get('include_top', 'EfficientNet' in str(settings.get('image_processor_type')))
  if twice and 'std' in given:  # EfficientNet's processor divides by the deviations once more
    moments['std'] = tuple(x * y for x, y in zip(moments['std'], given['std'], strict=False))
  factor = settings.get('rescale_factor', 1 / 255) if settings.get('do_rescale', True) else 1.0
  factor = 255 * _validated(factor, options.Positive, path, 'rescale_factor')  # of channels in [0, 1]
  if abs(factor - 1) > 1e-6:
    if moments.keys() != {'mean', 'std'}:
      raise KdjaxError(f'{path} has rescale_factor {factor / 255:g} and no image_mean and image_std.')
    moments = {k: tuple(x / factor for x in v) for k, v in moments.items()}
  crop, size = settings.get('do_center_crop') and settings.get('crop_size'), None
  resize = settings.get('max_image_size') or settings.get('size')
  resize = resize if settings.get('do_resize', True) else None
  if settings.get('do_center_crop') and not crop:
    crop = resize
  if target := crop or resize:
    size = _sides(target, path)
  if settings.get('max_num_patches') and not target:  # of NaFlex
    patches = _validated(settings['max_num_patches'], options.Size, path, 'max_num_patches')
    side = math.isqrt(patches) * _validated(settings.get('patch_size', 16), options.Size, path, 'patch_size')
    size, resize = (side, side), {'shortest_edge': side}
  parts = [_filter(settings, path)] if resize else []
  if resize and (
    crop or settings.get('crop_pct') or (isinstance(resize, Mapping) and 'shortest_edge' in resize)
  ):
    parts.append('the middle' if crop or settings.get('crop_pct') else 'with the proportions kept')
  elif crop and not resize:
    parts.append('the middle')
  if settings.get('do_image_splitting'):
    parts.append('in parts and as a whole')
  return Reading(path, moments, size, ', '.join(filter(None, parts)))


def _sides(value, path):
  if isinstance(value, Mapping):
    edge = value.get('shortest_edge', value.get('longest_edge'))
    value = [value.get('height', edge), value.get('width', edge)]
  value = [value, value] if isinstance(value, int) else value
  return _validated(value, tuple[options.Size, options.Size], path, 'size')


def _filter(settings, path):
  """The interpolation, '' for bicubic, as kdjax has it."""
  number = settings.get('resample', 3)
  if type(number) is not int or not 0 <= number < len(FILTERS):
    raise KdjaxError(f'{path} has resample {options.shown(number)}; it is a number from 0 to 5.')
  return FILTERS[number] if FILTERS[number] != 'bicubic' else ''


def _tower(model: Mapping[str, Any]) -> Mapping[str, Any]:
  """The image tower of a model, {} where none scales images."""
  parts = (p for p in (model, *model.values()) if isinstance(p, Mapping))
  return next((p for p in parts if isinstance(p.get('mean'), tuple | list)), {})


def describe(paths: Files, attributes: Mapping[str, Any]) -> str:
  """The scaling of images, and where the checkpoint's library preprocesses otherwise; '' without images.

  Args:
    paths: the files of the checkpoint.
    attributes: all attributes of the model.
  """
  tower = _tower(attributes)
  if not tower:
    return ''
  stored = reading(paths)
  source = (
    f'of {stored.source.name}' if stored.scaling and stored.source else "the model's own, no file has others"
  )
  mean, std = ('(' + ', '.join(f'{x:.4g}' for x in tower[k]) + ')' for k in ('mean', 'std'))
  text = f'images - {mean}, / {std} ({source})'
  if stored.size:
    text += f', trained on {stored.size[0]}×{stored.size[1]}'
  if stored.resizing:
    text += f', resized otherwise ({stored.resizing}) than data.image_size does (bicubic, the whole image)'
  return text


def reading(paths: Files) -> Reading:
  """Image preprocessing from the files of a checkpoint."""
  folder = paths.weights[0].parent
  return read(read_json(paths.config) if paths.config else {}, folder)


def check_side(converted: Mapping, expected: Mapping, model: Mapping[str, Any], init: str) -> None:
  """Raises KdjaxError if a checkpoint has positions for images of another size than the data's.

  Args:
    converted, expected: flat variables of the checkpoint, and of the model on the data.
    model: its attributes.
    init: the checkpoint.
  """
  name = next((k for k in expected if re.fullmatch(r'params/(image/)?position', k)), '')
  patch, theirs = _tower(model).get('patch'), getattr(converted.get(name), 'shape', ())
  if not patch or len(theirs) != 3 or theirs[1] == expected[name].shape[1]:
    return
  tokens = sum(name.replace('position', token) in expected for token in ('class', 'distillation'))
  stored, needed = theirs[1] - tokens, expected[name].shape[1] - tokens
  side = math.isqrt(max(stored, 0))
  hint = f'set data.image_size={side * patch}' if side * side == stored else 'give it images of its own size'
  raise KdjaxError(
    f'{init} has positions for {stored} patches of {patch}×{patch} pixels, and the images of the data have '
    f'{needed}: {hint}.'
  )


def say_size(init: str, model: Mapping[str, Any], sides: tuple[int, int]) -> None:
  """Prints a line where images have another size than a checkpoint was trained on.

  A network with a position for each patch takes one size alone, and is refused by `check_side`;
  those of `MAPS` take any.
  """
  size = reading(files(init)).size
  parts = [part for part in (model, *model.values()) if isinstance(part, Mapping)]
  patched = any('patch' in part and part.get('model') not in MAPS for part in parts)
  if patched or size in (None, tuple(sides)):
    return
  height, width = size
  hint = f'set data.image_size={height}' if height == width else f'give it {height}×{width}'
  say(
    f'warning: {init} was trained on images of {height}×{width}, and the data have {sides[0]}×{sides[1]}: '
    f'{hint}, or expect other outputs than published.'
  )
