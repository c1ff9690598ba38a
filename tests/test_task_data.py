"""Data sets of tasks: who is in which split, what files of the original form give, what is refused."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.experiment import load
from kdjax.types import DataSet

RNG = np.random.default_rng(0)


def make(name, **options):
  return registry.make('data', name, options)


# UTD-MHAD


@pytest.fixture
def clips(tmp_path):
  """A .npz of 64 clips: 8 people, 4 actions, 2 trials."""
  subject, label = (x.ravel() for x in np.meshgrid(np.arange(1, 9), np.tile(np.arange(4), 2), indexing='ij'))
  arrays = {
    'video': RNG.integers(0, 255, (64, 16, 48, 48), np.uint8),
    'skeleton': RNG.standard_normal((64, 32, 60)).astype(np.float32),
    'inertial': (100 * RNG.standard_normal((64, 96, 6)) + subject[:, None, None]).astype(np.float32),
    'label': label.astype(np.int32),
    'subject': subject.astype(np.int32),
  }
  path = tmp_path / 'clips.npz'
  np.savez(path, **arrays)
  return path, arrays


def test_clips_are_split_by_person(clips):
  path, arrays = clips
  data = make('utd_mhad', path=str(path), validation_subjects=(7,))
  people = {s: {data.domains[e['domain']] for e in split} for s, split in data.splits.items()}
  assert people['train'] == {'subject 1', 'subject 3', 'subject 5'} and people['validation'] == {'subject 7'}
  assert people['test'] == {f'subject {i}' for i in (2, 4, 6, 8)}
  example = data.splits['train'][0]
  assert example['video'].shape == (16, 48, 48, 1) and example['inertial'].shape == (96, 6)
  np.testing.assert_array_equal(example['video'][..., 0], arrays['video'][example['id']])
  np.testing.assert_array_equal(example['inertial'], arrays['inertial'][example['id']])


def test_clips_of_the_authors_files(tmp_path):
  """A person of 40 × 20 pixels who comes closer, and joints that only move with the hip."""
  for subject in (1, 2):
    for action in (1, 2):
      stem = tmp_path / 'deep' / f'a{action}_s{subject}_t1'
      stem.parent.mkdir(exist_ok=True)
      depth = np.zeros((100, 120, 30))
      depth[30:70, 50:70] = np.linspace(3000, 2000, 30)
      joints = np.zeros((20, 3, 50)) + np.linspace(0, 5, 50)
      joints[2, 1] += 0.5  # the spine, above the hip
      savemat(f'{stem}_depth.mat', {'d_depth': depth})
      savemat(f'{stem}_skeleton.mat', {'d_skel': joints})
      savemat(f'{stem}_inertial.mat', {'d_iner': np.tile(np.arange(200.0)[:, None], (1, 6)) * subject})
  data = make('utd_mhad', path=str(tmp_path), train_subjects=(1,))
  assert [len(data.splits[s]) for s in ('train', 'test')] == [2, 2] and len(data.files) == 12
  example = data.splits['test'][1]
  assert example['label'] == 1 and data.domains[example['domain']] == 'subject 2'
  video = example['video'][..., 0].astype(int)
  assert video.shape == (16, 48, 48) and np.all(video[:, :, 0] == 0)  # beside the person
  middle = video[:, 24, 24]
  assert np.all(np.diff(middle) >= 0) and middle[0] < 90 and middle[-1] > 240
  inertial = example['inertial'][:, 0]
  np.testing.assert_allclose(np.diff(inertial, 2), 0, atol=1e-4)  # still a line


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({}, 'set --config.data.path'),
    ({'path': 'nowhere.npz'}, 'cannot read'),
    ({'train_subjects': (9,)}, 'no person 9'),
    ({'train_subjects': (1,), 'validation_subjects': (2,)}, 'no person 2 to train on'),
    ({'train_subjects': tuple(range(1, 9))}, 'somebody for the test'),
    ({'train_subjects': (1,), 'validation_subjects': (1,)}, 'somebody has to be left'),
  ],
)
def test_clips_that_are_refused(clips, options, message):
  with pytest.raises(KdjaxError, match=message):
    make('utd_mhad', **({'path': str(clips[0])} if options else {}) | options)


@pytest.mark.parametrize(
  ('kind', 'array'),
  [
    ('depth', np.zeros((4, 5))),
    ('skeleton', np.zeros((2, 3, 9))),
    ('inertial', np.zeros((0, 6))),
    ('inertial', np.zeros((9, 5))),
    ('skeleton', np.zeros((20, 3, 2_000_000), np.int8)),
  ],
)
def test_recordings_of_another_shape(tmp_path, kind, array):
  variable = {'depth': 'd_depth', 'skeleton': 'd_skel', 'inertial': 'd_iner'}[kind]
  savemat(tmp_path / f'a1_s1_t1_{kind}.mat', {variable: array}, do_compression=True)
  with pytest.raises(KdjaxError, match=f'{variable} is') as e:
    make('utd_mhad', path=str(tmp_path))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('change', ['label', 'skeleton', 'subject', 'all', 'scalar', 'text', 'float video'])
def test_arrays_of_another_set(clips, tmp_path, change):
  arrays = dict(clips[1])
  if change == 'label':
    arrays['label'] = arrays['label'] + 25
  elif change == 'skeleton':
    arrays['skeleton'] = arrays['skeleton'][:, :30]
  elif change == 'scalar':
    arrays['label'] = np.int32(3)
  elif change == 'text':
    arrays['subject'] = np.array(['x'] * 64)
  elif change == 'float video':
    arrays['video'] = arrays['video'].astype(np.float32)
  elif change == 'subject':
    del arrays['subject']
  else:
    arrays = {k: v for k, v in arrays.items() if k in ('label', 'subject')}
  np.savez(tmp_path / 'other.npz', **arrays)
  with pytest.raises(KdjaxError, match='utd_mhad') as e:
    make('utd_mhad', path=str(tmp_path / 'other.npz'))
  assert '\n' not in str(e.value)


def test_a_damaged_recording_is_named(tmp_path):
  (tmp_path / 'a1_s1_t1_inertial.mat').write_bytes(b'MATLAB 5.0 MAT-file' + bytes(200))
  with pytest.raises(KdjaxError, match='a1_s1_t1_inertial.mat'):
    make('utd_mhad', path=str(tmp_path))


# Images of several domains


@pytest.fixture
def domains(tmp_path):
  """60 pictures of two classes in each of three domains."""
  for domain in ('photo', 'cartoon', 'sketch'):
    for label in ('cat', 'dog'):
      folder = tmp_path / 'set' / domain / label
      folder.mkdir(parents=True)
      for i in range(30):
        Image.fromarray(RNG.integers(0, 255, (9, 8, 3), np.uint8)).save(folder / f'{i}.png')
  return tmp_path / 'set'


@pytest.mark.parametrize('packed', [False, True])
def test_no_label_and_no_test_image_of_the_target_is_in_training(domains, tmp_path, packed):
  path = domains
  if packed:
    files = sorted(domains.rglob('*.png'))
    parts = [np.frombuffer(f.read_bytes(), np.uint8) for f in files]
    path = tmp_path / 'set.npz'
    np.savez(
      path,
      jpeg=np.concatenate(parts),
      offset=np.cumsum([0, *map(len, parts)]),
      domain=[f.parts[-3] for f in files],
      label=[f.parts[-2] for f in files],
    )
  data = make('image_domains', path=str(path), target='sketch')
  content = {s: {e['image'].tobytes() for e in split} for s, split in data.splits.items()}
  assert not content['test'] & (content['transfer'] | content['train'])
  assert content['train'] < content['transfer'] and not content['train'] & content['source_test']
  sketch = data.domains.index('sketch')
  for split, examples in data.splits.items():
    of = {e['domain'] for e in examples}
    assert of == ({sketch} if split == 'test' else {0, 1, 2} if split == 'transfer' else {0, 1, 2} - {sketch})
    for e in examples:
      assert (e['label'] == -1) == (split == 'transfer' and e['domain'] == sketch)
  assert 15 < len(data.splits['test']) < 45
  assert data.splits['train'][0]['image'].shape == (9, 8, 3)
  whole = make('image_domains', path=str(path), target='sketch', unlabelled=0.0)
  assert len(whole.splits['test']) == 60 and len(whole.splits['transfer']) == len(whole.splits['train'])


def test_an_image_of_a_source_is_not_in_the_test(domains):
  for i, file in enumerate(sorted((domains / 'photo' / 'cat').glob('*.png'))):
    (domains / 'sketch' / 'cat' / f'copy{i}.png').write_bytes(file.read_bytes())
  data = make('image_domains', path=str(domains), target='sketch', unlabelled=0.0)
  content = {s: {e['image'].tobytes() for e in split} for s, split in data.splits.items()}
  assert not content['test'] & content['train'] and len(data.splits['test']) == 60


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'target': 'clipart'}, 'clipart'),
    ({'unlabelled': 1.0}, 'left for the test'),
    ({'path': 'x.npz'}, 'cannot read'),
  ],
)
def test_domains_that_are_refused(domains, options, message):
  with pytest.raises(KdjaxError, match=message):
    make('image_domains', **{'path': str(domains)} | options)


def test_offsets_that_lie_are_refused(tmp_path):
  arrays = {'jpeg': np.zeros(10, np.uint8), 'domain': ['a', 'b'], 'label': ['x', 'y']}
  for offset in ([0, 5], [0, 5, 11], [0, 5, 5], [-1, 5, 9], [0.0, 5.0, 9.0]):
    np.savez(tmp_path / 'x.npz', offset=np.array(offset), **arrays)
    with pytest.raises(KdjaxError, match='offsets'):
      make('image_domains', path=str(tmp_path / 'x.npz'), target='a')


# Statements


class Captions(list):
  """Like those of flickr8k: five of each of seven photos."""

  rows = [(photo, i) for photo in range(7) for i in range(5)]

  def __init__(self):
    super().__init__(
      {
        'image': np.full((2, 2, 3), photo, np.uint8),
        'text': f'{photo} {i}',
        'group': photo,
        'id': 5 * photo + i,
      }
      for photo, i in self.rows
    )


@pytest.mark.parametrize('captions', [1, 2, 5])
def test_neither_the_photo_nor_the_text_alone_tells(monkeypatch, captions):
  source = DataSet({'train': Captions(), 'test': Captions()}, (), 'mark')
  original = registry.make
  monkeypatch.setattr(registry, 'make', lambda k, n, o: source if n == 'flickr8k' else original(k, n, o))
  data = make('statements', captions=captions)
  examples = list(data.splits['test'])
  assert len(examples) == 2 * 7 * captions and data.classes == ('false', 'true')
  assert [e['id'] for e in examples] == list(range(len(examples)))
  for limit in (2, 4, 7 * captions):  # evenly spaced rows are as balanced
    some = load.limited(data, {'test': limit}).splits['test']
    assert np.mean([e['label'] for e in some]) == pytest.approx(0.5, abs=0.5 / limit)
  for e in examples:
    assert (e['text'].split()[0] == str(e['image'][0, 0, 0])) == bool(e['label'])
  for of in (lambda e: e['text'], lambda e: e['image'].tobytes()):
    for value in set(map(of, examples)):
      assert np.mean([e['label'] for e in examples if of(e) == value]) == 0.5


# OneCommon


DOT = '0.5 -0.25 0.6666666666666666 -1.0'
LINE = '<input> {dots} </input> <dialogue> {talk} <selection> </dialogue> <output> {chosen} </output>'


def dialogue(chosen, talk='YOU: the dark one ? <eos> THEM: yes <eos>', dots=7):
  return LINE.format(dots=' '.join([DOT] * dots), talk=talk, chosen=chosen)


def test_dialogues_and_their_dots(tmp_path):
  talks = [f'YOU: {i} dots ? <eos> THEM: yes {i} <eos>' for i in range(60)]
  other_side = [t.replace('YOU', '-').replace('THEM', 'YOU').replace('-', 'THEM') for t in talks]
  lines = [dialogue(i % 7, talk) for i, talk in enumerate(talks + other_side)]
  (tmp_path / 'onecommon_train_uncorrelated.txt').write_text('\n'.join(lines))
  (tmp_path / 'onecommon_valid_uncorrelated.txt').write_text(dialogue(3) + '\n\n')
  data = make('onecommon', path=str(tmp_path))
  example = data.splits['test'][0]
  assert example['text'] == 'YOU: the dark one ? THEM: yes' and example['label'] == 3
  assert example['dots'].shape == (7, 4) and example['dots'][0].tolist() == pytest.approx(
    [0.5, -0.25, 2 / 3, -1]
  )
  numbers = [{e['text'].split()[1] for e in data.splits[s]} for s in ('train', 'validation')]
  assert not numbers[0] & numbers[1] and len(numbers[0] | numbers[1]) == 60  # both sides are in one split
  dots = np.zeros((2, 7, 4))
  dots[0, 5, 3] = dots[1, 1, 3] = -0.5
  assert data.heuristics['darkest dot']({'dots': dots}).tolist() == [5, 1]


@pytest.mark.parametrize(
  'line', [dialogue(7), dialogue(0, dots=6), dialogue('x'), 'hello', dialogue(0).replace('0.5', 'nan')]
)
def test_a_line_of_another_form_is_named(tmp_path, line):
  for name in ('train', 'valid'):
    (tmp_path / f'onecommon_{name}_uncorrelated.txt').write_text(f'{dialogue(1)}\n{line}\n')
  with pytest.raises(KdjaxError, match='line 2'):
    make('onecommon', path=str(tmp_path))


def test_a_long_line_of_another_form_is_read_at_once(tmp_path):
  line = '<input> ' + '1 </input> <dialogue> ' * 20_000
  (tmp_path / 'onecommon_train_uncorrelated.txt').write_text(f'{dialogue(1)}\n{line}\n')
  with pytest.raises(KdjaxError, match='line 2'):
    make('onecommon', path=str(tmp_path))


# Sentences of several domains


def test_sentences_of_domains(tmp_path, monkeypatch):
  for name in ('amazon_cells', 'imdb', 'yelp'):
    (tmp_path / f'{name}_labelled.txt').write_text(
      f'Good\tone, {name}.  \t1\nBad\x85 {name}.\t0\nBad\x85 {name}.\t0\n'
    )
  labelled = [{'text': f'x{i}', 'label': i % 2, 'id': i} for i in range(20)]
  films = DataSet({'train': labelled, 'validation': labelled[:4], 'test': labelled[:2]}, ('a', 'b'), 'mark')
  original = registry.make
  monkeypatch.setattr(registry, 'make', lambda k, n, o: films if n == 'tfds' else original(k, n, o))
  data = make('sentence_domains', path=str(tmp_path))
  rows = sorted((data.domains[e['domain']], e['text'], e['label']) for e in data.splits['test'])
  assert len(rows) == 6 and rows[0] == ('amazon_cells', 'Bad\x85 amazon_cells.', 0)
  assert rows[1] == ('amazon_cells', 'Good\tone, amazon_cells.', 1)
  assert data.splits['source_test'] == labelled[:2] and data.classes == ('negative', 'positive')
  hidden = [{'text': 'x', 'label': -1, 'id': 0}]
  films = films._replace(splits=films.splits | {'test': hidden})  # as GLUE has it
  splits = make('sentence_domains', path=str(tmp_path)).splits
  assert (
    splits['source_test'] == labelled[:4] and len(splits['train']) == 18 and len(splits['validation']) == 2
  )
  (tmp_path / 'yelp_labelled.txt').write_text('Fine.\t1\nno label\n')
  with pytest.raises(KdjaxError, match='line 2'):
    make('sentence_domains', path=str(tmp_path))
