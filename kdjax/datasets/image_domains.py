"""Images of the same classes from several domains, one of them without labels: PACS, Office-Home …"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax.errors import KdjaxError, unknown
from kdjax.input import class_folders, draw, images, numpy_arrays
from kdjax.input.content import marks
from kdjax.options import Name, Share
from kdjax.runtime import files
from kdjax.types import DataSet


class Picture(NamedTuple):
  """An image, its domain and its class; `mark` is a hash of its content."""

  source: Path | bytes
  domain: str
  label: str
  mark: str


def from_folder(root: Path) -> list[Picture]:
  """The images of DOMAIN/CLASS/FILE.

  Raises:
    KdjaxError: if the folder holds something else.
  """
  listed = []
  for domain in class_folders.folders(root):
    key, found = class_folders.listed(root / domain)
    if key != 'image':
      raise KdjaxError(f'{root / domain} has sounds; image_domains reads DOMAIN/CLASS/IMAGE.')
    listed += [(f.path, domain, f.label) for f in found]
  hashes = marks([path for path, _, _ in listed])
  return [Picture(p, domain, label, mark) for (p, domain, label), mark in zip(listed, hashes, strict=True)]


def from_arrays(path: Path) -> list[Picture]:
  """The images of a .npz: 'jpeg' u8, all files in a row, 'offset' [N + 1], 'domain' and 'label' [N] of texts.

  Raises:
    KdjaxError: if it holds something else.
  """
  arrays = numpy_arrays.read_npz(path, 'file of images', 100)
  if missing := {'jpeg', 'offset', 'domain', 'label'} - arrays.keys():
    raise KdjaxError(f'{path} has no array {sorted(missing)[0]!r}: it has {", ".join(arrays)}.')
  domains, labels = np.atleast_1d(arrays['domain']), np.atleast_1d(arrays['label'])
  parts = numpy_arrays.packed_files(arrays, path, len(labels))
  if len(domains) != len(labels):
    raise KdjaxError(f'{path}: it has {len(labels):,} labels and {len(domains):,} domains.')
  return [
    Picture(part, str(domain), str(label), files.fingerprint(part.hex()))
    for part, domain, label in zip(parts, domains, labels, strict=True)
  ]


class Pictures(Sequence):
  """Some of the images, decoded on demand; without labels where `labelled` says so."""

  def __init__(self, pictures: Sequence[Picture], rows: Sequence[int], names: Any, hidden: str = ''):
    self.pictures, self.rows, self.hidden = pictures, rows, hidden
    self.domains, self.classes = names

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    row = int(self.rows[index])
    source, domain, label, _ = self.pictures[row]
    where = str(source) if isinstance(source, Path) else f'image {row}'
    known = -1 if domain == self.hidden else self.classes.index(label)
    return {
      'image': images.from_source(source, where),
      'label': known,
      'domain': self.domains.index(domain),
      'id': row,
    }


def image_domains(*, path: str = '', target: Name = 'sketch', unlabelled: Share = 0.5) -> DataSet:
  """Classification of images of a domain without labels, from others that have them; 'domain' says which.

  The domains other than the target are split 8 : 1 : 1, within each class, into 'train', 'validation' and
  'source_test'. Of the target a share is in 'transfer', with 'train', without labels; all the rest of it is
  'test'. No label of the target and none of its test images is seen in training. Files of the same content
  are in one split; those of the target that another domain has too are left out.

  Args:
    path: a folder DOMAIN/CLASS/IMAGE, as PACS (Li et al., 2017) or Office-Home have it, or a .npz of JPEG
      files: 'jpeg' u8, 'offset' [N + 1], 'domain' and 'label' [N] of texts.
    target: the domain without labels.
    unlabelled: the share of its images that is in 'transfer'; 0 tests on all of it, as the published protocol
      of leaving one domain out does.

  Raises:
    KdjaxError: for another kind of file, or a domain that is not there.
  """
  if not path:
    raise KdjaxError('image_domains: set --config.data.path to a folder DOMAIN/CLASS/IMAGE, or to a .npz.')
  root = Path(path)
  pictures = from_folder(root) if root.is_dir() else from_arrays(root)
  domains, classes = tuple(sorted({p.domain for p in pictures})), tuple(sorted({p.label for p in pictures}))
  if target not in domains:
    raise unknown('domain', target, domains)
  if len(domains) < 2:
    raise KdjaxError(f'{root} has the domain {target} alone: another one has to have labels.')
  source = [i for i, p in enumerate(pictures) if p.domain != target]
  kinds = [f'{pictures[i].domain}/{pictures[i].label}' for i in source]
  drawn = draw.within_classes([pictures[i].mark for i in source], kinds)
  rows = {
    s: [i for i, d in zip(source, drawn, strict=True) if d == s] for s in ('train', 'validation', 'test')
  }
  rows['source_test'] = rows.pop('test')
  seen = {pictures[i].mark for i in source}
  of_target = [i for i, p in enumerate(pictures) if p.domain == target and p.mark not in seen]
  unseen = [int(pictures[i].mark, 16) % 1000 >= 1000 * unlabelled for i in of_target]
  rows['transfer'] = rows['train'] + [i for i, u in zip(of_target, unseen, strict=True) if not u]
  rows['test'] = [i for i, u in zip(of_target, unseen, strict=True) if u]
  if not rows['test']:
    raise KdjaxError(f'image_domains: no image of {target} is left for the test: lower unlabelled.')
  rows = {s: r for s, r in rows.items() if r or s not in ('validation', 'source_test')}
  splits = {s: Pictures(pictures, r, (domains, classes), target * (s == 'transfer')) for s, r in rows.items()}
  mark = files.fingerprint([p[1:] for p in pictures], {s: list(r) for s, r in rows.items()})
  named = [p.source for p in pictures if isinstance(p.source, Path)] or [root]
  return DataSet(splits, classes, mark, domains=domains, files=tuple(named))
