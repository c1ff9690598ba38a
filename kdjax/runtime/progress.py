"""Progress: a bar in a terminal, a line that changes in a notebook, plain lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderHook
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)
from rich.segment import Segment

from kdjax.errors import printable, printable_lines
from kdjax.runtime import watchdog


class _Printable:
  """Another renderable, without control characters in its text."""

  def __init__(self, renderable):
    self.shown = renderable

  def __rich_console__(self, console, options):
    for text, style, control in console.render(self.shown, options):
      yield Segment(text if control else printable_lines(text), style, control)


class _Filter(RenderHook):
  def process_renderables(self, renderables):
    return [_Printable(renderable) for renderable in renderables]


# A notebook shows HTML, which has its colours; escape codes would only stand in the plain text beside it.
console = Console(soft_wrap=True, highlight=False, color_system=None if Console().is_jupyter else 'auto')
console.push_render_hook(_Filter())  # names of classes, files and members may hold control characters
LINE_EVERY_S = 10.0  # between two lines of one task, where there is no terminal
CHANGE_EVERY_S = 0.5  # between two changes of a notebook's line
_open: list['Bar'] = []  # the bars on show, an inner one after its outer one


def say(message: str) -> None:
  """Prints a line; on a pod the first process alone does."""
  console.print(message, markup=False)


def silence() -> None:
  """Turns printing off, for every process of a pod but the first."""
  console.quiet = True


def duration(seconds: float) -> str:
  """'45 s', '3 min 20 s', '2 h 05 min'."""
  s = int(round(seconds))
  if s < 60:
    return f'{s} s'
  if s < 3600:
    return f'{s // 60} min {s % 60:02d} s'
  return f'{s // 3600} h {s % 3600 // 60:02d} min'


def size(n: float) -> str:
  """'812 B', '1.28 MB', '40.5 GB': bytes, in powers of 1000."""
  for unit in ('B', 'kB', 'MB', 'GB'):
    if n < 1000:
      return f'{n:.3g} {unit}'
    n /= 1000
  return f'{n:.3g} TB'


def counted(n: int, noun: str) -> str:
  """'1 seed', '2 seeds', '1,000 batches', '3 entries'."""
  if n == 1:
    return f'1 {noun}'
  if noun.endswith('y') and noun[-2:-1] not in 'aeiou':
    return f'{n:,} {noun[:-1]}ies'
  return f'{n:,} {noun}{"es" if noun.endswith(("ch", "s", "sh", "x")) else "s"}'


class _NotebookLine:
  """A line of a notebook's output, which later texts replace."""

  def __init__(self):
    self.handle = None

  def show(self, text: str) -> None:
    if console.quiet:
      return
    from IPython.display import display

    shown = {'text/plain': text}
    if self.handle is None:
      self.handle = display(shown, raw=True, display_id=True)
    else:
      self.handle.update(shown, raw=True)


class Bar:
  """Progress of one piece of work. Use it through `bar`; one inside another leaves nothing behind."""

  def __init__(self, title: str, total: int, unit: str, start: int):
    self.title, self.total, self.unit = printable(title), total, unit
    self.first, self.done, self.note = start, start, ''
    self.began = self.last_line_at = time.monotonic()
    self.outer = _open[-1] if _open else None
    self.line = self.outer.line if self.outer else _NotebookLine() if console.is_jupyter else None
    self.rich = self.outer.rich if self.outer else _rich_bars()
    if self.rich:
      self.task = self.rich.add_task(self.title, total=total, completed=start, note='')
    _open.append(self)

  def update(self, done: int, note: str | None = None, now: bool = False) -> None:
    """Sets how many units are done, and the note beside the bar from now on.

    Args:
      done: of the total.
      note: None keeps the last one.
      now: whether there is news, which a log shows at once.
    """
    watchdog.moved()
    self.done, self.note = done, self.note if note is None else printable(note)
    waited, every = time.monotonic() - self.last_line_at, CHANGE_EVERY_S if self.line else LINE_EVERY_S
    if self.rich:
      self.rich.update(self.task, completed=done, note=f'{self.rate():.4g} {self.unit}/s  {self.note}')
    elif done > self.first and waited >= (min(every, 1.0) if now else every):
      self.last_line_at += waited
      remaining = (self.total - done) / max(self.rate(), 1e-9)
      (self.line.show if self.line else say)(
        f'{self.title}: {done}/{counted(self.total, self.unit)}, {self.rate():.4g}/s, '
        f'{duration(remaining)} left{", " + self.note if self.note else ""}'
      )

  def restart(self) -> None:
    """Restarts the clock, after the first unit was compiled."""
    self.first, self.began = self.first + 1, time.monotonic()

  def rate(self) -> float:
    return (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)

  def close(self) -> None:
    _open.remove(self)
    elapsed = time.monotonic() - self.began
    if self.rich and self.outer:
      self.rich.remove_task(self.task)
    elif self.rich:
      self.rich.stop()
    elif not self.outer and (elapsed >= 2 or self.line and self.line.handle):
      note = f', {self.note}' if self.note else ''
      (self.line.show if self.line else say)(
        f'{self.title}: {counted(self.done, self.unit)} in {duration(elapsed)}{note}'
      )


def _live() -> bool:
  """Whether bars can move: not in a pipe, even if FORCE_COLOR asks for colours there, as a notebook does."""
  return console.is_terminal and (console.file is not sys.stdout or sys.stdout.isatty())


def _rich_bars() -> Progress | None:
  """The live bars of a terminal, None elsewhere."""
  if not _live() or console.quiet:
    return None
  first, last = (TextColumn(f'{{task.{text}}}', markup=False) for text in ('description', 'fields[note]'))
  left = TimeRemainingColumn(elapsed_when_finished=True)
  bars = Progress(first, BarColumn(24), MofNCompleteColumn(), left, last, console=console)
  bars.start()
  return bars


@contextmanager
def bar(title: str, total: int, unit: str = 'step', start: int = 0) -> Iterator[Bar]:
  """A `Bar`, closed at the end also when something goes wrong."""
  opened = Bar(title, total, unit, start)
  try:
    yield opened
  finally:
    opened.close()


@contextmanager
def compiling(title: str, what: str) -> Iterator[Callable[[str], None]]:
  """One line while a program is compiled, with its time: live in a terminal and a notebook.

  Args:
    title: of the work, such as 'student'.
    what: is compiled: '700 steps of 128 examples, 5 seeds'.

  Yields:
    A function that says which part it is at.
  """
  began, live, line = time.monotonic(), None, _NotebookLine() if console.is_jupyter else None
  title, doing = printable(title), f'{printable(title)}: compiling {printable(what)}'
  if _live() and not console.quiet and not _open:
    texts = (TextColumn(f'{{task.{text}}}', markup=False) for text in ('description', 'fields[note]'))
    live = Progress(*texts, TimeElapsedColumn(), console=console, transient=True)
    task = live.add_task(doing, total=None, note='')
    live.start()
  else:
    (line.show if line else say)(doing)

  def tell(part: str) -> None:
    if live:
      live.update(task, note=printable(part))
    elif line:
      line.show(f'{doing}, {printable(part)}')

  try:
    with watchdog.paused():
      yield tell
  finally:
    if live:
      live.stop()
  elapsed = time.monotonic() - began
  if live or line:
    (line.show if line else say)(f'{title}: compiled {printable(what)} in {duration(elapsed)}')
  elif elapsed >= 2:
    say(f'{title}: compiled in {duration(elapsed)}')


def track(items: Iterable, title: str, total: int, unit: str = 'example') -> Iterator:
  """Yields `items` under a progress bar."""
  with bar(title, total, unit) as progress_bar:
    for n, item in enumerate(items, 1):
      yield item
      if n % 64 == 0 or n == total:
        progress_bar.update(n)
