"""Which tokens of two tokenizers spell the same piece of a text."""

import numpy as np

NONE = -1  # of no chunk


def chunks(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The chunk of each token, i32 [N, L] and [N, M], numbered from 0 in a row; `NONE` for tokens of none.

  A chunk is the text between one place where a token of both tokenizers ends and the next. It has the same
  characters on both sides, and one token or more of each. What follows the last such place, as where a text
  is cut, is of no chunk.

  Args:
    a: where in the text each token ends, in characters, i32 [N, L]; negative for tokens that take no part.
      Tokens that spell parts of one character end where it does.
    b: the same of the other tokenizer, [N, M].
  """
  first, second = (np.full(x.shape, NONE, np.int32) for x in (a, b))
  for row, (mine, theirs) in enumerate(zip(a, b, strict=True)):
    ends = np.intersect1d(mine[mine >= 0], theirs[theirs >= 0])
    for tokens, out in ((mine, first), (theirs, second)):
      inside = (tokens >= 0) & (tokens <= (ends[-1] if len(ends) else NONE))
      out[row, inside] = np.searchsorted(ends, tokens[inside])
  return first, second
