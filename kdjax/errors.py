"""The one exception for users: a single line that says what to do."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

# Control characters C0 and C1, marks of the direction of writing, lone surrogates.
CONTROL = re.compile('[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
LONGEST = 2000  # characters of a message: names in it may come from files


def printable(text: str) -> str:
  """`text` on one line, control characters as their escapes, such as \\x1b."""
  return CONTROL.sub(lambda match: match[0].encode('unicode_escape').decode(), text)


def printable_lines(text: str) -> str:
  """`printable` of every line."""
  return '\n'.join(map(printable, text.split('\n')))


class KdjaxError(Exception):
  """An error that the user can fix. The command prints its text, one line, with no traceback."""

  def __init__(self, message: object = ''):
    text = printable(re.sub(r'\s*\n\s*', ' ', str(message)))
    middle = ' … ' if len(text) > LONGEST else ''
    super().__init__(text[: LONGEST // 2] + middle + text[-LONGEST // 2 :] if middle else text)


def unknown(
  kind: str, name: str, choices: Iterable[str], show: Mapping[str, str] | None = None
) -> KdjaxError:
  """An error that lists `choices`, the nearest to `name` first; `show` maps a choice to its text."""
  choices, show = sorted(str(c)[:200] for c in choices), show or {}
  name = str(name)[:200]
  near = difflib.get_close_matches(name, choices, n=max(len(choices), 1), cutoff=0.5)
  listed = [show.get(c, c) for c in near + [c for c in choices if c not in near]]
  listing = ', '.join(listed[:30]) + (f' … ({len(listed)} in all)' if len(listed) > 30 else '')
  guess = f'; did you mean {near[0]!r}?' if near else '.'
  return KdjaxError(f'unknown {kind}: {name!r}{guess} Choose from: {listing or "nothing"}.')


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
  """Turns an exception of another library into a KdjaxError that begins with `what`."""
  try:
    yield
  except KdjaxError:
    raise
  except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as e:
    message = ' '.join(str(e).split())
    raise KdjaxError(f'{what} ({type(e).__name__}: {message[:300]}).') from e


def differences(theirs: Mapping, mine: Mapping, keys: Iterable[str]) -> str:
  """The keys whose values differ, the first four with both values; '' for none."""
  differ = sorted(k for k in keys if theirs.get(k) != mine.get(k))
  shown = '; '.join(f'{k}: {theirs.get(k)!r} there, {mine.get(k)!r} here' for k in differ[:4])
  return f'{shown}; and {len(differ) - 4} more' if len(differ) > 4 else shown
