"""How a published checkpoint sees images: scaling, size, crop and interpolation, by the files beside it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdjax import options
from kdjax.errors import KdjaxError
from kdjax.pretrained.find import Files, companion, files, read_json
from kdjax.progress import say

IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
TIMM = 'pretrained_cfg'
TIMM_KEYS = ('mean', 'std', 'input_size', 'crop_pct', 'crop_mode', 'interpolation')
# Steps of transformers that change the values of pixels, and that no model here does.
UNDONE = ('do_flip_channel_order', 'do_color_quantize', 'do_grayscale', 'rescale_offset', 'offset')
FILTERS = ('nearest', 'lanczos', 'bilinear', 'bicubic', 'box', 'hamming')  # as Pillow numbers them


class Reading(NamedTuple):
  """What the files beside a checkpoint say of images.

  Attributes:
    source: the file, None where none says anything.
    scaling: `mean` and `std` of channels in [0, 1], or {}.
    size: (height, width) that the network was trained on, None where they do not say.
    resizing: how an image gets to that size, in words; '' for as kdjax does it, and where they do not say.
  """

  source: Path | None = None
  scaling: Mapping[str, tuple[float, ...]] = {}
  size: tuple[int, int] | None = None
  resizing: str = ''


def read(config: Mapping[str, Any], folder: Path) -> Reading:
  """What a config.json of timm, or a preprocessor_config.json of transformers in its folder, says.

  Raises:
    KdjaxError: if one of them cannot be read, holds anything else in a key, or names a step that changes
      pixels and is not done here.
  """
  if TIMM in config or ('architecture' in config and 'mean' in config):
    given = config.get(TIMM, config)
    if not isinstance(given, Mapping):
      raise KdjaxError(f'{folder / "config.json"} has {TIMM} {options.shown(given)}; it has to be an object.')
    return _timm(given, folder / 'config.json')
  for name, key in (('preprocessor_config.json', ''), ('processor_config.json', 'image_processor')):
    given = companion(folder, name)
    given = given.get(key) if key else given.get(TIMM, given)
    if isinstance(given, Mapping) and given:
      return (_timm if 'input_size' in given else _transformers)(given, folder / name)
  return Reading()


def scaling(config: Mapping[str, Any], folder: Path) -> dict[str, tuple[float, ...]]:
  """`mean` and `std` as attributes of a model, {} where the files do not say; raises as `read` does."""
  return dict(read(config, folder).scaling)


def _checked(value, annotation, path, key):
  return options.check(value, annotation, f'{path}: {key}')


def _channels(given, names, path):
  """Mean and std, one value or one a channel."""
  found = {}
  for ours, theirs in names.items():
    if given.get(theirs) is not None:
      value = given[theirs] if isinstance(given[theirs], list) else [given[theirs]]
      kind = options.Means if ours == 'mean' else options.Scales
      found[ours] = tuple(map(float, _checked(value, kind, path, theirs)))
      if len(found[ours]) not in (1, 3):
        raise KdjaxError(f'{path} has {len(found[ours])} values in {theirs}; images have 3 channels.')
  return found


def _timm(given, path):
  scaling = _channels(given, {'mean': 'mean', 'std': 'std'}, path)
  size = given.get('input_size')
  if size is not None:
    size = _checked(size, tuple[options.Size, options.Size, options.Size], path, 'input_size')[1:]
  how, share = str(given.get('interpolation') or 'bicubic'), given.get('crop_pct')
  share = 1.0 if share is None else _checked(share, options.SomeShare, path, 'crop_pct')
  mode = str(given.get('crop_mode') or 'center')
  # At a share of 1 too, its short side is fitted and the middle taken, unless it is squashed.
  whole = share == 1 and mode == 'squash'
  parts = [how] if how != 'bicubic' else []
  parts += [] if whole else [f'the middle {100 * share:g} %' if share < 1 else 'the middle square']
  return Reading(path, scaling, size, ', '.join(parts) if size else '')


def _transformers(given, path):
  for key in UNDONE:
    if given.get(key):
      raise KdjaxError(f'{path} has {key}, which is not done here: take another checkpoint.')
  found = _channels(given, {'mean': 'image_mean', 'std': 'image_std'}, path)
  if given.get('do_normalize') is False:
    found = {'mean': (0.0,) * 3, 'std': (1.0,) * 3}
  factor = given.get('rescale_factor', 1 / 255) if given.get('do_rescale', True) else 1.0
  factor = 255 * _checked(factor, options.Positive, path, 'rescale_factor')  # of channels in [0, 1]
  if abs(factor - 1) > 1e-6:
    if found.keys() != {'mean', 'std'}:
      raise KdjaxError(f'{path} has rescale_factor {factor / 255:g} and no image_mean and image_std.')
    found = {k: tuple(x / factor for x in v) for k, v in found.items()}
  crop, size = given.get('do_center_crop') and given.get('crop_size'), None
  resize = given.get('size') if given.get('do_resize', True) else None
  if given.get('do_center_crop') and not crop:
    crop = resize
  if target := crop or resize:
    size = _sides(target, path)
  parts = [_filter(given, path)] if resize else []
  if resize and (
    crop or given.get('crop_pct') or (isinstance(resize, Mapping) and 'shortest_edge' in resize)
  ):
    parts.append('the middle' if crop or given.get('crop_pct') else 'with the proportions kept')
  elif crop and not resize:
    parts.append('the middle')
  return Reading(path, found, size, ', '.join(filter(None, parts)))


def _sides(value, path):
  if isinstance(value, Mapping):
    either = value.get('shortest_edge', value.get('longest_edge'))
    value = [value.get('height', either), value.get('width', either)]
  value = [value, value] if isinstance(value, int) else value
  return _checked(value, tuple[options.Size, options.Size], path, 'size')


def _filter(given, path):
  """The interpolation, '' for bicubic, as kdjax has it."""
  number = given.get('resample', 3)
  if type(number) is not int or not 0 <= number < len(FILTERS):
    raise KdjaxError(f'{path} has resample {options.shown(number)}; it is a number from 0 to 5.')
  return FILTERS[number] if FILTERS[number] != 'bicubic' else ''


def _tower(model: Mapping[str, Any]) -> Mapping[str, Any]:
  """The part of a model that images go into, {} where it has none that scales them."""
  parts = (p for p in (model, *model.values()) if isinstance(p, Mapping))
  return next((p for p in parts if isinstance(p.get('mean'), tuple | list)), {})


def describe(found: Files, attributes: Mapping[str, Any]) -> str:
  """What is done to images, and what the checkpoint's library does and kdjax does not; '' without images.

  Args:
    found: the files of the checkpoint.
    attributes: all attributes of the model.
  """
  tower = _tower(attributes)
  if not tower:
    return ''
  said = reading(found)
  where = f'of {said.source.name}' if said.scaling and said.source else "the model's own, no file says others"
  mean, std = ('(' + ', '.join(f'{x:.4g}' for x in tower[k]) + ')' for k in ('mean', 'std'))
  told = f'images - {mean}, / {std} ({where})'
  if said.size:
    told += f', trained on {said.size[0]}×{said.size[1]}'
  if said.resizing:
    told += f', resized otherwise ({said.resizing}) than data.image_size does (bicubic, the whole image)'
  return told


def reading(found: Files) -> Reading:
  """What the files of a checkpoint say of images."""
  folder = found.weights[0].parent
  return read(read_json(found.config) if found.config else {}, folder)


def check_side(converted: Mapping, like: Mapping, model: Mapping[str, Any], init: str) -> None:
  """Raises KdjaxError if a checkpoint has positions for images of another size than the data's.

  Args:
    converted, like: flat variables, as the checkpoint has them and as the data want them.
    model: its attributes.
    init: the checkpoint.
  """
  name = next((k for k in like if re.fullmatch(r'params/(image/)?position', k)), '')
  patch, theirs = _tower(model).get('patch'), getattr(converted.get(name), 'shape', ())
  if not patch or len(theirs) != 3 or theirs[1] == like[name].shape[1]:
    return
  tokens = sum(name.replace('position', token) in like for token in ('class', 'distillation'))
  have, want = theirs[1] - tokens, like[name].shape[1] - tokens
  side = math.isqrt(max(have, 0))
  todo = f'set data.image_size={side * patch}' if side * side == have else 'give it images of its own size'
  raise KdjaxError(
    f'{init} has positions for {have} patches of {patch}×{patch} pixels, and the images of the data have '
    f'{want}: {todo}.'
  )


def say_size(init: str, model: Mapping[str, Any], sides: tuple[int, int]) -> None:
  """Prints a line where images have another size than a checkpoint was trained on.

  A network with a position for each patch takes one size alone, and is refused by `check_side`.
  """
  size = reading(files(init)).size
  patched = any('patch' in part for part in (model, *model.values()) if isinstance(part, Mapping))
  if patched or size in (None, tuple(sides)):
    return
  height, width = size
  todo = f'set data.image_size={height}' if height == width else f'give it {height}×{width}'
  say(
    f'warning: {init} was trained on images of {height}×{width}, and the data have {sides[0]}×{sides[1]}: '
    f'{todo}, or expect other answers than were published.'
  )
