"""The command `export`: a trained model in the formats of other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from kdjax import recipes
from kdjax.cli import commands, flags, recipe
from kdjax.errors import KdjaxError
from kdjax.runtime import files, trust
from kdjax.runtime.files import user_path

if TYPE_CHECKING:
  from kdjax.experiment.experiment import Experiment


def export(command: str) -> None:
  """Writes --to formats of the model of --workdir and measures them."""
  workdir = _workdir()
  if not flags.TO.value:
    raise KdjaxError('as what? Set --to, such as --to=onnx,litert.')
  if flags.PUSH.value and 'hf' not in flags.TO.value:
    raise KdjaxError(f'--push={flags.PUSH.value}: it uploads what --to=hf writes.')
  from kdjax.export import hub, run
  from kdjax.runtime.progress import say

  trusted = commands.trusted(flags.TRUST.value)
  experiment = _experiment(workdir, trusted, command) if flags.MEASURE.value else None
  try:
    _ = experiment and experiment.data.test
  except KdjaxError as e:
    say(f'not measured, since the data cannot be read: {e}')
    experiment = None
  chosen = flags.STAGE.value, flags.SEED.value
  run.export(workdir, flags.TO.value, experiment, *chosen, trusted, flags.GZIP.value, flags.TOLERANCE.value)
  if flags.PUSH.value:
    say(hub.push(run.folder(workdir, 'hf', flags.STAGE.value), flags.PUSH.value))


def ship(command: str) -> int | None:
  """Chooses a form of the student of --workdir."""
  workdir = _workdir()
  from kdjax.export import ship

  if len(flags.TO.value) > 1:
    raise KdjaxError(f'--to={",".join(flags.TO.value)}: one format is shipped at a time.')
  trusted = commands.trusted(flags.TRUST.value)
  experiment = _experiment(workdir, trusted, command)
  limits = {
    'tolerance': flags.TOLERANCE.value,
    'max_bytes': flags.MAX_BYTES.value,
    'max_ms': flags.MAX_MS.value,
  }
  form = (flags.TO.value or ['litert'])[0]

  def work():
    shipped = ship.ship(experiment, form, flags.STEPS.value, **limits, trusted=trusted)
    ship.show(shipped, workdir / ship.FOLDER)

  return commands.stoppable(work)


def _workdir() -> Path:
  """The folder of --workdir."""
  logging.set_verbosity(logging.ERROR)
  if not flags.WORKDIR.value:
    raise KdjaxError('whose model? Set --workdir to the folder of an experiment.')
  return user_path(flags.WORKDIR.value)


def _experiment(workdir: Path, trusted: list[str], command: str) -> 'Experiment':
  """The experiment of a workdir: its recipe, with the keys that the command sets."""
  from kdjax.experiment.experiment import Experiment

  path = workdir / 'config.json'
  if not path.exists():
    raise KdjaxError(f'{workdir} holds no experiment: set --workdir to the folder of one.')
  config = files.read_json(path, {'data': dict}, 'run the command of the experiment again')
  elsewhere = {'mesh', 'shard'}  # of the devices that it was trained on
  config['run'] = {k: v for k, v in config.get('run', {}).items() if k not in elsewhere}
  config = recipe.changed(recipes.Recipe(config), flags.CHANGES)
  trust.ask(config, {}, trusted, path)
  return Experiment(config, workdir, flags.DATA_DIR.value, command, cache=commands.compilation_cache())
