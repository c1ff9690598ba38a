"""easy-vqa: questions about one coloured shape, 64×64 images, 13 answers; comes with pip."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from kdjax.errors import KdjaxError
from kdjax.input import tfds_source
from kdjax.runtime import files
from kdjax.runtime.progress import track
from kdjax.types import DataSet

SPLITS = ('train', 'validation', 'test')


def in_validation(image_id: int) -> bool:
  return image_id % 10 == 9


def installed_folder() -> Path:
  spec = importlib.util.find_spec('easy_vqa')
  if spec is None or spec.origin is None:
    raise KdjaxError('the data set easy_vqa is not installed: pip install easy-vqa')
  return Path(spec.origin).parent / 'data'


class EasyVqa(tfds.core.GeneratorBasedBuilder):
  """The pip package easy-vqa as ArrayRecord; the images go in as PNG bytes, with no TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='Visual question answering on one simple shape (Victor Zhou, 2019; MIT).',
      homepage='https://github.com/vzhou842/easy-VQA',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(64, 64, 3), encoding_format='png'),
          'question': tfds.features.Text(),
          'answer': tfds.features.ClassLabel(names=self.answers()),
          'image_id': np.int64,
        }
      ),
      supervised_keys=None,
    )

  @staticmethod
  def answers() -> list[str]:
    return sorted((installed_folder() / 'answers.txt').read_text().split())

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split):
    folder = installed_folder() / ('test' if split == 'test' else 'train')
    rows = json.loads((folder / 'questions.json').read_text())
    selected = [
      i
      for i, (_, _, image) in enumerate(rows)
      if split == 'test' or in_validation(image) == (split == 'validation')
    ]
    for i in track(selected, f'preparing easy_vqa {split}', len(selected)):
      question, answer, image = rows[i]
      path = str(folder / 'images' / f'{image}.png')
      yield i, {'image': path, 'question': question, 'answer': answer, 'image_id': image}


def easy_vqa(*, data_dir: str | None = None) -> DataSet:
  """Image, question and answer: 38,575 published training and 9,673 test questions.

  The questions of every tenth training image are the validation split, so that no image is
  in two splits. Licence: MIT.

  Args:
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
  """
  builder = tfds_source.prepare(lambda: EasyVqa(data_dir=data_dir, file_format='array_record'))

  def convert(record, index):
    return {
      'image': record['image'],
      'text': record['question'].decode(),
      'label': int(record['answer']),
      'id': index,
    }

  splits = {split: tfds_source.TfdsSource(builder, split, convert) for split in SPLITS}
  sizes = [(split, len(source)) for split, source in splits.items()]
  mark = files.fingerprint(builder.info.full_name, sizes)
  return DataSet(splits, tuple(EasyVqa.answers()), mark, 'MIT', files=tfds_source.files(builder))
