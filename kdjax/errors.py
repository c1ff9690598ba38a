"""The one exception that a person sees: a single line that says what to do."""

import difflib
from collections.abc import Iterable, Mapping


class KdjaxError(Exception):
  """Something the user can put right. `run.py` prints its text, with no traceback."""


def unknown(
  kind: str, given: str, choices: Iterable[str], show: Mapping[str, str] | None = None
) -> KdjaxError:
  """An error that lists `choices`, the nearest to `given` first, each as `show` says it."""
  choices, show = sorted(choices), show or {}
  near = difflib.get_close_matches(given, choices, n=max(len(choices), 1), cutoff=0.5)
  listed = [show.get(c, c) for c in near + [c for c in choices if c not in near]]
  listing = ', '.join(listed[:30]) + (f' … ({len(listed)} in all)' if len(listed) > 30 else '')
  guess = f'; did you mean {near[0]!r}?' if near else '.'
  return KdjaxError(f'unknown {kind}: {given!r}{guess} Choose from: {listing or "nothing"}.')


def differences(theirs: Mapping, mine: Mapping, keys: Iterable[str]) -> str:
  """Which of the keys have other values, the first four with both: '' where none has."""
  differ = sorted(k for k in keys if theirs.get(k) != mine.get(k))
  shown = '; '.join(f'{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here' for k in differ[:4])
  return f'{shown}; and {len(differ) - 4} more' if len(differ) > 4 else shown
