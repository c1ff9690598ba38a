"""Notices about examples: counted while a split is read, printed once a split."""

from collections import Counter
from threading import Lock

from kdjax.runtime.progress import say

_counts: Counter[str] = Counter()
_lock = Lock()  # images are decoded in threads


def note(what: str) -> None:
  """Counts an example with the property `what`."""
  with _lock:
    _counts[what] += 1


def clear() -> None:
  """Resets the counts."""
  with _lock:
    _counts.clear()


def say_all(split: str) -> None:
  """Prints each kind of note since the last call with its number of examples, and resets the counts."""
  with _lock:
    counts = sorted(_counts.items())
    _counts.clear()
  for what, n in counts:
    say(f'{split}: {n:,} {"examples" if n > 1 else "example"}: {what}.')
