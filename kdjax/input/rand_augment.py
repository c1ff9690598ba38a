"""Strong distortions of an image: RandAugment (Cubuk et al., 1909.13719) with a hole, as FixMatch has it."""

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError

GREY = (125.0, 123.0, 114.0)  # of the hole
LIGHT = (19595, 38470, 7471)  # of red, green and blue in brightness, of 2^16 together
CHOSEN, HOLE = 2, 0.5  # operations an image, and the largest side of the hole


def _luminance(x):
  """The brightness of each pixel [H, W, 1], whole numbers."""
  if x.shape[-1] != 3:
    return x.mean(-1, keepdims=True)
  return jnp.floor((jnp.sum(x * jnp.array(LIGHT, x.dtype), -1, keepdims=True) + 2**15) / 2**16)


def _blend(other, x, v):
  return jnp.floor(other + (0.05 + 0.9 * v) * (x - other))


def _autocontrast(x, v):
  low, high = x.min((0, 1)), x.max((0, 1))
  scale = 255 / jnp.maximum(high - low, 1)
  return jnp.where(high > low, jnp.clip(jnp.floor((x - low) * scale + 1e-3), 0, 255), x)


def _equalize(x, v):
  def channel(x):
    bins = x.astype(jnp.int32)
    histogram = jnp.zeros(256, jnp.int32).at[bins.ravel()].add(1)
    step = (histogram.sum() - histogram[bins.max()]) // 255
    table = (step // 2 + jnp.cumsum(histogram) - histogram) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.clip(table, 0, 255)[bins], bins).astype(x.dtype)

  return jax.vmap(channel, -1, -1)(x)


def _smooth(x):
  """Each pixel with its neighbours, itself 5 times; the border as it is."""
  height, width = x.shape[:2]
  if min(height, width) < 3:
    return x
  parts = [x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3)]
  inner = jnp.floor((sum(parts) + 4 * x[1:-1, 1:-1]) / 13 + 0.5)
  return x.at[1:-1, 1:-1].set(inner)


def _contrast(x, v):
  return _blend(jnp.floor(_luminance(x).mean() + 0.5), x, v)


def _posterize(x, v):
  bits = jnp.floor(4 + 4 * v)
  return jnp.floor(x / 2 ** (8 - bits)) * 2 ** (8 - bits)


def _affine(x, matrix):
  """An affine transform: the pixel at (x, y) is the one at matrix · (x, y, 1), as centres; black outside."""
  (a, b, c), (d, e, f) = matrix
  height, width = x.shape[:2]
  row, column = (jnp.arange(n) + 0.5 for n in (height, width))
  across = jnp.floor(a * column + b * row[:, None] + c + 1e-4).astype(jnp.int32)
  down = jnp.floor(d * column + e * row[:, None] + f + 1e-4).astype(jnp.int32)
  inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
  pixels = x[jnp.clip(down, 0, height - 1), jnp.clip(across, 0, width - 1)]
  return jnp.where(inside[..., None], pixels, 0)


def _rotate(x, v):
  angle, (h, w) = jnp.deg2rad(-30 + 60 * v), (n / 2 for n in x.shape[:2])
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  return _affine(x, ((cos, -sin, w - cos * w + sin * h), (sin, cos, h - sin * w - cos * h)))


def _offset(v):
  return -0.3 + 0.6 * v


# operation(image, strength): f32 [H, W, C] of whole numbers from 0 to 255, strength from 0 to 1.
OPERATIONS = {
  'autocontrast': _autocontrast,
  'brightness': lambda x, v: _blend(0, x, v),
  'colour': lambda x, v: _blend(_luminance(x), x, v),
  'contrast': _contrast,
  'equalize': _equalize,
  'identity': lambda x, v: x,
  'posterize': _posterize,
  'rotate': _rotate,
  'sharpness': lambda x, v: _blend(_smooth(x), x, v),
  'shear_x': lambda x, v: _affine(x, ((1, _offset(v), 0), (0, 1, 0))),
  'shear_y': lambda x, v: _affine(x, ((1, 0, 0), (_offset(v), 1, 0))),
  'solarize': lambda x, v: jnp.where(x < 256 * v, x, 255 - x),
  'translate_x': lambda x, v: _affine(x, ((1, 0, _offset(v) * x.shape[1]), (0, 1, 0))),
  'translate_y': lambda x, v: _affine(x, ((1, 0, 0), (0, 1, _offset(v) * x.shape[0]))),
}


def _cutout(key, x):
  """Cutout: a grey square at a random position, its side up to half of the image's."""
  side_key, place_key = jax.random.split(key)
  height, width = x.shape[:2]
  side = HOLE * width * jax.random.uniform(side_key)
  y, z = jax.random.uniform(place_key, (2,)) * jnp.array([height, width])
  rows = jnp.abs(jnp.arange(height) + 0.5 - y) <= side / 2
  columns = jnp.abs(jnp.arange(width) + 0.5 - z) <= side / 2
  grey = jnp.array(GREY) if x.shape[-1] == 3 else jnp.full(x.shape[-1], sum(GREY) / 3)
  return jnp.where((rows[:, None] & columns)[..., None], jnp.floor(grey), x)


def rand_augment(key, image):
  """Two of fourteen operations, each of a strength drawn for it, and a grey square (FixMatch: 2001.07685).

  As in the code of MLKD (Jin et al., CVPR 2023), of u8 [H, W, C]: brightness, colour, contrast and sharpness
  of 5 to 95 %, turns of up to 30°, shears and moves of up to 0.3, 4 to 7 bits, any solarisation; the square
  is of up to half the side.

  Raises:
    KdjaxError: for an image that is not of bytes.
  """
  if image.dtype != jnp.uint8:
    raise KdjaxError(
      f'rand_augment changes images of bytes, and these are {image.dtype}: choose another one.'
    )

  def apply_one(x, key):
    operation_key, strength_key = jax.random.split(key)
    index = jax.random.randint(operation_key, (), 0, len(OPERATIONS))
    return jax.lax.switch(index, tuple(OPERATIONS.values()), x, jax.random.uniform(strength_key)), None

  hole_key, *keys = jax.random.split(key, 1 + CHOSEN)
  x, _ = jax.lax.scan(apply_one, image.astype(jnp.float32), jnp.stack(keys))  # compiled once
  return _cutout(hole_key, x).astype(jnp.uint8)
