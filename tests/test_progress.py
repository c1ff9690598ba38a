"""What a log says while something takes time."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from rich.console import Console

from kdjax.runtime import progress


def test_a_log_has_plain_lines(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  with progress.bar('training', 100) as shown:
    now[0] += 60
    shown.restart()  # the first step was compiled for a minute
    shown.update(1)
    now[0] += 10
    shown.update(21, 'loss 0.5')
    now[0] += 1
    shown.update(23)
    now[0] += 39
    shown.update(100)
  lines = capsys.readouterr().out.splitlines()
  assert lines == [
    'training: 21/100 steps, 2/s, 40 s left, loss 0.5',
    'training: 100/100 steps, 1.98/s, 0 s left, loss 0.5',
    'training: 100 steps in 50 s, loss 0.5',
  ]


def test_durations_are_said_as_people_do():
  assert [progress.duration(s) for s in (44.6, 200, 7500)] == ['45 s', '3 min 20 s', '2 h 05 min']


def test_one_is_singular():
  said = [progress.counted(n, noun) for n, noun in ((1, 'seed'), (2, 'seed'), (1000, 'batch'), (0, 'entry'))]
  assert said == ['1 seed', '2 seeds', '1,000 batches', '0 entries']


def test_compiling_is_one_line_with_its_time(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  for seconds in (0, 12):
    with progress.compiling('student', '1 step of 2 examples, 1 seed') as tell:
      tell('member 1 of 1')
      now[0] += seconds
  line = 'student: compiling 1 step of 2 examples, 1 seed'
  assert capsys.readouterr().out.splitlines() == [line, line, 'student: compiled in 12 s']
  with pytest.raises(KeyError), progress.compiling('student', 'steps'):
    now[0] += 12
    raise KeyError
  assert 'compiled' not in capsys.readouterr().out


def terminal(monkeypatch):
  shown = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
  monkeypatch.setattr(progress, 'console', shown)
  return shown.file


def test_a_finished_bar_of_a_terminal_has_the_time_that_it_took(monkeypatch):
  screen = terminal(monkeypatch)
  with progress.compiling('student', '1 step'):
    pass
  with progress.bar('student', 2) as outer:
    outer.update(1)
    with progress.bar('student: validation', 5, 'example') as inner:
      inner.update(5)
    outer.note = 'top1 0.5000'
    outer.update(2, now=True)
  final = screen.getvalue().splitlines()[-2]
  assert '2/2' in final and '0:00:0' in final and 'top1 0.5000' in final
  assert 'validation' not in final
  assert 'compiled 1 step in 0 s' in screen.getvalue()


def test_news_is_in_a_log_at_once_and_an_inner_bar_leaves_no_line(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  with progress.bar('student', 100) as shown:
    now[0] += 4
    shown.update(20)
    with progress.bar('student: validation', 5, 'example') as inner:
      now[0] += 4
      inner.update(5)
    shown.update(20, 'top1 0.5', now=True)
    shown.update(21, now=True)  # less than a second later
  assert capsys.readouterr().out.splitlines() == [
    'student: 20/100 steps, 2.5/s, 32 s left, top1 0.5',
    'student: 21 steps in 8 s, top1 0.5',
  ]


def test_a_notebook_has_one_line_that_changes():
  code = """
import sys, time
sys.path.insert(0, %r)
from kdjax.runtime import progress
progress.CHANGE_EVERY_S = 0.0
with progress.compiling('student', '3 steps') as tell:
  tell('member 1 of 2')
with progress.bar('student', 50) as outer:
  for n in range(1, 51):
    outer.update(n, 'loss 0.5')
    with progress.bar('validation', 2, 'example') as inner:
      inner.update(2)
"""
  root = str(Path(__file__).parents[1])
  notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code % root)])
  NotebookClient(notebook, timeout=120).execute()
  texts = [output['data']['text/plain'] for output in notebook.cells[0].outputs]
  assert [re.sub(r'in \d+ s', 'in T', text) for text in texts] == [
    'student: compiled 3 steps in T',
    'student: 50 steps in T, loss 0.5',
  ]


def test_a_notebook_has_no_escape_codes():
  code = """
import sys
sys.path.insert(0, %r)
from rich.table import Table
from kdjax.runtime import progress
table = Table(title='scores')
table.add_column('[bold red]top1')
table.add_row('0.5')
progress.console.print(table)
progress.say('done')
"""
  root = str(Path(__file__).parents[1])
  notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code % root)])
  NotebookClient(notebook, timeout=120).execute()
  table, said = (output['data'] for output in notebook.cells[0].outputs)
  assert 'top1' in table['text/plain'] and '\x1b' not in table['text/plain']
  assert 'font-weight: bold' in table['text/html'] and said['text/plain'].strip() == 'done'


def test_no_bar_moves_in_a_pipe_that_is_told_to_have_colours():
  code = """
from kdjax.runtime import progress
with progress.compiling('student', '1 step'):
  pass
with progress.bar('student', 2) as shown:
  shown.update(1)
"""
  environment = os.environ | {'FORCE_COLOR': '1', 'TERM': 'xterm-color'}
  where = {'cwd': Path(__file__).parents[1], 'env': environment}
  ended = subprocess.run([sys.executable, '-c', code], **where, capture_output=True, text=True)
  assert ended.stdout.splitlines() == ['student: compiling 1 step'] and not ended.stderr
