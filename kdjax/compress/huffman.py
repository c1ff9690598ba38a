"""Canonical Huffman codes of numbers, decoded many blocks at a time (1510.00149, section 4)."""

import heapq
import math

import numpy as np

LONGEST = 16  # bits of a code
BLOCK = 4096  # symbols between two known places in the bits


def lengths(counts: np.ndarray) -> np.ndarray:
  """The bits of each symbol's code, u8 [K], 0 for one of no count; a lone symbol has 1.

  Optimal, but for the limit of 16 bits: where a code would be longer, counts are halved until none is.

  Args:
    counts: of each symbol, [K], at most 2^16 symbols.
  """
  counts, out = np.asarray(counts, np.int64).copy(), np.zeros(len(counts), np.uint8)
  used = np.flatnonzero(counts)
  if len(used) == 1:
    out[used] = 1
  while len(used) > 1:
    parent = np.zeros(2 * len(used) - 1, np.int64)
    heap = [(int(c), i) for i, c in enumerate(counts[used])]
    heapq.heapify(heap)
    for node in range(len(used), 2 * len(used) - 1):
      (a, i), (b, j) = heapq.heappop(heap), heapq.heappop(heap)
      parent[[i, j]] = node
      heapq.heappush(heap, (a + b, node))
    depth = np.zeros(len(parent), np.int64)
    for node in range(len(parent) - 2, -1, -1):
      depth[node] = depth[parent[node]] + 1
    out[used] = np.minimum(depth[: len(used)], 255)
    if out.max() <= LONGEST:
      break
    counts[used] = (counts[used] + 1) // 2
  return out


def codes(bits: np.ndarray) -> np.ndarray:
  """The canonical code of each symbol, i64 [K]: shorter ones first, then by symbol.

  Raises:
    ValueError: if no prefix code has these lengths, or one is above 16.
  """
  out, code, before = np.zeros(len(bits), np.int64), 0, 0
  used = np.flatnonzero(bits)
  if len(used) and int(np.max(bits)) > LONGEST:
    raise ValueError(f'a code has {int(np.max(bits))} bits')
  for symbol in used[np.argsort(bits[used], kind='stable')]:
    code = (code << (int(bits[symbol]) - before)) if before else 0
    before = int(bits[symbol])
    if code >> before:
      raise ValueError('the code lengths are no prefix code')
    out[symbol], code = code, code + 1
  return out


def packed(values: np.ndarray, bits: np.ndarray) -> bytes:
  """Numbers one after the other, each in so many bits, the highest first; 0 fills up the last byte."""
  ends = np.cumsum(bits, dtype=np.int64)
  out = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
  for bit in range(int(np.max(bits, initial=0))):
    has = np.flatnonzero(bits > bit)
    out[ends[has] - 1 - bit] = (values[has] >> bit) & 1
  return np.packbits(out).tobytes()


def unpacked(data: bytes, n: int, bits: int) -> np.ndarray:
  """n numbers of so many bits each, i64 [n]. Raises ValueError where the bytes are too few."""
  if len(data) * 8 < n * bits:
    raise ValueError('it ends too early')
  flat = np.unpackbits(np.frombuffer(data, np.uint8), count=n * bits).reshape(n, bits)
  return flat.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


def encode(symbols: np.ndarray, bits: np.ndarray) -> tuple[bytes, list[int]]:
  """(bits, the place of every `BLOCK`-th symbol) of symbols [N] in the code of these lengths."""
  each = bits[symbols].astype(np.int64)
  places = np.cumsum(each)[BLOCK - 1 : -1 : BLOCK] if len(each) else each
  return packed(codes(bits)[symbols], each), places.tolist()


def decode(data: bytes, n: int, bits: np.ndarray, places: list[int]) -> np.ndarray:
  """The inverse of `encode`, i64 [n]; all blocks go on together, a symbol at a time.

  Raises:
    ValueError: for bits that are no such code.
  """
  blocks = math.ceil(n / BLOCK)
  if len(places) != max(blocks - 1, 0):
    raise ValueError(f'{len(places)} places for {blocks} blocks')
  code, longest = codes(bits), int(np.max(bits, initial=0))
  table = np.full(1 << longest, -1, np.int64)
  for symbol in np.flatnonzero(bits):
    free = longest - int(bits[symbol])
    table[int(code[symbol]) << free : (int(code[symbol]) + 1) << free] = symbol
  raw = np.frombuffer(data + bytes(4), np.uint8).astype(np.int64)
  at, last = np.array([0, *places], np.int64)[:blocks], 8 * len(data)
  if np.any(at < 0) or np.any(at > last):
    raise ValueError('a block lies outside of it')
  out = np.empty((blocks, BLOCK), np.int64)
  for i in range(min(BLOCK, n)):
    if i == n - (blocks - 1) * BLOCK:  # the last block has no more
      at = at[:-1]
    byte = at >> 3
    window = (raw[byte] << 16 | raw[byte + 1] << 8 | raw[byte + 2]) >> (24 - longest - (at & 7))
    symbol = table[window & ((1 << longest) - 1)]
    if symbol.min(initial=0) < 0:
      raise ValueError('its bits are no such code')
    out[: len(at), i] = symbol
    at = at + bits[symbol]
    if at.max(initial=0) > last:
      raise ValueError('it ends too early')
  return out.reshape(-1)[:n]
