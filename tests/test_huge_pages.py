"""A command starts once more with large pages, and only once."""

import subprocess
import sys

from kdjax.runtime import huge_pages

SCRIPT = """
import os, sys
from kdjax.runtime import huge_pages
huge_pages.restart_with_huge_pages()
print(os.environ.get('GLIBC_TUNABLES'), sys.argv[1:])
"""


def answer(monkeypatch, inputs):
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  if inputs is not None:
    monkeypatch.setenv('GLIBC_TUNABLES', inputs)
  command = [sys.executable, '-c', SCRIPT, '--a=b c']
  return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_it_starts_once_more_with_the_same_arguments(monkeypatch):
  wanted = 'glibc.malloc.hugetlb=1' if sys.platform == 'linux' else None
  assert answer(monkeypatch, None) == f"{wanted} ['--a=b c']"


def test_what_the_user_has_decided_stays(monkeypatch):
  assert answer(monkeypatch, '') == "['--a=b c']"


def test_other_systems_are_left_alone(monkeypatch):
  monkeypatch.delenv('GLIBC_TUNABLES', raising=False)
  monkeypatch.setattr(huge_pages.sys, 'platform', 'darwin')
  monkeypatch.setattr(huge_pages.os, 'execv', None)
  huge_pages.restart_with_huge_pages()
