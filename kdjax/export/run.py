"""The command `export`: a trained model in several formats, each scored in its own runtime."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from kdjax import report
from kdjax.errors import KdjaxError
from kdjax.evaluation import exports
from kdjax.experiment import build, trained_model
from kdjax.experiment.experiment import Experiment
from kdjax.experiment.trained_model import Trained
from kdjax.export import answers, formats, hub, measure
from kdjax.export import folder as folders
from kdjax.export import program as programs
from kdjax.export.program import Program
from kdjax.runtime import progress
from kdjax.runtime.progress import say
from kdjax.training.evaluate import primary
from kdjax.types import modalities

CALIBRATION = 200  # examples
EXTRA_TAPS = ('logits', 'logit_scale', 'logit_bias', 'best', 'likelihood')


def program(trained: Trained) -> Program:
  """The program of a trained model: of its taps those that its task reads."""
  task, model = build.task(trained.interface['task']), trained.model
  example = trained.interface['example']
  several = not task.relational and len(modalities(example)) > 1

  def apply(variables, batch):
    return model.apply(variables, batch, train=False)[0]

  taps = tuple(dict.fromkeys((*task.gather, *EXTRA_TAPS)))
  return programs.make(apply, trained.variables, example, taps, several)


def export(
  workdir: Path,
  names: Sequence[str],
  experiment: Experiment | None,
  stage: str = 'student',
  seed: int | None = None,
  trusted: Sequence[str] = (),
  packed: bool = False,
  tolerance: float = 0.01,
) -> dict[str, dict[str, Any]]:
  """Exports a model into `workdir`/exports, a folder a format, and measures what was exported.

  Args:
    workdir: of the experiment.
    names: of formats, see `formats.MODULES`.
    experiment: for its test split; None measures nothing.
    stage: 'teacher', 'baseline', 'ceiling' or 'student'.
    seed: which of the stage's; the first by default.
    trusted: modules outside kdjax that may be imported.
    packed: whether the files of models are gzipped.
    tolerance: the most of the score that an export may lose, in the score's own unit.

  Returns:
    name of the export -> what was measured.

  Raises:
    KdjaxError: for a model that a format cannot take, and for an export that loses more than `tolerance`; all
      others have been exported then.
  """
  for name in names:
    _ = name == 'hf' or formats.module(name)  # all are known before the first is written
  trained = trained_model.load(workdir, stage, seed, trusted)
  exported, failed = {}, []
  model = program(trained)
  calibration = calibrated(experiment, model) if experiment else None
  rest = {
    'program': model,
    'trained': trained,
    'workdir': workdir,
    'experiment': experiment,
    'stage': stage,
    'trusted': trusted,
  }
  for name in names:
    target = folder(workdir, name, stage)
    try:
      if name == 'hf':
        hub.write(workdir, stage, trained.seed, trained.attributes['model'], target)
        say(f'hf: {target}')
        continue
      more = getattr(formats.module(name), 'finish', None)
      finish = more and functools.partial(more, **rest)
      about = folders.write(model, trained, name, target, calibration, packed, finish)
    except KdjaxError as e:
      failed.append(f'{name}: {e}')
      continue
    exported[target.name] = target
    say(f'{target.name}: {folders.size(target, about):,} bytes, {target}')
  results = measured(experiment, trained, stage, exported, trusted) if experiment and exported else {}
  show(results)
  for name, one in results.items():
    loss = (one['float_value'] - one['value']) * (1 if one['higher_is_better'] else -1)
    if not loss <= tolerance:
      values = f'{one["value"]:.4g} for {one["float_value"]:.4g}'
      failed.append(f'{name} loses more than --tolerance={tolerance:g}: {one["metric"]} {values}')
  if failed:
    raise KdjaxError('; '.join(failed))
  return results


def folder(workdir: Path, name: str, stage: str) -> Path:
  """Where the export of a stage lies."""
  return workdir / exports.FOLDER / (name if stage == 'student' else f'{name}-{stage}')


def calibrated(experiment: Experiment, model: Program) -> dict[str, np.ndarray]:
  """Inputs of the program from training examples, for the ranges of activations."""
  train = experiment.data.train
  rows = np.linspace(0, len(train) - 1, min(CALIBRATION, len(train))).astype(int)
  return answers.arrays(model.inputs, train.take(rows))


def measured(
  experiment: Experiment,
  trained: Trained,
  stage: str,
  folders_of: dict[str, Path],
  trusted: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
  """Name of an export -> its score on the test split, its distance from the float model, its cost."""
  task, test = experiment.task, experiment.data.test
  split = experiment.config['data']['test']
  variables = jax.tree.map(lambda x: x[None], trained.variables)
  of_float = experiment.evaluator(stage)(variables, test, f'float: {split}')
  costs = measure.costs(folders_of, test, experiment.workdir, stage, trained.seed, tuple(trusted))
  results = {}
  for name, path in folders_of.items():
    evaluated = measure.evaluate(folders.read(path, trusted=True), task, test, f'{name}: {split}')
    compared = measure.against(task, of_float, evaluated)
    metric, higher = primary(task, compared['metrics'])
    results[name] = {
      'metric': metric,
      'higher_is_better': higher,
      'value': compared['metrics'][metric],
      'float_value': compared['float_metrics'][metric],
      'stage': stage,
      'seed': trained.seed,
      **compared,
      **costs[name],
      'float': costs['jax'],
    }
    measure.record(path, results[name])
  return results


def show(results: dict[str, dict[str, Any]]) -> None:
  """Prints what was measured, a table with a column an export."""
  body = report.exports.rows(results)
  shown = Table(box=box.SIMPLE_HEAD)
  for row in [{k: k for k in body[0]}, *body] if body else []:
    shown.add_column(Text(row['export']), justify='right' if shown.columns else 'left', overflow='fold')
  for key in [k for k in body[0] if k != 'export'] if body else []:
    shown.add_row(Text(key), *(Text(row[key]) for row in body))
  if body:
    progress.console.print(shown)
