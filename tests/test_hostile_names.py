"""Names of classes, texts, captions and files from strangers: shown as they are, never obeyed."""

import io
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from rich.progress import Progress

from kdjax import report
from kdjax.errors import KdjaxError, printable, unknown
from kdjax.experiment import predict_files
from kdjax.runtime import progress
from test_report import curves, examples, results  # noqa: F401

TERMINAL = ('\x1b[2J', '\x1b]0;title\x07', '\x9b31m', '\x8f', '\u202eabc', 'a\rb', 'a\x08b', '\x00', '\ud800')
NAMES = (
  ''.join(TERMINAL),
  '<script>alert(1)</script>',
  '"><img src=x onerror=alert(1)>',
  "' onmouseover='alert(1)",
  '--></style></pre></svg><iframe>',
  r'{{ 7 * 7 }}{% for %}{0.__class__}%s%n$\frac{[/red][bold]&lt;b&gt;' + '\n',
)
PLAIN = []  # the page of plain names, once
CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]')


GLYPHS = ('path', 'use', 'defs', 'g')  # of figures, whose titles are drawn


class Tags(HTMLParser):
  """What a browser would make of a page: its tags with their attributes' names, and its text."""

  def __init__(self):
    super().__init__()
    self.tags, self.text = Counter(), []

  def handle_starttag(self, tag, attrs):
    if tag in GLYPHS:
      return
    self.tags[tag, *sorted(k for k, _ in attrs)] += 1

  def handle_data(self, data):
    self.text.append(data)


def parsed(page):
  result = Tags()
  result.feed(page)
  return result


def named(results, examples, name):  # noqa: F811
  """A report in which everything that can be named is named so."""
  fields = ('name', 'dataset', 'hardware', 'command', 'split', 'selection', 'task')
  results = results | dict.fromkeys(fields, name) | {'references': {name: 0.3}, 'config': {name: {'a': name}}}
  cards = [one | dict.fromkeys(('truth', 'teacher', 'student', 'text'), name) for one in examples]
  return results, cards + [{'truth': name, 'teacher': [{'text': name, 'right': True}]}]


@pytest.mark.parametrize('name', NAMES, ids=ascii)
def test_a_page_has_the_same_elements_whatever_the_names(tmp_path, results, curves, examples, name):  # noqa: F811
  pages = []
  for each in ('name', name) if not PLAIN else (name,):
    report.write(*_page(results, curves, examples, each), tmp_path)
    pages.append(parsed((tmp_path / 'report.html').read_text(encoding='utf-8')))
  PLAIN.extend(pages[:1] if not PLAIN else [])
  assert pages[-1].tags == PLAIN[0].tags
  for file in ('report.md', 'report.html'):
    assert not CONTROL.search((tmp_path / file).read_text(encoding='utf-8'))
  prose = (tmp_path / 'report.md').read_text(encoding='utf-8').partition('<details>')[0]
  prose = '\n'.join(line for line in prose.splitlines() if not line.startswith('- Command: ``'))
  assert not re.search(r'(?<!\\)<', prose)
  if '7 * 7' in name:
    assert name.strip() in ''.join(pages[-1].text)


def _page(results, curves, examples, name):  # noqa: F811
  results, cards = named(results, examples, name)
  return results, curves, cards


@pytest.mark.parametrize('name', NAMES, ids=ascii)
def test_a_terminal_is_not_driven(monkeypatch, results, examples, name):  # noqa: F811
  out = io.StringIO()
  monkeypatch.setattr(progress.console, '_file', out)
  progress.say(name)
  progress.console.print(report.table(named(results, examples, name)[0]))
  for _ in progress.track([1, 2], name, 2):
    pass
  assert not CONTROL.search(out.getvalue())
  lines = predict_files.lines([{'text': name}], [[(name, 0.5)]])
  lines += predict_files.lines([{'text': name}, {'text': 'b'}], [[(name, 0.5)], [('b', 0.4)]])
  assert len(lines) == 3 and not any(CONTROL.search(line) or '\n' in line for line in lines)
  for error in (KdjaxError(f'{name} {name!r}'), unknown('label', name, [name])):
    assert not CONTROL.search(str(error)) and '\n' not in str(error)


def test_a_bar_in_a_terminal_shows_names_as_they_are(monkeypatch):
  out = io.StringIO()
  monkeypatch.setattr(progress.console, '_file', out)
  monkeypatch.setattr(progress.console, '_force_terminal', True)
  with progress.bar('[/red]\x1b]0;x\x07', 3) as shown:
    assert isinstance(shown.rich, Progress)
    shown.update(2, '[bold]\x9b2J')
    shown.rich.refresh()
  assert '[/red]\\x1b]0;x\\x07' in out.getvalue() and '[bold]\\x9b2J' in out.getvalue()
  assert '\x1b]0' not in out.getvalue() and '\x9b' not in out.getvalue()


def test_a_message_has_an_end():
  message = str(KdjaxError('a' * 10**6 + ' do this'))
  assert len(message) < 2100 and message.endswith('do this')
  assert len(str(unknown('label', 'b' * 10**6, ['b' * 10**6, 'c']))) < 2100
  assert printable('é\t☺\u200d‍') == 'é\t☺\u200d‍'
