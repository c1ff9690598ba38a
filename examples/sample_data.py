"""Data of the examples: pictures of easy-vqa, which comes with kdjax, and tones that are made here."""

from pathlib import Path

import easy_vqa
import numpy as np
from PIL import Image
from scipy.io import wavfile

COLOURS = ('black', 'blue', 'brown', 'gray', 'green', 'red', 'teal', 'yellow')
BLACK, BLUE, BROWN, GRAY = (0, 0, 0), (0, 0, 255), (165, 42, 42), (128, 128, 128)
GREEN, RED, TEAL, YELLOW = (0, 255, 0), (255, 0, 0), (0, 128, 128), (255, 255, 0)
RGB = (BLACK, BLUE, BROWN, GRAY, GREEN, RED, TEAL, YELLOW)  # in the order of COLOURS


def pictures(split: str, n: int) -> tuple[np.ndarray, np.ndarray]:
  """(u8 [n, 32, 32, 3], the number of the colour in `COLOURS` i32 [n]) of the pictures of a split."""
  paths = easy_vqa.get_train_image_paths() if split == 'train' else easy_vqa.get_test_image_paths()
  questions, answers, images = (
    easy_vqa.get_train_questions() if split == 'train' else easy_vqa.get_test_questions()
  )
  colour_of = {
    i: COLOURS.index(a) for q, a, i in zip(questions, answers, images, strict=True) if a in COLOURS
  }
  chosen = sorted(colour_of)[:n]
  pixels = np.stack([np.asarray(Image.open(paths[i]).convert('RGB'))[::2, ::2] for i in chosen])
  return pixels, np.array([colour_of[i] for i in chosen], np.int32)


def questions(split: str, n: int) -> dict[str, list]:
  """Questions as texts, each with the kind of its answer."""
  texts, answers, _ = easy_vqa.get_train_questions() if split == 'train' else easy_vqa.get_test_questions()
  kinds = ['yes or no' if a in ('yes', 'no') else 'colour' if a in COLOURS else 'shape' for a in answers]
  return {'text': list(texts[:n]), 'label': kinds[:n]}


def picture_folder(folder: Path, n: int) -> Path:
  """A folder of class folders of PNG files."""
  for i, (pixels, label) in enumerate(zip(*pictures('train', n), strict=True)):
    path = folder / COLOURS[label] / f'{i}.png'
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
  return folder


def tone_folder(folder: Path, n: int) -> Path:
  """A folder of class folders of WAV files: half a second of a low, a middle or a high tone in noise."""
  rng, time = np.random.default_rng(0), np.arange(4000) / 8000
  for i in range(n):
    name, hertz = (('low', 220), ('middle', 440), ('high', 880))[i % 3]
    tone = np.sin(2 * np.pi * hertz * rng.uniform(0.9, 1.1) * time) + rng.normal(0, 1, time.shape)
    path = folder / name / f'{i}.wav'
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, 8000, (tone * 4000).astype(np.int16))
  return folder
