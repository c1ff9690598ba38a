"""Distil a large teacher into a small student: train both, and say whether it helped.

  python run.py --config=configs/quickstart.py                the whole experiment
  python run.py teacher --config=…                            one stage: teacher, baseline, student, compare
  python run.py evaluate --config=… --split=validation        metrics of the finished stages
  python run.py methods [NAME]                                what there is: methods, models, tasks, datasets

Any key of a recipe can be set here: --config.student.train.steps=500 --config.methods.kd.weight=2.
--config=FILE.py:smoke=1 shrinks a recipe to seconds. The same command goes on where it stopped.
"""

import os
import shlex
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from kdjax.errors import KdjaxError

KINDS = {'methods': 'methods', 'models': 'models', 'tasks': 'tasks', 'datasets': 'data'}
STAGES = ('teacher', 'baseline', 'student', 'compare')
COMMANDS = ('all', *STAGES, 'evaluate', *KINDS)

CONFIG = config_flags.DEFINE_config_file('config', None, 'The recipe, a file of configs/.')
WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything is kept; by default runs/<recipe>.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps prepared data.')
SPLIT = flags.DEFINE_string('split', 'test', 'What `evaluate` evaluates on.')
DISTRIBUTED = flags.DEFINE_enum('distributed', 'auto', ('auto', 'yes', 'no'), 'Whether this is one process of a pod.')
CACHE = flags.DEFINE_string('cache', '~/.cache/kdjax', "Keeps compiled programs for the next start; '' keeps none.")


def show(kind, names):
  """Prints what there is of a kind, or the documentation of the named ones."""
  from kdjax import catalogue

  for name in names:
    print(f'{name}: {catalogue.module(kind, name).__doc__.strip()}\n\n{catalogue.entry(kind, name).__doc__.strip()}\n')
    print('\n'.join(f'  {k} = {"(needed)" if v is v.__class__ else v!r}' for k, v in catalogue.options(kind, name).items()))
  rows = [] if names else catalogue.listing(kind)
  for name, family, line in rows:
    print(f'{name:20} {family:14} {line}')


def main(argv):
  command, *names = argv[1:] or ['all']
  if command not in COMMANDS:
    from kdjax.errors import unknown

    raise unknown('command', command, COMMANDS)
  if command in KINDS:
    return show(KINDS[command], names)
  if CONFIG.value is None:
    raise KdjaxError('which recipe? For instance --config=configs/quickstart.py')

  import absl.logging
  import jax

  from kdjax import parallel, progress, stages

  absl.logging.set_verbosity(absl.logging.ERROR)
  if CACHE.value:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser(CACHE.value))
  parallel.start(DISTRIBUTED.value)
  config = CONFIG.value.to_dict()
  workdir = Path(WORKDIR.value or f'runs/{config["name"]}').absolute()
  experiment = stages.Experiment(config, workdir, DATA_DIR.value, shlex.join(['python', *sys.argv]))
  if command == 'evaluate':
    for stage, metrics in stages.evaluate(experiment, SPLIT.value).items():
      for name, values in metrics.items():
        progress.say(f'{stage:10} {name:10} ' + ' '.join(f'{v:.4f}' for v in values))
    return None
  try:
    stages.run(experiment, stages.STAGES if command == 'all' else (command,))
  except stages.train.Interrupted as e:
    progress.say(str(e))
    return 143
  return None


def one_line(call):
  """Runs `call`; whatever the user can put right becomes one line and exit status 2."""
  try:
    return call()
  except KdjaxError as e:
    sys.exit(f'error: {e}')
  except OSError as e:
    if e.errno not in (28, 122, 13, 30):  # a full disk, a quota, no permission, read-only
      raise
    sys.exit(f'error: {e.strerror} ({e.filename or "writing"}); nothing that was saved is lost.')


if __name__ == '__main__':
  one_line(lambda: app.run(lambda argv: sys.exit(one_line(lambda: main(argv)))))
