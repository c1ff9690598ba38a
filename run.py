"""Distil a large teacher into a small student: train both, and say whether it helped.

  python run.py --config=configs/quickstart.py            the whole experiment: all four stages
  python run.py teacher --config=...                      one stage: teacher, baseline, student, compare
  python run.py evaluate --config=... --split=validation  the metrics of the finished stages
  python run.py store build --config=...                  stores the teacher's outputs; also verify, info
  python run.py predict --workdir=W --image=FILE --text=WORDS --audio=FILE   predictions of the student
  python run.py table configs/tables/X.py --workdir=W     a paper's table; --plan, --scale, --only, --shard
  python run.py tables [FOLDER]                           one page of all tables; docs/tables by default
  python run.py config --config=...                       every key of it: value, type, range, meaning
  python run.py data --config=...                         what is in the data: splits, labels, duplicates
  python run.py methods [NAME]                            also models, tasks, datasets, generators

The stages:
  teacher   trains the large model, or takes the weights of --config.teacher.init=PATH|pip:NAME|hf:org/name
  baseline  trains the small model on the labels alone, with the student's budget and seeds
  student   trains the same small model on the teacher's outputs too
  compare   evaluates all three, tests the difference, writes results.json, report.md, report.html

Any key of a recipe can be set here:   --config.student.train.steps=500 --config.methods.kd.weight=2
A recipe in seconds, to try it:        --config=configs/quickstart.py:smoke=1
Your own files, with no code:          --config=configs/own_data.py --config.data.path=FILE or FOLDER
A data set of TFDS:                    --config.data.name=cifar10 --data_dir=~/tensorflow_datasets

The same command goes on where it stopped. SIGTERM and Ctrl-C save first; the exit status is then 143.
"""

if __name__ == '__main__':  # before anything that takes time
  try:
    from kdjax.runtime import early_exit, huge_pages
  except KeyboardInterrupt:
    raise SystemExit(130) from None
  early_exit.install()
  huge_pages.restart_with_huge_pages()

import inspect
import os
import shlex
import sys
import warnings
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from kdjax import options, settings
from kdjax.errors import KdjaxError, printable, unknown
from kdjax.experiment import overrides
from kdjax.runtime.files import user_path

KINDS = {'methods': 'methods', 'models': 'models', 'tasks': 'tasks', 'datasets': 'data'}
KINDS |= {'generators': 'generators'}
STAGES = ('teacher', 'baseline', 'student', 'compare')
STORE = ('build', 'verify', 'info')
COMMANDS = ('all', *STAGES, 'evaluate', 'store', 'config', 'data', 'predict', 'table', 'tables', *KINDS)

CONFIG = config_flags.DEFINE_config_file('config', None, 'The recipe, a file of configs/.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything is kept; by default runs/<recipe>.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps prepared data.')
SPLIT = flags.DEFINE_string('split', 'test', 'What `evaluate` evaluates on.')
STAGE = flags.DEFINE_string('stage', 'student', 'Whose model `predict` takes: teacher, baseline or student.')
INPUTS = {
  'image': flags.DEFINE_multi_string('image', [], 'For `predict`: a picture; may be given several times.'),
  'text': flags.DEFINE_multi_string('text', [], 'For `predict`: words.'),
  'audio': flags.DEFINE_multi_string('audio', [], 'For `predict`: a WAV file.'),
}
TRUST = flags.DEFINE_multi_string(
  'trust', [], 'For `predict`: a module that the workdir names and that is no part of kdjax.'
)
SCALE = flags.DEFINE_string('scale', 'cpu', 'Of a `table`: smoke, cpu or paper.')
ONLY = flags.DEFINE_string('only', '', 'Cells of a `table`: ROW,COLUMN, patterns of both, such as "KD,*".')
SHARD = flags.DEFINE_string('shard', '', 'Of a `table`: i/n takes every n-th experiment, i from 0.')
PLAN = flags.DEFINE_bool('plan', False, 'Shows what a `table` would take, and runs nothing.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'On a pod with no launcher: host:port of process 0.')
PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes the pod has.')
PROCESS = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.')
CACHE = flags.DEFINE_string(
  'cache', '~/.cache/kdjax', "Keeps compiled programs and decoded data for the next start; '' keeps none."
)

ADDED = []
COMMAND = shlex.join(['python', *sys.argv])


def show(kind, names):
  """Lists the modules of a kind, or prints the documentation of the named ones."""
  from kdjax import registry
  from kdjax.runtime import trust

  trust.trust(names)
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


def main(argv):
  command, *names = argv[1:] or ['all']
  if command not in COMMANDS:
    raise unknown('command', command, COMMANDS)
  if command in KINDS:
    return show(KINDS[command], names)
  if command == 'config':
    return explained()
  if command == 'data':
    return data()
  if command == 'predict':
    return predict()
  if command == 'table':
    return table(names)
  if command == 'tables':
    return index(names)
  selected = STAGES if command == 'all' else (command, *names)
  if command == 'store':
    if names not in [[what] for what in STORE]:
      raise unknown('thing to do with the store', ' '.join(names), STORE)
  elif (command in ('all', 'evaluate') and names) or not {*selected} <= {*STAGES, 'evaluate'}:
    raise KdjaxError(f'what to do with {" ".join(argv[1:])!r}? It takes one command, or several stages.')
  config = recipe()

  logging.set_verbosity(logging.ERROR)
  from kdjax.experiment import stages
  from kdjax.experiment.experiment import Experiment
  from kdjax.runtime import distributed, progress, signals, trust

  trust.trust(trust.named(config))

  cache = compilation_cache()
  distributed.distributed_init(COORDINATOR.value, PROCESSES.value, PROCESS.value)
  workdir = user_path(WORKDIR.value or f'runs/{config["name"]}')
  experiment = Experiment(config, workdir, DATA_DIR.value, COMMAND, cache=cache)
  if command == 'evaluate':
    for stage, metrics in stages.evaluate(experiment, SPLIT.value).items():
      for name, values in metrics.items():
        progress.say(f'{stage:10} {name:10} ' + ' '.join(f'{v:.4f}' for v in values))
    return None
  try:
    stages.store_command(experiment, *names) if command == 'store' else stages.run(experiment, selected)
  except (signals.Interrupted, KeyboardInterrupt) as e:
    progress.say(str(e) or 'stopped; run the same command to go on.')
    return 143
  return None


def table(names):
  """Runs the table of a file."""
  from kdjax.paper_tables import run
  from kdjax.paper_tables.table import load
  from kdjax.runtime import distributed, progress, signals, trust

  if len(names) != 1:
    raise KdjaxError('which table? For instance: python run.py table configs/tables/mfh_gaussian.py')
  logging.set_verbosity(logging.ERROR)
  cache = compilation_cache()
  distributed.distributed_init(COORDINATOR.value, PROCESSES.value, PROCESS.value)
  planned = load(names[0], SCALE.value)
  configs = (c.to_dict() if hasattr(c, 'to_dict') else c for c in planned.experiments.values())
  trust.trust(name for config in configs for name in trust.named(config))
  workdir = user_path(WORKDIR.value or f'runs/{planned.name}')
  how = {'only': ONLY.value, 'shard': SHARD.value, 'planned': PLAN.value, 'scale': SCALE.value}
  how['cache'] = cache
  try:
    run.run(planned, workdir, DATA_DIR.value, COMMAND, **how)
  except (signals.Interrupted, KeyboardInterrupt) as e:
    progress.say(str(e) or 'stopped; run the same command to go on.')
    return 143
  return None


def explained():
  """Prints every key of the recipe."""
  from rich.console import Console

  from kdjax.experiment import explain, validate_config
  from kdjax.runtime import trust

  config = recipe()
  trust.trust(trust.named(config))
  validate_config.recipe(config)
  explain.show(config, Console())


def data():
  """Prints what is in the data of the recipe."""
  from kdjax.experiment import data_summary
  from kdjax.runtime import trust

  config = recipe()
  trust.trust(trust.named(config))
  logging.set_verbosity(logging.ERROR)
  workdir = user_path(WORKDIR.value or f'runs/{config["name"]}')
  data_summary.show(config, workdir, DATA_DIR.value, compilation_cache())


def index(names):
  """Writes the page of all tables."""
  from kdjax.paper_tables.index import index

  logging.set_verbosity(logging.ERROR)
  index(Path('configs/tables'), Path(names[0] if names else 'docs/tables'))


def predict():
  """Predicts for the files of the command line."""
  from kdjax.experiment import predict as prediction
  from kdjax.runtime import progress

  if not WORKDIR.value:
    raise KdjaxError('whose model? Set --workdir to the folder of an experiment.')
  logging.set_verbosity(logging.ERROR)
  compilation_cache()
  predictor = prediction.load(user_path(WORKDIR.value), STAGE.value, trusted=TRUST.value)
  answers, seconds = predictor.predict({k: flag.value for k, flag in INPUTS.items()})
  for line in prediction.lines({k: flag.value for k, flag in INPUTS.items()}, answers):
    print(line)
  progress.say(f'{1e3 * seconds:.1f} ms')


def compilation_cache():
  """Turns JAX's compilation cache on; returns its folder, '' for none."""
  import jax

  from kdjax.input import decoded_cache

  # A damaged entry is compiled again.
  warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation cache')
  cache = decoded_cache.usable(CACHE.value)
  if cache:
    jax.config.update('jax_compilation_cache_dir', cache)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
  return cache


def recipe():
  """The config as plain dicts, with the keys that only the command line has."""
  config = CONFIG.value
  if config is None:
    raise KdjaxError('which recipe? For instance --config=configs/quickstart.py')
  try:
    unlocked = config.unlocked()
  except OSError as e:
    raise KdjaxError(f'cannot load the recipe: {" ".join(str(e).split())}') from e
  with unlocked, config.ignore_type():
    overrides.apply(config, ADDED)
  settings.check(completed := settings.complete(config.to_dict()))
  return completed


def parse(argv):
  """Reads the flags; a mistake in them is one line too."""
  remaining, ADDED[:] = overrides.split(argv)
  sys.argv[:] = remaining
  try:
    return flags.FLAGS(remaining)
  except flags.Error as e:
    raise KdjaxError(f'{e} (see --help)') from e


def one_line(call):
  """Runs `call`; a KdjaxError or OSError becomes one line and exit status 1."""
  try:
    return call()
  except KdjaxError as e:
    sys.exit(f'error: {e}')
  except OSError as e:
    if e.filename is None:  # it may be the output itself, which Python would write to once more
      os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    where = e.filename or 'writing'
    sys.exit(printable(f'error: {e.strerror or e} ({where}); nothing that was saved is lost.'))


if __name__ == '__main__':
  one_line(lambda: app.run(lambda argv: sys.exit(one_line(lambda: main(argv))), flags_parser=parse))
