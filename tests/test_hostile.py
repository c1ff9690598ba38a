"""Files from strangers: none runs anything, hangs, or takes more memory than its size bears out."""

import os
import socket
from pathlib import Path

import pytest

from kdjax import array_pickle, checkpoint, files, sound, sources, tokenizer
from kdjax.data import image_text, manifest
from kdjax.errors import KdjaxError
from kdjax.pretrained import find, numpy_file, torch_file

READERS = {
  'image': lambda path: sources.read_image(path, 'here'),
  'sound': lambda path: sound.read_sound(path, 100, 'here'),
  'pickle': array_pickle.read,
  'safetensors': checkpoint.read,
  'torch': torch_file.read,
  'npz': numpy_file.read,
  'tokenizer': tokenizer.load,
  'checkpoint': lambda path: find.files(str(path)),
  'table': manifest.rows,
  'pairs': image_text.Lines,
}


def refused(read, path, *parts):
  """The one line that `read` says of a file."""
  with pytest.raises(KdjaxError) as caught:
    read(path)
  said = str(caught.value)
  assert '\n' not in said and len(said) < 2000
  assert all(part in said for part in parts), said
  return said


@pytest.mark.parametrize('kind', READERS)
def test_what_is_no_file_is_not_opened(tmp_path, kind):
  os.mkfifo(tmp_path / 'pipe')
  refused(READERS[kind], tmp_path / 'pipe', 'is a pipe')
  (tmp_path / 'link').symlink_to('pipe')
  refused(READERS[kind], tmp_path / 'link', 'is a pipe')
  refused(READERS[kind], Path('/dev/zero'), 'is a device')
  refused(READERS[kind], Path('a\0b'), 'the name of no file')
  refused(READERS[kind], tmp_path / ('a' * 300))
  if kind != 'checkpoint':
    refused(READERS[kind], tmp_path, 'is a folder')


def test_a_file_has_a_kind_and_a_size(tmp_path, monkeypatch):
  path = tmp_path / 'a'
  path.write_bytes(b'abc')
  assert files.regular_file(path, most=3) == path
  refused(lambda p: files.regular_file(p, 'list', most=2), path, 'has 3 bytes, and a list has at most 2')
  with pytest.raises(FileNotFoundError):
    files.regular_file(tmp_path / 'none')
  with socket.socket(socket.AF_UNIX) as server:
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    server.bind('s')
    refused(files.regular_file, Path('s'), 'is a socket')
