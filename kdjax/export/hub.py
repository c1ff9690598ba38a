"""A trained model as a folder for the Hugging Face hub: safetensors, config, tokenizer, and a model card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdjax import report
from kdjax.errors import KdjaxError
from kdjax.experiment import saved_model
from kdjax.export import folder as folders
from kdjax.runtime import files
from kdjax.runtime.packages import needed

CARD = """---
library_name: kdjax
tags:
- knowledge-distillation
- {task}
---

# {title}

{model}, trained by [kdjax](https://github.com/kdjax/kdjax): the {stage} of a distillation, seed {seed}.

{comparison}

## Use

```
pip install kdjax
kdjax predict --workdir=FOLDER
```

or in Python `kdjax.load('FOLDER')`. `config.json` is the whole recipe, `student/` has the weights.
"""


def write(workdir: Path, stage: str, seed: int, model: str, folder: Path) -> None:
  """Writes the folder, whole or not at all.

  Args:
    workdir: of the experiment; its results.json, where there is one, becomes the comparison of the card.
    stage: 'teacher', 'baseline', 'ceiling' or 'student'.
    seed: which of the stage's.
    model: its name.
    folder: to write to.

  Raises:
    KdjaxError: if the folder holds something that is no export.
  """
  config = files.read_json(workdir / 'config.json', {'task': {'name': str}, 'name': str}, saved_model.ANEW)
  results = files.read_json(workdir / 'results.json', {'stages': dict}, 'run compare', {})
  with folders.whole(folder) as part:
    saved_model.write(workdir, stage, seed, part)
    text = CARD.format(
      task=config['task']['name'],
      title=f'{config["name"]}, {stage}',
      model=model,
      stage=stage,
      seed=seed,
      comparison=comparison(results),
    )
    files.write(part / 'README.md', text)
    names = sorted(p for p in part.rglob('*') if p.is_file())
    about = {'format': 'hf', 'files': {str(p.relative_to(part)): folders.digest(p) for p in names}}
    files.write_json(part / folders.FILE, about)


def comparison(results: Mapping[str, Any]) -> str:
  """The verdict and the table of a comparison in Markdown, '' without one."""
  if not results:
    return 'It was not compared with its baseline.'
  lines = [report.words.verdict(results), '', *report.markdown_table(report.rows(results))]
  lines += ['', *(f'- {label}: {text}' for label, text in report.setting(results) if label != 'Command')]
  return '\n'.join(lines)


def push(folder: Path, name: str) -> str:
  """Uploads a folder to the hub as the model `org/name`, and returns its address.

  Raises:
    KdjaxError: without huggingface_hub, or where the hub refuses.
  """
  hub = needed('huggingface_hub', '--push', 'pip install huggingface_hub')
  try:
    hub.create_repo(name, exist_ok=True)
    return str(hub.upload_folder(repo_id=name, folder_path=str(folder), ignore_patterns=[folders.FILE]))
  except Exception as e:  # of the network, of the login, of the hub
    raise KdjaxError(f'--push={name}: {files.first_line(e)}; is `hf auth login` done?') from e
