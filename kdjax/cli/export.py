"""The command `export`: a trained model in the formats of other runtimes."""

from absl import logging

from kdjax import recipes
from kdjax.cli import commands, flags, recipe
from kdjax.errors import KdjaxError
from kdjax.runtime import files, trust
from kdjax.runtime.files import user_path


def export(command: str) -> None:
  """Writes --to formats of the model of --workdir and measures them."""
  if not flags.WORKDIR.value or not flags.TO.value:
    raise KdjaxError('whose model, and as what? Set --workdir and --to, such as --to=onnx,litert.')
  logging.set_verbosity(logging.ERROR)
  from kdjax.experiment.experiment import Experiment
  from kdjax.export import run
  from kdjax.runtime.progress import say

  workdir, trusted = user_path(flags.WORKDIR.value), commands.trusted(flags.TRUST.value)
  cache = commands.compilation_cache()
  config = workdir_config(workdir)
  experiment = None
  if flags.MEASURE.value:
    trust.ask(config, {}, trusted, workdir / 'config.json')
    experiment = Experiment(config, workdir, flags.DATA_DIR.value, command, cache=cache)
    try:
      experiment.data.test  # noqa: B018
    except KdjaxError as e:
      say(f'not measured, since the data cannot be read: {e}')
      experiment = None
  run.table(run.export(workdir, flags.TO.value, experiment, flags.STAGE.value, flags.SEED.value, trusted))


def workdir_config(workdir) -> dict:
  """The recipe of a workdir, with the keys that the command sets."""
  if not (workdir / 'config.json').exists():
    raise KdjaxError(f'{workdir} holds no experiment: set --workdir to the folder of one.')
  config = files.read_json(workdir / 'config.json', {'data': dict}, 'run the command of the experiment again')
  return recipe.changed(recipes.Recipe(config), flags.CHANGES)
