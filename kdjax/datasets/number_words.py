"""Sums and differences in words: 'twenty three plus four =' and 'twenty seven'; generated."""

from collections.abc import Sequence

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.options import Count, Whole
from kdjax.runtime import files
from kdjax.types import DataSet

SMALL = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten', 'eleven')
SMALL += ('twelve', 'thirteen', 'fourteen', 'fifteen', 'sixteen', 'seventeen', 'eighteen', 'nineteen')
TENS = ('', '', 'twenty', 'thirty', 'forty', 'fifty', 'sixty', 'seventy', 'eighty', 'ninety')
MOST = 499  # so that no sum reaches a thousand


def in_words(n: int) -> str:
  """A number from 0 to 999 in English words."""
  if n < 20:
    return SMALL[n]
  if n < 100:
    return TENS[n // 10] + (f' {SMALL[n % 10]}' if n % 10 else '')
  return f'{SMALL[n // 100]} hundred' + (f' {in_words(n % 100)}' if n % 100 else '')


class Questions(Sequence):
  """Examples of rows (a, b), where a negative b is taken away."""

  def __init__(self, rows: np.ndarray, first: int):
    self.rows, self.first = rows, first

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index):
    a, b, minus = map(int, self.rows[index])
    text = f'{in_words(a)} {"minus" if minus else "plus"} {in_words(b)} ='
    return {'text': text, 'response': in_words(a - b if minus else a + b), 'id': self.first + int(index)}


def number_words(
  *, train: Count = 8000, validation: Count = 1000, test: Count = 1000, most: Count = 99, seed: Whole = 0
) -> DataSet:
  """`text`, a sum or difference of two numbers in English words, and `response`, what it comes to.

  No question is in two splits. Numbers run from 0 to `most`, and no difference is below 0.

  Args:
    train, validation, test: how many questions each split has.
    most: the largest number in a question.
    seed: of which questions are in which split.

  Raises:
    KdjaxError: if there are not so many questions, or a split would be empty.
  """
  if not 0 < most <= MOST:
    raise KdjaxError(f'number_words: most={most}; it is from 1 to {MOST}.')
  a, b = (x.ravel() for x in np.mgrid[: most + 1, : most + 1])
  plus, minus = np.zeros_like(a), np.ones_like(a)
  questions = np.concatenate([np.stack([a, b, plus], 1), np.stack([a, b, minus], 1)[a >= b]])
  sizes = {'train': train, 'validation': validation, 'test': test}
  if min(sizes.values()) < 1 or sum(sizes.values()) > len(questions):
    raise KdjaxError(
      f'number_words: splits of {train}, {validation} and {test} questions; each has one or more, and with '
      f'numbers up to {most} there are {len(questions)} in all.'
    )
  questions, first, splits = np.random.default_rng(seed).permutation(questions), 0, {}
  for split, n in sizes.items():
    splits[split], first = Questions(questions[first : first + n], first), first + n
  return DataSet(splits, (), files.fingerprint('number_words', sizes, most, seed), 'made')
