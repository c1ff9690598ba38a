"""The command `ship`: a student from float to a few bits, measured, and the smallest that keeps its score."""

import copy
import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdjax import report
from kdjax.errors import KdjaxError
from kdjax.evaluation import compare, exports, significance
from kdjax.experiment import stages, trained_model
from kdjax.experiment.experiment import Experiment
from kdjax.export import folder as folders
from kdjax.export import formats, measure, run
from kdjax.runtime import files, progress

FOLDER = 'ship'
RATE = 0.3  # of the student's learning rate, when it is trained on; chosen on the quickstart's validation
BITS = (0, 8, 4)  # of the weights in training, 0 for none: the control of equal steps


class Form(NamedTuple):
  """One way to ship a student.

  Attributes:
    name: of its export.
    scheme: of `formats.SCHEMES`, '' for float.
    training: 'none', or what it was trained on with: 'labels' or 'distilled'.
    workdir: of its weights.
    stage: of its weights.
  """

  name: str
  scheme: str
  training: str
  workdir: Path
  stage: str


def ship(
  experiment: Experiment,
  form: str = 'litert',
  steps: int = 0,
  tolerance: float = 0.01,
  max_bytes: float = 0,
  max_ms: float = 0,
  trusted: Sequence[str] = (),
) -> dict[str, Any]:
  """Trains a student on with rounded weights, exports it in every form, and chooses one.

  Chosen is the smallest form whose validation score over the seeds is not significantly below that of the
  float student (paired t-test), nor by more than `tolerance` on average, and that keeps the limits.

  Args:
    experiment: with a finished student.
    form: of `formats.MODULES`, 'litert' or 'onnx'.
    steps: of each further training; 0 for half of the student's.
    tolerance: the largest loss of the score, in its own unit.
    max_bytes: of the file; 0 for any.
    max_ms: latency on one thread; 0 for any.
    trusted: modules outside kdjax that may be imported.

  Returns:
    What ship.json has.

  Raises:
    KdjaxError: if there is no finished student, or nothing can be exported.
  """
  numbers = {'steps': steps, 'tolerance': tolerance, 'max_bytes': max_bytes, 'max_ms': max_ms}
  for name, number in numbers.items():
    if not number >= 0:
      raise KdjaxError(f'{name} is {number:g}: it has to be 0 or more.')
  formats.module(f'{form}-int8')
  if experiment.config['cohort']:
    raise KdjaxError('a cohort has several students: set --workdir to the folder of one of them.')
  if not experiment.trained('student'):
    raise KdjaxError(f'{experiment.workdir} holds no finished student: run the student first.')
  if not experiment.task.prompted:
    raise KdjaxError('ship scores what a model outputs, and captions are written: take the command export.')
  _check(experiment, form, trusted)
  forms = [Form('float', '', 'none', experiment.workdir, 'student')]
  forms += [Form(f'int{bits}', f'int{bits}', 'none', experiment.workdir, 'student') for bits in BITS[1:]]
  for bits in BITS:
    further = trained_on(experiment, bits, steps)
    stages.run(further, ('baseline', 'student'))
    scheme = f'int{bits}' if bits else ''
    for training, stage in (('labels', 'baseline'), ('distilled', 'student')):
      name = f'{scheme or "float"}-{training}'
      forms.append(Form(name, scheme, training, further.workdir, stage))
  rows = _measured(experiment, forms, form, trusted)
  shipped = chosen(experiment, rows, tolerance, max_bytes, max_ms)
  report.write_frontier(shipped, experiment.workdir / FOLDER)
  return shipped


def _check(experiment, form, trusted) -> None:
  """Exports the student in 4 bits and opens it: what is missing is said before anything is trained."""
  trained = trained_model.load(experiment.workdir, 'student', None, trusted)
  with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary) / 'export'
    folders.write(run.program(trained), trained, f'{form}-int4', folder)
    folders.read(folder)


def trained_on(experiment: Experiment, bits: int, steps: int = 0) -> Experiment:
  """The experiment that goes on from the student with weights of so many bits: its baseline on the labels
  alone, its student with the teacher."""
  config = copy.deepcopy(dict(experiment.config))
  student = config['student']
  student |= {'init': str(experiment.workdir.absolute()), 'weight_bits': bits}
  student['activation_bits'] = 8 if bits else 0
  train = student['train']
  train['steps'] = steps or max(train['steps'] // 2, 1)
  train['optimiser'] = dict(train['optimiser']) | {'lr': RATE * train['optimiser']['lr']}
  config['name'] = f'{config["name"]}, {f"{bits} bits" if bits else "float"}'
  workdir = experiment.workdir / FOLDER / f'{f"int{bits}" if bits else "float"}_{train["steps"]}'
  return dataclasses.replace(experiment, config=config, workdir=workdir, teacher_from=experiment)


def _measured(experiment, forms, form, trusted) -> list[dict[str, Any]]:
  """A row a form: its score for every seed in its own runtime, its size and its latency."""
  data, task, seeds = experiment.data, experiment.task, experiment.seeds('student')
  test = data.test
  splits = {'test': test} | ({} if data.validation is None else {'validation': data.validation})
  rows, first, calibration = [], {}, None
  with tempfile.TemporaryDirectory() as temporary:
    for one in forms:
      values, name = {split: [] for split in splits}, f'{form}-{one.scheme}'.rstrip('-')
      for seed in seeds:
        trained = trained_model.load(one.workdir, one.stage, seed, trusted)
        program = run.program(trained)
        calibration = run.calibrated(experiment, program) if calibration is None else calibration
        folder = Path(temporary) / one.name / str(seed)
        folders.write(program, trained, name, folder, calibration, packed=True)
        exported = folders.read(folder)
        for split, source in splits.items():
          evaluated = measure.evaluate(exported, task, source, f'{one.name}: seed {seed}, {split}')
          values[split].append(float(evaluated.metrics[task.metric][0]))
        first.setdefault(one.name, folder)
      kept, tested = {'name': one.name, 'training': one.training}, values['test']
      kept |= {
        'values': tested,
        'mean': float(np.mean(tested)),
        'validation': values.get('validation', tested),
      }
      rows.append(kept | {'std': float(np.std(tested, ddof=1)) if len(tested) > 1 else 0.0})
    where = experiment.workdir, 'student', seeds[0]
    costs = measure.costs(first, test, *where, tuple(trusted))
    for row in rows:
      row |= costs[row['name']]
      target = experiment.workdir / exports.FOLDER / f'{form}-{row["name"]}'
      folders.copy(first[row['name']], target)
      row['export'] = str(target.relative_to(experiment.workdir))
  return rows


def chosen(experiment, rows, tolerance, max_bytes, max_ms) -> dict[str, Any]:
  """The content of ship.json."""
  data, task, reference, name = experiment.data, experiment.task, rows[0], ''
  sign = 1 if task.higher_is_better else -1
  for row in rows:
    test, selection = (
      significance.paired(row[k], reference[k], task.higher_is_better, 1 / len(source))
      for k, source in (('values', data.test), ('validation', data.validation or data.test))
    )
    row |= {'p': test.p, 'difference': test.difference, 'verdict': test.verdict}
    row['keeps'] = selection.verdict != 'worse' and sign * selection.difference >= -tolerance
    row['fits'] = (not max_bytes or row['bytes'] <= max_bytes) and (
      not max_ms or row['latency_ms_one_thread'] <= max_ms
    )
  for key, front in (('bytes', 'on_size_front'), ('latency_ms_one_thread', 'on_latency_front')):
    for row in rows:
      row[front] = not any(_beats(other, row, key, sign) for other in rows)
  good = [row for row in rows if row['keeps'] and row['fits']]
  if good:
    smallest = min(row['bytes'] for row in good)
    best = [row for row in good if row['bytes'] <= 1.01 * smallest]
    name = max(best, key=lambda row: sign * np.mean(row['validation']))['name']
  path, nothing = experiment.workdir / 'results.json', {'stages': {}}
  results = files.read_json(path, {'stages': dict}, 'run compare', nothing)
  return {
    'name': experiment.config['name'],
    'metric': task.metric,
    'split': experiment.config['data']['test'],
    'seeds': list(experiment.seeds('student')),
    'rows': rows,
    'stages': {k: v for k, v in results['stages'].items() if k in ('teacher', 'baseline')},
    'chosen': name,
    'tolerance': tolerance,
    'max_bytes': max_bytes,
    'max_ms': max_ms,
    'hardware': compare.hardware(),
    'command': experiment.command,
    'notes': [
      'Every score is that of the exported file in its own runtime, on the whole split. A form that was '
      'trained on is to be compared with the float student of equal steps, not with the first.',
      'Chosen on validation: the smallest whose score is not significantly below that of the float student '
      f'(paired t-test), and not by more than {tolerance:g} on average.'
      if data.validation is not None
      else 'There is no validation split: the choice was made on the scores that are shown.',
      'Sizes are of the gzipped files, as they are downloaded. Latency is that of this machine and of one '
      'thread; a phone has another.',
    ],
  }


def _beats(one, other, key, sign) -> bool:
  """Whether a row is at least as good and as small as another, and better in one of both."""
  gains = sign * (one['mean'] - other['mean']), other[key] - one[key]
  return min(gains) >= 0 and max(gains) > 0


def show(shipped: Mapping[str, Any], folder: Path) -> None:
  """Prints the table and where the page is."""
  progress.console.print(report.frontier.table(shipped))
  progress.say(report.frontier.verdict(shipped))
  progress.say(f'report: {folder / "ship.html"}')
