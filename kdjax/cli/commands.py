"""What each command does with the flags; what takes long to import is imported where it is needed."""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from absl import logging

from kdjax import options, recipes
from kdjax.cli import flags, recipe
from kdjax.errors import KdjaxError
from kdjax.runtime import topology as topologies
from kdjax.runtime import trust
from kdjax.runtime.files import user_path
from kdjax.runtime.program import program


def trusted(names: Iterable[str]) -> list[str]:
  """Lets these modules be imported, also from the current folder; for names that the user wrote."""
  names = [name for name in names if trust.dotted(name)]
  trust.trust(names)
  if names and os.getcwd() not in sys.path:
    sys.path.append(os.getcwd())
  return names


def show(kind: str, names: Sequence[str]) -> None:
  """Lists the modules of a kind, or prints the documentation of the named ones."""
  from kdjax import registry

  trusted(names)
  for name in names:
    entry = registry.entry(kind, name)
    print(f'{name}\n')
    print((registry.module(kind, name).__doc__ or '').strip(), inspect.getdoc(entry), sep='\n\n', end='\n\n')
    types = options.parameters(entry)
    for option, default in registry.options(kind, name).items():
      what = options.describe(types[option].annotation)
      print(f'  {option} = {"(needed)" if default is inspect.Parameter.empty else repr(default)}  # {what}')
  for entry in [] if names else registry.listing(kind):
    print(f'{entry.name:24} {entry.family:12} {entry.line}' + (f' Taps: {entry.taps}.' if entry.taps else ''))


def explained() -> None:
  """Prints every key of the recipe."""
  from rich.console import Console

  from kdjax.experiment import explain, validate_config

  config = recipe.load(flags.CONFIG.value, flags.CHANGES)
  trusted(trust.named(config))
  validate_config.recipe(config)
  explain.show(config, Console())


def data() -> None:
  """Prints what is in the data of the recipe, and writes a page."""
  from kdjax.experiment import data_summary

  config = recipe.load(flags.CONFIG.value, flags.CHANGES)
  trusted(trust.named(config))
  logging.set_verbosity(logging.ERROR)
  workdir = user_path(flags.WORKDIR.value or f'runs/{config["name"]}')
  data_summary.show(config, workdir, flags.DATA_DIR.value, compilation_cache())


def taps(command: str) -> None:
  """Lists the taps of teacher and student."""
  chosen = experiment(command)
  from rich.console import Console

  from kdjax.experiment import tap_listing

  tap_listing.show(chosen, Console())


def plan(command: str) -> None:
  """Plans the recipe for devices that are not here."""
  topology = topologies.parse(flags.TOPOLOGY.value)
  chosen = experiment(command)
  from rich.console import Console

  from kdjax.experiment import plan_table

  plan_table.show(chosen, topology, Console())


def experiment(command: str):
  """The experiment of --config in --workdir; on a pod the processes have found each other."""
  config = recipe.load(flags.CONFIG.value, flags.CHANGES)
  logging.set_verbosity(logging.ERROR)
  from kdjax.experiment.experiment import Experiment

  trusted(trust.named(config))
  cache = compilation_cache()
  join_pod()
  workdir = user_path(flags.WORKDIR.value or f'runs/{config["name"]}')
  return Experiment(config, workdir, flags.DATA_DIR.value, command, cache=cache)


def train(selected: tuple[str, ...], command: str) -> int | None:
  """Runs stages."""
  chosen = experiment(command)
  from kdjax.experiment import stages

  return stoppable(lambda: stages.run(chosen, selected))


def store(what: str, command: str) -> int | None:
  """Builds, verifies or shows the store of the teacher's outputs."""
  chosen = experiment(command)
  from kdjax.experiment import stages

  return stoppable(lambda: stages.store_command(chosen, what))


def evaluate(command: str) -> None:
  """Prints the metrics of the finished stages."""
  chosen = experiment(command)
  from kdjax.experiment import stages
  from kdjax.runtime import progress

  for stage, metrics in stages.evaluate(chosen, flags.SPLIT.value).items():
    for name, values in metrics.items():
      progress.say(f'{stage:10} {name:10} ' + ' '.join(f'{v:.4f}' for v in values))


def table(name: str, command: str) -> int | None:
  """Runs a table, or plans it."""
  from kdjax.paper_tables import run
  from kdjax.paper_tables.table import load

  if not name:
    raise KdjaxError(f'which table? For instance: {program()} table mfh_gaussian')
  logging.set_verbosity(logging.ERROR)
  cache = compilation_cache()
  join_pod()
  planned = load(name, flags.SCALE.value)
  configs = (c.to_dict() if hasattr(c, 'to_dict') else c for c in planned.experiments.values())
  trusted(module for config in configs for module in trust.named(config))
  workdir = user_path(flags.WORKDIR.value or f'runs/{planned.name}')
  how = {'only': flags.ONLY.value, 'shard': flags.SHARD.value, 'planned': flags.PLAN.value}
  how |= {'scale': flags.SCALE.value, 'cache': cache}
  return stoppable(lambda: run.run(planned, workdir, flags.DATA_DIR.value, command, **how))


def index(folder: str) -> None:
  """Writes the page of all tables: of those here, else of those that come with kdjax."""
  from kdjax.paper_tables.index import index

  logging.set_verbosity(logging.ERROR)
  here = Path(recipes.TABLES)
  index(here if here.is_dir() else recipes.FOLDER / here.name, Path(folder))


def stoppable(work: Callable) -> int | None:
  """Runs `work`; a signal becomes one line, and exit status 143."""
  from kdjax.runtime import progress, signals

  try:
    work()
  except (signals.Interrupted, KeyboardInterrupt) as e:
    progress.say(str(e) or 'stopped; run the same command to go on.')
    return 143
  return None


def join_pod() -> None:
  """Lets the processes of a pod find each other."""
  from kdjax.runtime import distributed

  for flag, least in ((flags.JOIN_TIMEOUT, 1), (flags.HEARTBEAT, 5)):
    if not least <= flag.value <= 1e6:  # NaN is neither
      raise KdjaxError(f'--{flag.name}={flag.value}: it is seconds, {least} or more.')
  address = flags.COORDINATOR.value, flags.PROCESSES.value, flags.PROCESS.value
  distributed.distributed_init(*address, flags.JOIN_TIMEOUT.value, flags.HEARTBEAT.value)


def leave_pod(error: Exception) -> None:
  """Where this process is one of a pod: tells the others what went wrong, and ends."""
  if hosts := sys.modules.get('kdjax.runtime.hosts'):  # else it has not joined one
    hosts.failed(error)


def compilation_cache() -> str:
  """Turns JAX's compilation cache on; returns its folder, '' for none."""
  import jax

  from kdjax.input import decoded_cache

  # A damaged entry is compiled again.
  warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')
  cache = decoded_cache.usable(flags.CACHE.value)
  if cache:
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  return cache
