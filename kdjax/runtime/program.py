"""The name of the command, for messages that say what to run."""

import sys
from pathlib import Path


def program() -> str:
  """'kdjax', or 'python run.py' where that was started."""
  return 'python run.py' if Path(sys.argv[0]).name == 'run.py' else 'kdjax'
