"""Progress: a bar in a terminal, plain lines in a log."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderHook
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

from kdjax.errors import printable, printable_lines


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


console = Console(soft_wrap=True, highlight=False)
console.push_render_hook(_Filter())  # names of classes, files and members may hold control characters
LINE_EVERY_S = 10.0  # between two lines of one task, where there is no terminal


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


class Bar:
  """Progress of one piece of work. Use it through `bar`."""

  def __init__(self, title: str, total: int, unit: str, start: int):
    self.title, self.total, self.unit = printable(title), total, unit
    self.first, self.done, self.note = start, start, ''
    self.began = self.last_line_at = time.monotonic()
    self.rich = None
    if console.is_terminal and not console.quiet:
      first, last = (TextColumn(f'{{task.{text}}}', markup=False) for text in ('description', 'fields[note]'))
      columns = first, BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(), last
      self.rich = Progress(*columns, console=console)
      self.task = self.rich.add_task(self.title, total=total, completed=start, note='')
      self.rich.start()

  def update(self, done: int, note: str | None = None) -> None:
    """Sets how many units are done, and the note beside the bar from now on."""
    self.done, self.note = done, self.note if note is None else printable(note)
    now = time.monotonic()
    if self.rich:
      self.rich.update(self.task, completed=done, note=f'{self.rate():.4g} {self.unit}/s  {self.note}')
    elif now - self.last_line_at >= LINE_EVERY_S and done > self.first:
      self.last_line_at = now
      remaining = (self.total - done) / max(self.rate(), 1e-9)
      say(
        f'{self.title}: {done}/{self.total} {self.unit}s, {self.rate():.4g}/s, '
        f'{duration(remaining)} left{", " + self.note if self.note else ""}'
      )

  def restart(self) -> None:
    """Restarts the clock, after the first unit was compiled."""
    self.first, self.began = self.first + 1, time.monotonic()

  def rate(self) -> float:
    return (self.done - self.first) / max(time.monotonic() - self.began, 1e-9)

  def close(self) -> None:
    elapsed = time.monotonic() - self.began
    if self.rich:
      self.rich.stop()
    elif elapsed >= 2:
      note = f', {self.note}' if self.note else ''
      say(f'{self.title}: {self.done} {self.unit}s in {duration(elapsed)}{note}')


@contextmanager
def bar(title: str, total: int, unit: str = 'step', start: int = 0) -> Iterator[Bar]:
  """A `Bar`, closed at the end also when something goes wrong."""
  opened = Bar(title, total, unit, start)
  try:
    yield opened
  finally:
    opened.close()


def track(items: Iterable, title: str, total: int, unit: str = 'example') -> Iterator:
  """Yields `items` under a progress bar."""
  with bar(title, total, unit) as progress_bar:
    for n, item in enumerate(items, 1):
      yield item
      if n % 64 == 0 or n == total:
        progress_bar.update(n)
