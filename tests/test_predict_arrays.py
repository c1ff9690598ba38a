"""`predict` about videos and other arrays: by flag, in a table, and what does not fit."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from kdjax.cli.predict import arrays
from kdjax.errors import KdjaxError
from kdjax.experiment import predict_files
from kdjax.experiment.predict import Predictor
from kdjax.experiment.predict import predictor as make_predictor
from kdjax.tasks.classification import classification

SHAPES = {'video': ((4, 8, 8, 1), 'uint8'), 'skeleton': ((6, 3), 'float32')}


@pytest.fixture
def predictor() -> Predictor:
  """Its classes are the mean of the first frame and of the last, and the sum of the skeleton."""
  interface = {
    'example': SHAPES,
    'inputs': {},
    'prompt_length': 0,
    'ranges': {},
    'classes': ('first', 'last', 'skeleton'),
    'rate': 0,
    'task': {'name': 'classification'},
  }

  def forward(batch):
    video = np.asarray(batch['video'], np.float32)
    first, last = (video[:, i].reshape(len(video), -1).mean(1) for i in (0, -1))
    return {'logits': np.stack([first, last, np.asarray(batch['skeleton']).sum((1, 2))], 1)}

  return dataclasses.replace(make_predictor(interface, None, forward), task=classification())


@pytest.fixture
def files(tmp_path):
  video = np.zeros((9, 16, 12, 3), np.uint8)
  video[-1] = 250
  np.save(tmp_path / 'clip.npy', video)
  frames = [Image.fromarray(frame) for frame in video]
  frames[0].save(tmp_path / 'clip.gif', save_all=True, append_images=frames[1:], duration=40)
  np.save(tmp_path / 'skeleton.npy', np.ones((6, 3), np.float32))
  np.save(tmp_path / 'nan.npy', np.full((6, 3), np.nan, np.float32))
  np.save(tmp_path / 'short.npy', np.ones((5, 3), np.float32))
  return tmp_path


@pytest.mark.parametrize('name', ['clip.npy', 'clip.gif'])
def test_a_video_by_flag(predictor, files, name):
  rows = predict_files.given(
    predictor, {'video': [str(files / name)], 'skeleton': [str(files / 'skeleton.npy')], 'text': []}
  )
  taps = predictor.outputs(rows.columns)
  np.testing.assert_allclose(taps['logits'], [[0, 250, 18]], atol=3)
  assert predict_files.readable(predictor) == ('video', 'skeleton')


def test_videos_and_arrays_of_a_table(predictor, files):
  table = files / 'rows.jsonl'
  cells = [{'video': 'clip.npy', 'skeleton': 'skeleton.npy'}, {'video': 'clip.gif', 'skeleton': ''}]
  table.write_text('\n'.join(map(json.dumps, cells)))
  answers = predictor.predict(predict_files.table(predictor, table).columns)
  assert [a[0][0] for a in answers] == ['last', 'last']


def test_a_sequence_with_a_mask_may_have_any_length(predictor, files):
  """As in training it is cut or filled up, and its mask says where it ends."""
  masks = []

  def forward(batch):
    masks.append(np.asarray(batch['skeleton/mask']).sum(-1).tolist())
    return {'logits': np.stack([np.asarray(batch['skeleton']).sum((1, 2))] * 3, 1)}

  example = predictor.example | {'skeleton/mask': np.zeros(6, bool)}
  masked = dataclasses.replace(predictor, example=example, forward=forward)
  table = files / 'rows.jsonl'
  cells = [{'skeleton': 'short.npy'}, {'skeleton': [[1, 2, 3]] * 8}, {'skeleton': '[[1, 1, 1]]'}]
  table.write_text('\n'.join(map(json.dumps, cells)))
  taps = masked.outputs(predict_files.table(masked, table).columns)
  assert masks == [[5, 6, 1]]
  np.testing.assert_allclose(taps['logits'][:, 0], [15, 36, 3])


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'skeleton': ['short.npy']}, r'skeleton is \[5, 3\], and the model reads \[6, 3\]'),
    ({'image': ['clip.gif']}, 'leave --image out'),
    ({'sensor': ['skeleton.npy']}, 'leave --array=sensor out'),
    ({'video': ['*.mp4']}, '--video: no file is named'),
    ({'skeleton': ['*.npz']}, '--array=skeleton: no file is named'),
    ({'video': ['short.npy']}, 'a video is uint8'),
    ({'skeleton': ['nan.npy']}, 'no array of finite numbers'),
    ({}, 'Give --video=… and --array=skeleton=…'),
  ],
)
def test_what_does_not_fit_is_one_line(predictor, files, values, message):
  with pytest.raises(KdjaxError, match=message):
    rows = predict_files.given(predictor, {k: [str(files / name) for name in v] for k, v in values.items()})
    predictor.predict(rows.columns)


def test_the_flag_of_arrays():
  assert arrays(['a=x.npy', 'b=y.npy', 'a=z=.npy']) == {'a': ['x.npy', 'z=.npy'], 'b': ['y.npy']}
  for value in ('a', '=x', 'a='):
    with pytest.raises(KdjaxError, match='NAME=FILE'):
      arrays([value])
