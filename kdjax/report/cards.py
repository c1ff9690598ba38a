"""The pictures on a card of the gallery."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np

from kdjax.input.cards import kind
from kdjax.report import plots

FRAMES = 6  # of a video's strip
MAP = 60, 180  # pixels of the map of a sequence


def pictures(card: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
  """(description, u8 [H, W, C]) of each input of a card that is drawn; see `kdjax.input.cards.kind`."""
  drawn = []
  for key, value in card.items():
    what = kind(key, value)
    if what == 'image':
      drawn.append((f'input {key}', np.atleast_3d(np.asarray(value))))
    elif what == 'video':
      chosen = np.linspace(0, len(value) - 1, min(FRAMES, len(value))).round().astype(int)
      drawn.append((f'frames of the input {key}', np.concatenate([value[i] for i in chosen], 1)))
    elif what == 'sound':
      drawn.append(('spectrogram of the input sound', plots.spectrogram(value)))
    elif what == 'sequence':
      drawn.append((f'input {key}, over time', heat_map(np.asarray(value, np.float32))))
  return drawn


def heat_map(x: np.ndarray) -> np.ndarray:
  """u8 [60, 180, 3] of a sequence [L, F]: each value between its least and its most, time to the right."""
  low, high = x.min(0), x.max(0)
  level = ((x - low) / np.maximum(high - low, 1e-9)).T
  rows, columns = (np.arange(n) * size // n for n, size in zip(MAP, level.shape, strict=True))
  return (255 * matplotlib.colormaps['viridis'](level[rows][:, columns])[..., :3]).astype(np.uint8)
