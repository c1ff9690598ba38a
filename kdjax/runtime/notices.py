"""What is worth a line and is seen example by example: counted where it is seen, printed once a split."""

from collections import Counter
from threading import Lock

from kdjax.runtime.progress import say

_counts: Counter[str] = Counter()
_lock = Lock()  # images are decoded in threads


def note(what: str) -> None:
  """Counts one more example of which `what` is true."""
  with _lock:
    _counts[what] += 1


def clear() -> None:
  """Forgets what was counted."""
  with _lock:
    _counts.clear()


def say_all(split: str) -> None:
  """Prints a line for each kind of note since the last call, with how many examples it is true of."""
  with _lock:
    counts = sorted(_counts.items())
    _counts.clear()
  for what, n in counts:
    say(f'{split}: {n:,} {"examples" if n > 1 else "example"}: {what}.')
