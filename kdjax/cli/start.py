"""Starts the command; imports nothing that takes time before it can be stopped."""

from kdjax.runtime import early_exit, huge_pages


def start() -> None:
  """Runs the command of `sys.argv`, and exits."""
  early_exit.install()
  huge_pages.restart_with_huge_pages()
  from kdjax.cli import main

  main.run()
