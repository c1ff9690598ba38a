"""Orthogonal matrices whose entries are all as large: Hadamard's, by Sylvester and Paley."""

import numpy as np


def _prime(n: int) -> bool:
  return n > 1 and all(n % i for i in range(2, int(n**0.5) + 1))


def _paley(q: int) -> np.ndarray:
  """The matrix [q, q] of Legendre's symbol of i - j modulo the prime q."""
  squares = {i * i % q for i in range(1, q)}
  symbol = np.array([0] + [1 if i in squares else -1 for i in range(1, q)])
  return symbol[(np.arange(q)[:, None] - np.arange(q)) % q]


def hadamard(n: int) -> np.ndarray | None:
  """A Hadamard matrix [n, n] of 1 and -1, H Hᵀ = n I; None where Sylvester and Paley know none."""
  if n == 1:
    return np.ones((1, 1))
  if n == 2:
    return np.array([[1.0, 1.0], [1.0, -1.0]])
  if n % 4:
    return None
  if _prime(n - 1):  # n - 1 is 3 modulo 4: I + S with S skew
    skew = np.zeros((n, n))
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1, -1, _paley(n - 1)
    return np.eye(n) + skew
  if _prime(n // 2 - 1) and n // 2 % 4 == 2:  # Paley's second: n / 2 - 1 is 1 modulo 4
    conference = np.ones((n // 2, n // 2))
    conference[0, 0], conference[1:, 1:] = 0, _paley(n // 2 - 1)
    return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(n // 2), [[1, -1], [-1, -1]])
  half = hadamard(n // 2)
  return None if half is None else np.kron([[1, 1], [1, -1]], half)


def even_rotation(n: int) -> np.ndarray:
  """An orthogonal matrix [n, n] that spreads each axis over all: Hadamard's / √n, else Hartley's."""
  known = hadamard(n)
  if known is not None:
    return known / np.sqrt(n)
  angles = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
  return (np.cos(angles) + np.sin(angles)) / np.sqrt(n)
