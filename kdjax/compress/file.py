"""Weights in one file, `.kdz`: sparse, by codebooks, in Huffman's code, and bit for bit the same when read.

Layout, little-endian: b'KDZ1', u32 the length of the header, the header (JSON, deflated), the payload, and
the SHA-256 of all before it. An array is raw, or a codebook and two streams: the gaps between its entries and
their symbols, 0 for a filler. For each array what takes the fewest bytes is chosen, also of two orders of its
weights. Nothing in a file is executed, and nothing is allocated beyond `most`.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from kdjax.compress import huffman, sparse
from kdjax.compress.tree import flat, nested
from kdjax.errors import KdjaxError
from kdjax.options import check
from kdjax.runtime import files

MAGIC = b'KDZ1'
MOST = 2**32  # bytes to read a file
HEADER = 2**24  # bytes of a header
KINDS = (
  'float32',
  'float16',
  'float64',
  *(f'{sign}int{n}' for sign in ('', 'u') for n in (8, 16, 32, 64)),
  'bool',
)
DTYPES = {name: np.dtype(name) for name in KINDS} | {'bfloat16': np.dtype(ml_dtypes.bfloat16)}
CONSTANT, FIXED, HUFFMAN = range(3)  # codes of a stream
LENGTH_BITS = 5  # of a code's length
RAW = -1  # index bits of an array that is not sparse
SCHEMA = {'arrays': [list], 'meta': dict}


class Array(NamedTuple):
  """An array in the header.

  Attributes:
    name: its path, joined by '/'.
    dtype, shape: of the array.
    index_bits: of its gaps; `RAW` where it is raw.
    transposed: 1 for an output after the other.
    codebook: how many values.
    streams: of gaps and symbols, each [code, symbols, size of the alphabet, bytes, places].
  """

  name: str
  dtype: str
  shape: list
  index_bits: int = RAW
  transposed: int = 0
  codebook: int = 0
  streams: list = []


ARRAY = dict(zip(Array._fields, (str, str, [int], int, int, int, [list]), strict=True))


def write(
  path: Path, variables: Mapping, *, meta: Mapping | None = None, index_bits: Mapping[str, int] | None = None
) -> int:
  """Writes variables, atomically, and returns the size of the file in bytes.

  Args:
    path: the file.
    variables: nested dicts of arrays, as `parametrize.folded` gives them: shared weights are equal values.
    meta: plain JSON to keep with them, such as the model's config.
    index_bits: path -> bits of its gaps, from 1 to 16; the paper's for the others.

  Raises:
    KdjaxError: for an array of a type that no file has, names with '/', or a file that cannot be written.
  """
  arrays, payload = [], []
  for keys, x in flat(jax.device_get(variables)).items():
    name, x = '/'.join(map(str, keys)), np.asarray(x)
    if str(x.dtype) not in DTYPES or any('/' in str(k) for k in keys):
      raise KdjaxError(
        f'{name!r}, {x.dtype}, cannot be stored: types are {", ".join(DTYPES)}, no "/" in a name.'
      )
    bits = check((index_bits or {}).get(name, sparse.default_index_bits(x.ndim)), sparse.IndexBits, name)
    entry, data = _smallest(name, x, bits)
    arrays.append(entry)
    payload.append(data)
  text = json.dumps({'arrays': arrays, 'meta': dict(meta or {})}, separators=(',', ':'))
  header = zlib.compress(text.encode(), 9)
  whole = b''.join([MAGIC, len(header).to_bytes(4, 'little'), header, *payload])
  try:
    with files.swapped_in(Path(path)) as part:
      part.write_bytes(whole + hashlib.sha256(whole).digest())
  except OSError as e:
    raise KdjaxError(f'cannot write {path} ({files.first_line(e)}).') from e
  return len(whole) + 32


def _smallest(name: str, x: np.ndarray, bits: int) -> tuple[Array, bytes]:
  """The array in the form that takes the fewest bytes."""
  same = str(x.dtype), list(x.shape)
  raw = np.ascontiguousarray(x).astype(x.dtype.newbyteorder('<'), copy=False).tobytes()
  best = Array(name, *same), raw
  patterns = np.frombuffer(raw, f'<u{x.dtype.itemsize}')  # -0.0, and every NaN, as they are
  values = np.unique(patterns)
  values = values[values != 0]
  if len(values) >= 2**16 or (len(values) * 2 > len(patterns) > 0):
    return best
  index = np.where(patterns == 0, 0, np.searchsorted(values, patterns) + 1).reshape(x.shape)
  for transposed in range(2 if x.ndim > 1 else 1):
    gaps, symbols = sparse.entries(sparse.ordered(index, bool(transposed)), bits)
    streams = [_stream(gaps), _stream(symbols)]
    data = b''.join((values.tobytes(), *(part for _, part in streams)))
    if len(data) < len(best[1]):
      best = Array(name, *same, bits, transposed, len(values), [s for s, _ in streams]), data
  return best


def _stream(symbols: np.ndarray) -> tuple[list, bytes]:
  """([code, symbols, alphabet, bytes, places], data): constant, of fixed width, or Huffman's, the least."""
  n, alphabet = len(symbols), int(symbols.max(initial=0)) + 1
  if n == 0 or symbols.min() == symbols.max():
    return [CONSTANT, n, alphabet, 0, []], b''
  bits = huffman.lengths(np.bincount(symbols))
  table = huffman.packed(bits.astype(np.int64), np.full(alphabet, LENGTH_BITS))
  coded, places = huffman.encode(symbols, bits)
  fixed = huffman.packed(symbols, np.full(n, (alphabet - 1).bit_length()))
  if len(fixed) <= len(table) + len(coded) + 8 * len(places):
    return [FIXED, n, alphabet, len(fixed), []], fixed
  return [HUFFMAN, n, alphabet, len(table) + len(coded), places], table + coded


def read(path: Path, most: int = MOST) -> tuple[dict[str, Any], dict[str, Any]]:
  """(variables as nested dicts of NumPy arrays, `meta`) of a file that `write` wrote.

  Args:
    path: the file.
    most: bytes of the file, and of the memory that its arrays and their decoding take.

  Raises:
    KdjaxError: if it is missing, damaged, of another kind, or larger.
  """
  try:
    whole = files.regular_file(path, 'compressed model', most).read_bytes()
    header, payload = _checked(whole)
    return _arrays(header['arrays'], payload, most), header['meta']
  except OSError as e:
    raise KdjaxError(f'cannot read {path} ({files.first_line(e)}).') from e
  except (ValueError, zlib.error, OverflowError) as e:
    raise KdjaxError(f'cannot read {path} ({files.first_line(e)}): it is damaged, or no .kdz file.') from e


def _checked(whole: bytes) -> tuple[dict, memoryview]:
  """The header and the payload of a file whose checksum is right."""
  if whole[:4] != MAGIC or len(whole) < 40:
    raise ValueError(f'it does not begin with {MAGIC.decode()}')
  if hashlib.sha256(whole[:-32]).digest() != whole[-32:]:
    raise ValueError('its checksum is another')
  end = 8 + int.from_bytes(whole[4:8], 'little')
  if end > len(whole) - 32:
    raise ValueError('its header is longer than the file')
  inflate = zlib.decompressobj()
  text = inflate.decompress(whole[8:end], HEADER)
  if not inflate.eof:
    raise ValueError('its header is cut off, or too long')
  header = files.parse(text)
  if wrong := files.misfit(header, SCHEMA):
    raise ValueError(wrong)
  return header, memoryview(whole)[end:-32]


def _arrays(entries: list, payload: memoryview, most: int) -> dict:
  out, folders, at, total = {}, set(), 0, 0
  for fields in entries:
    entry = _entry(fields)
    keys = tuple(entry.name.split('/'))
    size = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
    total += size
    if entry.index_bits != RAW:  # an index of each weight, and gap, symbol and place of each entry
      total += 8 * math.prod(entry.shape) + 24 * entry.streams[0][1]
    if total > most:
      raise ValueError(f'reading it takes more than {most:,} bytes; read(most=...) allows more')
    above = {keys[:i] for i in range(1, len(keys))}
    if keys in out or keys in folders or above & out.keys():
      raise ValueError(f'{entry.name!r} is in it twice, or is a folder of another array')
    folders |= above
    codebook = entry.codebook * DTYPES[entry.dtype].itemsize
    parts = [size] if entry.index_bits == RAW else [codebook, *(s[3] for s in entry.streams)]
    if sum(parts) > len(payload) - at:
      raise ValueError('its payload is too short')
    ends = [at, *(at + int(n) for n in np.cumsum(parts))]
    chunks = [bytes(payload[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    out[keys], at = _array(entry, chunks), ends[-1]
  if at != len(payload):
    raise ValueError('its payload is too long')
  return nested(out)


def _entry(fields: list) -> Array:
  """The record of an array, every number of it in its range."""
  if len(fields) != len(Array._fields):
    raise ValueError(f'an array has {len(fields)} fields')
  if wrong := files.misfit(dict(zip(Array._fields, fields, strict=True)), ARRAY, 'an array'):
    raise ValueError(wrong)
  entry = Array(*fields)
  if entry.dtype not in DTYPES:
    raise ValueError(f'{entry.name!r} has the type {entry.dtype!r}')
  if len(entry.shape) > 16 or any(not 0 <= n < 2**40 for n in entry.shape):
    raise ValueError(f'{entry.name!r} has no possible shape')
  if entry.index_bits == RAW:
    return entry
  if not (1 <= entry.index_bits <= 16 and 0 <= entry.codebook < 2**16 and entry.transposed in (0, 1)):
    raise ValueError(f'{entry.name!r} has no possible codebook or indices')
  schema = {'code': int, 'n': int, 'alphabet': int, 'bytes': int, 'places': [int]}
  limits = 2**entry.index_bits, entry.codebook + 1
  if len(entry.streams) != 2 or any(len(s) != len(schema) for s in entry.streams):
    raise ValueError(f'{entry.name!r} has not two streams')
  for stream, limit in zip(entry.streams, limits, strict=True):
    if wrong := files.misfit(dict(zip(schema, stream, strict=True)), schema, 'a stream'):
      raise ValueError(wrong)
    code, n, alphabet, size, _ = stream
    if not (code in (0, 1, 2) and 0 <= n <= math.prod(entry.shape) and 1 <= alphabet <= limit and size >= 0):
      raise ValueError(f'{entry.name!r} has a stream of impossible numbers')
  if entry.streams[0][1] != entry.streams[1][1]:
    raise ValueError(f'{entry.name!r} has other numbers of gaps and of symbols')
  return entry


def _array(entry: Array, chunks: list[bytes]) -> np.ndarray:
  dtype, shape = DTYPES[entry.dtype], tuple(entry.shape)
  if entry.index_bits == RAW:
    return np.frombuffer(chunks[0], dtype.newbyteorder('<')).astype(dtype).reshape(shape)
  values = np.frombuffer(chunks[0], f'<u{dtype.itemsize}').astype(f'u{dtype.itemsize}')
  gaps, symbols = (_symbols(s, data) for s, data in zip(entry.streams, chunks[1:], strict=True))
  index = sparse.dense(gaps, symbols, math.prod(shape))
  x = np.concatenate([np.zeros(1, values.dtype), values])[index].view(dtype)
  return sparse.restored(x, shape, bool(entry.transposed)) if x.size else x.reshape(shape)


def _symbols(stream: list, data: bytes) -> np.ndarray:
  code, n, alphabet, _, places = stream
  if code == CONSTANT:
    return np.full(n, alphabet - 1, np.int64)
  if code == FIXED:
    symbols = huffman.unpacked(data, n, (alphabet - 1).bit_length())
  else:
    end = -(-alphabet * LENGTH_BITS // 8)
    bits = huffman.unpacked(data[:end], alphabet, LENGTH_BITS).astype(np.uint8)
    symbols = huffman.decode(data[end:], n, bits, places)
  if symbols.max(initial=0) >= alphabet:
    raise ValueError('a symbol lies outside of its alphabet')
  return symbols
