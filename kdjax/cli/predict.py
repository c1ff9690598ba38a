"""The command `predict`: a trained model answers about files of one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from kdjax.cli import commands, flags
from kdjax.errors import KdjaxError
from kdjax.runtime.files import user_path

if TYPE_CHECKING:
  from kdjax.experiment.predict import Predictor


def predict(table: str) -> None:
  """Answers about --image, --text and --audio, or about the rows of a table.

  Args:
    table: a file beside the flags, '' for none.
  """
  if not flags.WORKDIR.value:
    raise KdjaxError('whose model? Set --workdir to the folder of an experiment.')
  for name, flag in (('batch', flags.BATCH), ('top', flags.TOP)):
    if flag.value < 1:
      raise KdjaxError(f'--{name}={flag.value}: it is 1 or more.')
  values, of_arrays = {name: flag.value for name, flag in flags.INPUTS.items()}, arrays(flags.ARRAYS.value)
  for name in of_arrays:
    if values.get(name):
      raise KdjaxError(f'--{name} and --array={name}=…: give one of them.')
  values |= of_arrays
  if table and flags.INPUT.value:
    raise KdjaxError(f'one table at a time: {table} or --input={flags.INPUT.value}.')
  table = table or flags.INPUT.value or ''
  if table and any(values.values()):
    name = next(name for name, given in values.items() if given)
    raise KdjaxError(f'{table} and --{name}: give a table, or inputs by flags.')
  logging.set_verbosity(logging.ERROR)
  from kdjax.experiment import predict_files
  from kdjax.runtime import progress

  source = user_path(table) if table else None
  output = user_path(flags.OUTPUT.value) if flags.OUTPUT.value else None
  if output:
    predict_files.writable(output, source)
  commands.trusted(flags.TRUST.value)
  commands.compilation_cache()
  predictor = chosen(user_path(flags.WORKDIR.value))
  rows = predict_files.table(predictor, source) if source else predict_files.given(predictor, values)
  answers = predictor.predict(rows.columns, flags.BATCH.value, flags.TOP.value)
  if output:
    predict_files.write(output, rows.shown, answers)
    progress.say(f'{len(answers):,} answers: {output}')
  else:
    for line in predict_files.lines(rows.shown, answers):
      print(line)
  size = min(flags.BATCH.value, len(answers))
  seconds = predictor.seconds(rows.columns, size)
  progress.say(
    f'{1e3 * seconds:.3g} ms an example, in batches of {size}, compiled and without reading files.'
  )


def arrays(values: Sequence[str]) -> dict[str, list[str]]:
  """Input -> files, of --array=NAME=FILE.

  Raises:
    KdjaxError: for a value of another form.
  """
  files: dict[str, list[str]] = {}
  for value in values:
    name, equals, file = value.partition('=')
    if not name or not equals or not file:
      raise KdjaxError(f'--array={value}: it is NAME=FILE.npy, of an input of the model.')
    files.setdefault(name, []).append(file)
  return files


def chosen(workdir: Path) -> 'Predictor':
  """The model of a stage, or an exported one: of --runtime, or where --workdir is the folder of an export."""
  trained = (workdir / flags.STAGE.value / 'stage.json').exists()
  if not flags.RUNTIME.value and (trained or not (workdir / 'export.json').exists()):
    from kdjax.experiment.predict import load

    return load(workdir, flags.STAGE.value, flags.SEED.value, flags.TRUST.value)
  from kdjax.export import answers

  return answers.load(workdir / 'exports' / flags.RUNTIME.value if flags.RUNTIME.value else workdir)
