"""The flags of all commands."""

import sys
from collections.abc import Sequence

from absl import flags

from kdjax.cli import help_text
from kdjax.errors import KdjaxError
from kdjax.experiment import overrides
from kdjax.runtime.files import check_local

CONFIG = flags.DEFINE_string(
  'config', None, 'The recipe: a file, or the name of one that comes with kdjax; its argument after a colon.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Where everything is kept; by default runs/<recipe>.')
DATA_DIR = flags.DEFINE_string('data_dir', None, 'Where TFDS keeps prepared data.')
SPLIT = flags.DEFINE_string('split', 'test', 'What is evaluated on.')
STAGE = flags.DEFINE_string('stage', 'student', 'Whose model answers: teacher, baseline, ceiling or student.')
SEED = flags.DEFINE_integer('seed', None, 'Which of its seeds answers; by default the first.')
INPUTS = {
  'image': flags.DEFINE_multi_string(
    'image', [], 'A picture, a folder of them, or a quoted pattern such as "shapes/*.png".'
  ),
  'text': flags.DEFINE_multi_string('text', [], 'Words; or a .txt file, a text a line.'),
  'audio': flags.DEFINE_multi_string('audio', [], 'A sound file, a folder of them, or a quoted pattern.'),
  'video': flags.DEFINE_multi_string('video', [], 'A .npy or .npz of frames, or a picture that moves.'),
}
ARRAYS = flags.DEFINE_multi_string('array', [], 'NAME=FILE.npy of any other input of the model.')
INPUT = flags.DEFINE_string('input', None, 'A .jsonl, .csv or .tsv file whose columns are the inputs.')
OUTPUT = flags.DEFINE_string('output', None, 'A .jsonl or .csv file for the answers, instead of printing.')
BATCH = flags.DEFINE_integer('batch', 32, 'How many examples are answered at a time.')
TOP = flags.DEFINE_integer('top', 5, 'How many answers to each example are given, the best first.')
TRUST = flags.DEFINE_multi_string(
  'trust', [], 'A module that the workdir names and that is no part of kdjax; it is then run.'
)
SCALE = flags.DEFINE_string('scale', 'cpu', 'How large: smoke, cpu or paper.')
ONLY = flags.DEFINE_string('only', '', 'Which cells: ROW,COLUMN, patterns of both, such as "KD,*".')
SHARD = flags.DEFINE_string('shard', '', 'i/n takes every n-th experiment, i from 0.')
PLAN = flags.DEFINE_bool('plan', False, 'Shows what it would take, and runs nothing.')
TOPOLOGY = flags.DEFINE_string(
  'topology', 'v5e-8', "Devices to plan for: 'v5e-256', '8xh100', or nodes too, '4x8xh100'."
)
TO = flags.DEFINE_list('to', [], 'Formats, with commas: stablehlo, onnx, litert, python, web, hf.')
MEASURE = flags.DEFINE_bool(
  'measure', True, 'Whether exports are scored on the test split, and their cost is measured.'
)
TOLERANCE = flags.DEFINE_float('tolerance', 0.01, 'The most of the score that an export may lose.')
STEPS = flags.DEFINE_integer('steps', 0, "Of each further training; 0 for half of the student's.")
MAX_BYTES = flags.DEFINE_float('max_bytes', 0, 'The largest file to ship; 0 for any.')
MAX_MS = flags.DEFINE_float('max_ms', 0, 'The largest latency on one thread to ship, ms; 0 for any.')
PUSH = flags.DEFINE_string('push', '', 'With --to=hf: org/name on the Hugging Face hub to upload to.')
GZIP = flags.DEFINE_bool('gzip', False, 'Whether the files of models are gzipped, as for a download.')
RUNTIME = flags.DEFINE_string('runtime', '', 'Which export of the workdir answers, such as onnx or litert.')
COORDINATOR = flags.DEFINE_string('coordinator', None, 'On a pod with no launcher: host:port of process 0.')
PROCESSES = flags.DEFINE_integer('num_processes', None, 'How many processes the pod has.')
PROCESS = flags.DEFINE_integer('process_id', None, 'Which of them this is, from 0.')
JOIN_TIMEOUT = flags.DEFINE_float('join_timeout', 300, 'Seconds that processes of a pod wait for each other.')
HEARTBEAT = flags.DEFINE_integer(
  'heartbeat_timeout', 60, 'Seconds after which a silent process of a pod counts as dead.'
)
CACHE = flags.DEFINE_string(
  'cache', '~/.cache/kdjax', "Keeps compiled programs and decoded data for the next start; '' keeps none."
)

CHANGES: list[tuple[str, str]] = []  # (key, text) of every --config.KEY=VALUE


def parse(argv: Sequence[str]) -> list[str]:
  """Reads the flags, returns the other arguments; a mistake in them is one line too."""
  if help_text.asked(argv[1:]):
    sys.exit(help_text.show(argv[1:]))
  remaining, CHANGES[:] = overrides.split(argv)
  sys.argv[:] = remaining
  try:
    rest = flags.FLAGS(remaining)
  except flags.Error as e:
    raise KdjaxError(f'{e} (see --help)') from e
  for flag in (CONFIG, WORKDIR, DATA_DIR, INPUT, OUTPUT, CACHE):
    check_local(flag.value or '', f'--{flag.name}')
  return rest
