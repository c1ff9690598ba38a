"""Examples of the test split as files of a page."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import wavfile

from kdjax.experiment.experiment import Experiment

MOST = 8
FOLDER = 'examples'


def write(part: Path, experiment: Experiment, keys: Mapping[str, str]) -> list[dict[str, str]]:
  """Writes up to `MOST` examples into `part`; modality -> its text, or its file in `part`, and 'label'.

  Args:
    part: the folder of the page.
    experiment: whose test split is read.
    keys: batch key -> modality.
  """
  (part / FOLDER).mkdir()
  test = experiment.data.test
  source = experiment.data.dataset.splits[experiment.config['data']['test']]
  written = []
  for row in np.unique(np.linspace(0, len(test) - 1, min(MOST, len(test))).astype(int)):
    raw, batch = source[int(row)], {k: v[0] for k, v in test.take(np.array([row])).items()}
    shown = {}
    for key, modality in keys.items():
      name = f'{FOLDER}/{row}'
      if modality == 'text' and isinstance(raw.get(key), str):
        shown['text'] = raw[key]
      elif modality == 'image' and (image := _image(raw.get(key), batch[key])) is not None:
        shown['image'] = f'{name}.png'
        Image.fromarray(image).save(part / shown['image'])
      elif modality == 'audio':
        shown['audio'] = f'{name}.wav'
        rate = int(experiment.data.dataset.rate or 16000)
        wavfile.write(part / shown['audio'], rate, _sound(batch[key]))
    if shown:
      written.append(shown | {'label': _label(raw.get('label'), experiment)})
  return written


def _image(raw: Any, fitted: np.ndarray) -> np.ndarray | None:
  """u8 [H, W] or [H, W, 3]: as it is in the data set, else as the model sees it; None for other numbers."""
  image = raw if isinstance(raw, np.ndarray) and raw.dtype == np.uint8 and raw.ndim in (2, 3) else fitted
  if image.dtype.kind == 'f' and np.abs(image).max() <= 1:
    image = np.round((image + 1) * 127.5).astype(np.uint8)
  if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[-1] not in (1, 3)):
    return None
  return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def _sound(samples: np.ndarray) -> np.ndarray:
  """The samples as 16 bits where these hold them exactly, else as floats."""
  whole = np.round(samples * 32768)
  exact = np.array_equal(whole, samples * 32768) and np.abs(whole).max() < 32768
  return whole.astype(np.int16) if exact else samples.astype(np.float32)


def _label(label: Any, experiment: Experiment) -> str:
  """The name of a label; '' where it has none."""
  kind, classes = experiment.task.label, experiment.data.dataset.classes
  if label is None or not kind:
    return ''
  if kind == 'classes':
    return ', '.join(classes[i] for i in np.flatnonzero(np.asarray(label) > 0))
  if kind == 'number':
    return f'{float(label):.4g}'
  return str(classes[int(label)]) if 0 <= int(label) < len(classes) else ''
