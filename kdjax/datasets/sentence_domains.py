"""Sentiment of sentences from several domains: learnt from film reviews, asked about others."""

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdjax import registry
from kdjax.errors import KdjaxError
from kdjax.input.splits import Subset
from kdjax.options import Name
from kdjax.runtime import files
from kdjax.types import DataSet

DOMAINS = ('amazon_cells', 'imdb', 'yelp')
SUFFIX = '_labelled.txt'


class Sentences(Sequence):
  """Sentences with a label and the domain that they are from."""

  def __init__(self, rows: Sequence[tuple[str, int, int]]):
    self.rows = rows

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    text, label, domain = self.rows[index]
    return {'text': text, 'label': label, 'domain': domain, 'id': int(index)}


def read(path: Path) -> list[tuple[str, int]]:
  """(sentence, 0 or 1) of each line, a tab between them.

  Raises:
    KdjaxError: if the file is missing or of another form.
  """
  try:
    lines = files.regular_file(path, 'file of sentences').read_text(encoding='utf-8').split('\n')
  except (OSError, UnicodeDecodeError) as e:
    raise KdjaxError(f'cannot read the sentences {path} ({files.first_line(e)}).') from e
  rows = [line.rpartition('\t') for line in lines if line.strip()]
  for number, (text, _, label) in enumerate(rows, 1):
    if not text.strip() or label.strip() not in ('0', '1'):
      raise KdjaxError(f'{path}, line {number}: it is not a sentence, a tab, and 0 or 1.')
  return [(text.strip(), int(label)) for text, _, label in rows]


def sentence_domains(
  *, data_dir: str | None = None, path: str = '', source: Name = 'glue/sst2', download: bool = False
) -> DataSet:
  """`text` and whether it is positive: trained on film reviews, tested on products, films and restaurants.

  'train', 'validation' and 'source_test' are the splits of SST-2 (Socher et al., 2013); where its test has no
  labels, its validation is the test, and a tenth of train is for validation. 'test' has 3,000
  sentences of Kotzias et al. (KDD 2015), with a 'domain' each; those that stand twice are there once.

  Args:
    data_dir: where TFDS keeps prepared data; `~/tensorflow_datasets` by default.
    path: the folder of amazon_cells_labelled.txt, imdb_labelled.txt and yelp_labelled.txt.
    source: the data set of TFDS to train on, of two classes, negative and positive.
    download: whether TFDS may download what is not prepared.

  Raises:
    KdjaxError: if a file is missing or of another form.
  """
  if not path:
    raise KdjaxError('sentence_domains: set --config.data.path to the folder of its .txt files.')
  paths = [Path(path) / f'{name}{SUFFIX}' for name in DOMAINS]
  rows = [(text, label, domain) for domain, p in enumerate(paths) for text, label in dict(read(p)).items()]
  rows.sort(key=lambda row: zlib.crc32(row[0].encode()))
  reviews = registry.make('data', 'tfds', {'builder': source, 'data_dir': data_dir, 'download': download})
  splits = {'source_test' if k == 'test' else k: v for k, v in reviews.splits.items()}
  if int(splits['source_test'][0].get('label', 0)) < 0:  # GLUE keeps the labels of its test
    number = np.arange(len(splits['train']))
    held_out = number % 10 == 9
    parts = {'train': Subset(splits['train'], number[~held_out])}
    parts['validation'] = Subset(splits['train'], number[held_out])
    splits = parts | {'source_test': splits['validation']}
  mark = files.fingerprint(reviews.fingerprint, rows)
  return reviews._replace(
    splits=splits | {'test': Sentences(rows)},
    classes=('negative', 'positive'),
    fingerprint=mark,
    domains=DOMAINS,
    files=(*reviews.files, *paths),
  )
