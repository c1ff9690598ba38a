"""Sparse arrays as relative indices with filler zeros, and their sizes (1510.00149, figure 2)."""

from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Interval

from kdjax.compress import huffman

IndexBits = Annotated[int, Interval(ge=1, le=16)]


def default_index_bits(ndim: int) -> int:
  """The paper's: 8 in convolutions, 5 in dense layers."""
  return 8 if ndim > 2 else 5


def entries(symbols: np.ndarray, bits: IndexBits) -> tuple[np.ndarray, np.ndarray]:
  """(gaps i64 [E], their symbols i64 [E]) of symbols [N], where 0 is not stored.

  A gap, from 0 to 2^bits - 1, is one less than the distance to the entry before. Where that is larger, an
  entry of symbol 0, a filler, stands 2^bits further.
  """
  at = np.flatnonzero(symbols)
  skipped, reach = np.diff(at, prepend=-1) - 1, 1 << bits
  fillers = skipped // reach
  last = np.cumsum(fillers + 1) - 1
  gaps = np.full(int(last[-1]) + 1 if len(last) else 0, reach - 1, np.int64)
  out = np.zeros(len(gaps), np.int64)
  gaps[last], out[last] = skipped % reach, symbols[at]
  return gaps, out


def dense(gaps: np.ndarray, symbols: np.ndarray, size: int) -> np.ndarray:
  """The inverse of `entries`: i64 [size]. Raises ValueError for an entry beyond the end."""
  at = np.cumsum(gaps + 1) - 1
  if len(at) and at[-1] >= size:
    raise ValueError('an entry lies outside of its array')
  out = np.zeros(size, np.int64)
  out[at] = symbols
  return out


def ordered(x: np.ndarray, transposed: bool) -> np.ndarray:
  """The array flat: in C order, or with `transposed` an output, of the last axis, after the other."""
  return (np.moveaxis(x, -1, 0) if transposed else x).reshape(-1)


def restored(flat: np.ndarray, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
  """The inverse of `ordered`."""
  if not transposed:
    return flat.reshape(shape)
  return np.ascontiguousarray(np.moveaxis(flat.reshape(shape[-1:] + shape[:-1]), 0, -1))


class Size(NamedTuple):
  """What a layer takes, as tables 2 and 3 of the paper count: no bias, and all 2^bits centroids in float32.

  Attributes:
    weights: of the layer.
    kept: of these, those that are not 0.
    entries: kept, and filler zeros.
    weight_bits, index_bits: of an entry, fixed.
    weight_bits_coded, index_bits_coded: the same by Huffman's code, on average over the entries.
    bits, bits_coded: of the whole layer, with the codebook, without and with Huffman's code.
  """

  weights: int
  kept: int
  entries: int
  weight_bits: float
  index_bits: float
  weight_bits_coded: float
  index_bits_coded: float
  bits: float
  bits_coded: float

  def measures(self) -> dict[str, float]:
    """The columns of the paper's tables, the shares in per cent of 32 bits a weight."""
    whole = 32 * max(self.weights, 1)
    return {
      'kept': 100 * self.kept / max(self.weights, 1),
      'fillers': 100 * (self.entries - self.kept) / max(self.kept, 1),
      'weight bits': self.weight_bits,
      'weight bits, Huffman': self.weight_bits_coded,
      'index bits': self.index_bits,
      'index bits, Huffman': self.index_bits_coded,
      'P+Q': 100 * self.bits / whole,
      'P+Q+H': 100 * self.bits_coded / whole,
    }


def size(index: np.ndarray, bits: int, index_bits: int = 0, transposed: bool = True) -> Size:
  """The size of a layer of shared weights.

  Args:
    index: of the centroids, 0 where a weight is pruned, as `share.share` gives it.
    bits: of a weight.
    index_bits: of an index; 0 for the paper's, see `default_index_bits`.
    transposed: the order of the weights, see `ordered`.
  """
  index = np.asarray(index)
  k = index_bits or default_index_bits(index.ndim)
  gaps, symbols = entries(ordered(index, transposed), k)
  n, codebook = len(gaps), 32 * 2**bits
  coded = (
    [float(np.sum(c * huffman.lengths(c))) for c in map(np.bincount, (symbols, gaps))] if n else [0.0] * 2
  )
  return Size(
    weights=index.size,
    kept=int(np.count_nonzero(index)),
    entries=n,
    weight_bits=bits,
    index_bits=k,
    weight_bits_coded=coded[0] / max(n, 1),
    index_bits_coded=coded[1] / max(n, 1),
    bits=n * (bits + k) + codebook,
    bits_coded=sum(coded) + codebook,
  )


def together(sizes: Mapping[str, Size]) -> Size:
  """The size of a network of these layers; bits are means over the entries."""
  every = list(sizes.values())
  n = max(sum(s.entries for s in every), 1)

  def mean(of):
    return sum(of(s) * s.entries for s in every) / n

  return Size(
    weights=sum(s.weights for s in every),
    kept=sum(s.kept for s in every),
    entries=sum(s.entries for s in every),
    weight_bits=mean(lambda s: s.weight_bits),
    index_bits=mean(lambda s: s.index_bits),
    weight_bits_coded=mean(lambda s: s.weight_bits_coded),
    index_bits_coded=mean(lambda s: s.index_bits_coded),
    bits=sum(s.bits for s in every),
    bits_coded=sum(s.bits_coded for s in every),
  )
