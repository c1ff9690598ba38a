"""A trained model in a folder of its own, to give away: `kdjax predict` and `kdjax.load` read it."""

from pathlib import Path
from typing import Any

from kdjax.input import tokenizer as tokenizers
from kdjax.runtime import files

ANEW = 'train it anew'


def write(workdir: Path, stage: str, seed: int, folder: Path) -> None:
  """Writes config.json, tokenizer.json, and as 'student' stage.json and the weights of one seed.

  Args:
    workdir: of the experiment.
    stage: 'teacher', 'baseline', 'ceiling' or 'student'.
    seed: which of the stage's.
    folder: to write to; what else it holds is left.
  """
  section, weights = 'teacher' if stage == 'teacher' else 'student', f'seed_{seed}.safetensors'
  summary: dict[str, Any] = files.read_json(workdir / stage / 'stage.json', {'seeds': [int]}, ANEW)
  config = files.read_json(workdir / 'config.json', {section: dict}, ANEW)
  files.write_json(folder / 'config.json', config | {'student': config[section]})
  if tokenizers.kept(workdir) is not None:
    files.write(folder / tokenizers.FILE, (workdir / tokenizers.FILE).read_text(encoding='utf-8'))
  with files.swapped_in(folder / 'student' / weights) as part:
    part.write_bytes((workdir / stage / weights).read_bytes())
  files.write_json(folder / 'student' / 'stage.json', summary | {'seeds': [seed]})
