"""A static folder with a page that answers in the browser: ONNX models, run by onnxruntime-web."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL

from kdjax.errors import KdjaxError
from kdjax.evaluation.modality_robustness import modalities
from kdjax.experiment import predict, trained_model
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.trained_model import Trained
from kdjax.export import onnx, run, web_examples, web_runtime, web_tokenizer
from kdjax.export.alone import PRESENT
from kdjax.export.program import Program
from kdjax.runtime import files
from kdjax.runtime.progress import say
from kdjax.tasks import sentiment

FILE, RUNTIME, PIP = onnx.FILE, onnx.RUNTIME, onnx.PIP
write, quantise = onnx.write, onnx.quantise
TEACHER = 'teacher.onnx', 'teacher.json'
PAGE, SHOWN = 'page.json', 'export.json'
ASSETS = Path(__file__).with_suffix('')
TASKS = 'classification', 'multilabel', 'regression', 'sentiment', 'retrieval'
TAKEN = 'image', 'text', 'audio'


def finish(
  part: Path,
  program: Program,
  trained: Trained,
  workdir: Path,
  experiment: Experiment | None,
  stage: str,
  trusted: Sequence[str] = (),
) -> None:
  """Puts all but model.onnx, its export.json and tokenizer.json into the folder of a page.

  Args:
    part: the folder.
    program: of the model that it holds.
    trained: that model.
    workdir: of the experiment, whose teacher is shown too where it has one.
    experiment: for examples of its test split; None for none.
    stage: of the model.
    trusted: modules outside kdjax that may be imported.

  Raises:
    KdjaxError: for a model that the page cannot feed, or without npm.
  """
  models = [_model(trained, program, stage, FILE, SHOWN)]
  version = web_runtime.copy(part / 'ort')
  for asset in sorted(ASSETS.glob('*.*')):
    shutil.copyfile(asset, part / asset.name)
  if stage != 'teacher' and (workdir / 'teacher' / 'stage.json').exists():
    try:
      models.append(_teacher(part, workdir, trusted))
    except KdjaxError as e:
      say(f'the page shows no teacher: {e}')
  files.write_json(
    part / PAGE,
    {
      'name': files.read_json(workdir / 'config.json', {}, 'run its command again').get('name')
      or workdir.name,
      'models': models,
      'examples': web_examples.write(part, experiment, models[0]['keys']) if experiment else [],
      'runtime': version,
    },
  )


def _teacher(part: Path, workdir: Path, trusted: Sequence[str]) -> dict[str, Any]:
  """Writes the teacher; gives what the page knows of it."""
  trained = trained_model.load(workdir, 'teacher', trusted=trusted)
  program = run.program(trained)
  shown = _model(trained, program, 'teacher', *TEACHER)
  write(program, part / TEACHER[0])
  about = {
    'format': 'onnx',
    'model': trained.attributes,
    'seed': trained.seed,
    'interface': trained.interface,
  }
  files.write_json(part / TEACHER[1], about | {'inputs': program.inputs, 'outputs': program.outputs})
  return shown


def _model(trained: Trained, program: Program, stage: str, file: str, about: str) -> dict[str, Any]:
  """What the page knows of a model, where it can feed it and read its answers."""
  interface = trained.interface
  task, inputs = interface['task']['name'], program.inputs
  if task not in TASKS or predict.writes(interface):
    raise KdjaxError(f'web: a page shows the answers of {", ".join(TASKS)}, and none of {task}.')
  keys = {k: m for m, k in modalities(interface['inputs'], interface['example']).items()}
  for key, (shape, _) in inputs.items():
    modality = keys.get(key.removesuffix('/mask').removesuffix(PRESENT))
    if modality not in TAKEN:
      raise KdjaxError(f'web: a page takes {", ".join(TAKEN)}, and the {stage} needs {key} too.')
    if key in keys and (modality == 'image' and (len(shape) != 3 or shape[2] not in (1, 3))):
      raise KdjaxError(f'web: the {stage} takes images {list(shape)}; a page gives [H, W, 1] or [H, W, 3].')
    if key in keys and modality in ('text', 'audio') and len(shape) != 1:
      raise KdjaxError(
        f'web: the {stage} takes {modality} of the shape {list(shape)}; a page gives one axis.'
      )
  if 'text' in keys.values():
    web_tokenizer.check(trained.tokenizer)
  shown = {'name': stage, 'file': file, 'about': about, 'keys': keys}
  shown |= {'pillow': int(PIL.__version__.partition('.')[0])}  # which resizes of the page are to be as
  return shown | ({'names': sentiment.NAMES} if task == 'sentiment' else {})
