"""What --help prints: one screen of all commands, or of one."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from kdjax.runtime.program import program

ASKED = ('--help', '-help', '-h', '--helpfull', '--helpshort')
WIDTH = 110
STAGES = ('teacher', 'baseline', 'ceiling', 'student', 'compare')
LISTS = {'methods': 'methods', 'models': 'models', 'tasks': 'tasks', 'datasets': 'data'}
LISTS |= {'generators': 'generators'}  # command -> kind of the registry
RUN = ('config', 'workdir', 'data_dir', 'cache')
POD = ('coordinator', 'num_processes', 'process_id', 'join_timeout', 'heartbeat_timeout')
OVERVIEW = """
The stages:
  teacher   trains the large model, or takes the weights of --config.teacher.init=PATH|pip:NAME|hf:org/name
  baseline  trains the small model on the labels alone, with the student's budget, seeds (ceiling: on all)
  student   trains the same small model on the teacher's outputs too
  compare   evaluates all of them, tests the difference, writes results.json, report.md, report.html

Any key of a recipe can be set here:   --config.student.train.steps=500 --config.methods.kd.weight=2
A recipe in seconds; one of your own:  --config=quickstart:smoke=1; --config=mine.py
Your own files, with no code:          --config=own_data --config.data.path=FILE or FOLDER
A data set of TFDS:                    --config.data.name=cifar10 --data_dir=~/tensorflow_datasets

All commands take --workdir=FOLDER, where everything is kept. The same command goes on where it stopped.
SIGTERM and Ctrl-C save first; the exit status is then 143.
"""
EXAMPLES = (
  ('--config=quickstart', 'the whole experiment, all stages'),
  ('teacher --config=...', 'one stage: teacher, baseline, student, compare …'),
  ('evaluate --config=... --split=validation', 'the metrics of the finished stages'),
  ('store build --config=...', "stores the teacher's outputs; also verify, info"),
  ('predict --workdir=W --image=FILE --text=WORDS', "the student's answers; also of a table, --input=FILE"),
  ('export|ship --workdir=W --to=onnx', 'the student for servers, browsers, phones; its smallest form'),
  ('table mfh_gaussian --workdir=W', "a paper's table; --plan, --scale, --only, --shard"),
  ('tables [FOLDER]', 'one page of all tables; docs/tables by default'),
  ('config --config=...', 'every key of a recipe: value, type, range, meaning'),
  ('data --config=...', 'what is in the data: splits, labels, duplicates, examples'),
  ('plan --config=... --topology=v5e-256', 'memory and time on devices that are not here'),
  ('taps --config=...', 'what methods can pair: outputs of both models, with shapes'),
  ('methods [NAME]', 'also models, tasks, datasets, generators'),
  ('COMMAND --help', 'more about one command'),
)


class Help(NamedTuple):
  """Of one command: what stands after its name, what it does, its flags, examples."""

  arguments: str
  text: str
  flags: tuple[str, ...] = ()
  examples: tuple[str, ...] = ()


def _stage(what: str) -> Help:
  text = f'{what} A stage that is done is left alone. Several may be named, in order: {" ".join(STAGES)}.'
  return Help('--config=RECIPE', text, (*RUN, *POD))


COMMANDS = {
  'all': Help('--config=RECIPE', 'The whole experiment: all stages.', (*RUN, *POD)),
  'teacher': _stage('Trains the large model, or takes the weights of --config.teacher.init.'),
  'baseline': _stage("Trains the small model on the labels alone, with the student's budget and seeds."),
  'ceiling': _stage('Trains the small model on all labels alone; needs --config.ceiling=True.'),
  'student': _stage("Trains the same small model on the teacher's outputs too."),
  'compare': _stage(
    'Evaluates all of them, tests the difference, writes results.json, report.md, report.html.'
  ),
  'evaluate': Help('--config=RECIPE', 'Prints the metrics of the finished stages.', ('split', *RUN, *POD)),
  'store': Help(
    'build|verify|info --config=RECIPE',
    "Stores the teacher's outputs, computes a sample again and compares, or says what is stored.",
    (*RUN, *POD),
  ),
  'config': Help('--config=RECIPE', 'Every key of a recipe: value, type, range, meaning.', ('config',)),
  'data': Help(
    '--config=RECIPE',
    'Shows what is in the data before anything is trained: splits, classes, shapes, label counts, lengths '
    'of texts, what is missing, what stands in train and test; and writes a page with examples.',
    RUN,
  ),
  'taps': Help(
    '--config=RECIPE',
    'Lists the outputs of teacher and student that a method can pair, with their shapes: what the models '
    'return, and below it the outputs of the modules within them by path.',
    ('config', 'data_dir', 'cache'),
  ),
  'plan': Help(
    '--config=RECIPE --topology=DEVICES',
    'Says what the stages would take on devices that are not here: memory, operations and bytes sent on '
    'each, time, what to change where it does not fit, and the line that launches it. With libtpu (pip '
    'install libtpu) the programs are compiled for a TPU; else by a share of the batch, compiled here.',
    ('config', 'topology', 'data_dir', 'cache'),
    (
      'plan --config=quickstart --topology=v5e-16',
      'plan --config=mine.py --topology=4x8xh100 --config.run.mesh.fsdp=8 --config.run.shard.teacher=auto',
    ),
  ),
  'predict': Help(
    '--workdir=FOLDER [ROWS]',
    'Answers of a trained model; its data set is not needed. ROWS is a .jsonl, .csv or .tsv file with the '
    'columns image, text, audio, video, as --input; or give --image, --text, --audio, --video, and any other '
    'input by --array=NAME=FILE: each once, or once a row. '
    'What is not given is absent. With --output the answers go into a file, beside the columns of ROWS.',
    (
      'workdir',
      'image',
      'text',
      'audio',
      'video',
      'array',
      'input',
      'output',
      'batch',
      'top',
      'stage',
      'seed',
      'runtime',
      'trust',
    ),
    (
      "predict --workdir=runs/quickstart --image=shape.png --text='what color is the shape?'",
      "predict --workdir=runs/quickstart --image='shapes/*.png' --text='is it red?' --top=1",
      'predict --workdir=runs/quickstart --input=rows.csv --output=answers.csv',
    ),
  ),
  'export': Help(
    '--workdir=FOLDER --to=FORMATS',
    'Writes a trained model for other runtimes, a folder a format in FOLDER/exports: stablehlo (JAX without '
    'kdjax), onnx (servers, browsers), litert (phones), python (NumPy alone), each with its tokenizer and a '
    'predict.py that needs no kdjax; hf is a folder for the Hugging Face hub. onnx-int8, litert-int4, '
    'litert-static8 and so on have fewer bits. Each is scored on the whole test split in its own runtime, '
    'and its size and speed are measured.',
    ('workdir', 'to', 'gzip', 'push', 'tolerance', 'measure', 'stage', 'seed', 'data_dir', 'trust', 'cache'),
    ('export --workdir=runs/quickstart --to=onnx,litert', 'predict --workdir=runs/quickstart --runtime=onnx'),
  ),
  'ship': Help(
    '--workdir=FOLDER',
    'Makes a finished student small: trains it on with weights of 8 and 4 bits, on the labels and with the '
    'teacher, beside a float control of equal steps; exports every form; and chooses the smallest whose '
    'score over the seeds is not significantly below that of the float student. Writes ship/ship.html.',
    ('workdir', 'to', 'steps', 'tolerance', 'max_bytes', 'max_ms', 'data_dir', 'trust', 'cache'),
    ('ship --workdir=runs/quickstart', 'ship --workdir=runs/quickstart --to=onnx --max_bytes=50000'),
  ),
  'table': Help(
    'TABLE',
    "Runs the table of a paper, a file or one that comes with kdjax; beside the paper's own numbers. "
    'Processes that share the workdir share the work.',
    ('plan', 'scale', 'only', 'shard', 'workdir', 'data_dir', 'cache', *POD),
    ('table mfh_gaussian --plan', 'table cifar100_repdistiller_same --scale=paper --only=KD,*'),
  ),
  'tables': Help('[FOLDER]', 'Writes one page of all tables into a folder, docs/tables by default.'),
  **{
    name: Help('[NAME ...]', f'Lists the {name} that a recipe can name, or says all about some of them.')
    for name in LISTS
  },
}


def asked(arguments: Sequence[str]) -> bool:
  """Whether help is asked for, also by no argument at all."""
  return not arguments or any(arg in ASKED for arg in arguments)


def show(arguments: Sequence[str]) -> int:
  """Prints the help of the command among the arguments, or of all; returns the exit status."""
  command = next((arg for arg in arguments if arg in COMMANDS), None)
  print(overview() if command is None else of_command(command))
  return int(not arguments)


def overview() -> str:
  lines = [f'  {program()} {arguments}' for arguments, _ in EXAMPLES]
  width = max(map(len, lines)) + 2
  usage = (line.ljust(width) + what for line, (_, what) in zip(lines, EXAMPLES, strict=True))
  title = 'Distil a large teacher into a small student: train both, and say whether it helped.\n'
  return '\n'.join([title, *usage, OVERVIEW.rstrip()])


def of_command(command: str) -> str:
  entry = COMMANDS[command]
  lines = [f'{program()} {command} {entry.arguments}', '', *textwrap.wrap(entry.text, WIDTH)]
  lines += ['', *(f'  {program()} {example}' for example in entry.examples)] if entry.examples else []
  lines += [''] if entry.flags else []
  for name in entry.flags:
    flag = flags.FLAGS[name]
    default = '' if flag.default in (None, '', [], False) else f' Default: {flag.default}.'
    what = flag.help.partition(';\n')[0]  # absl adds that it may be repeated
    lines += textwrap.wrap(
      f'{what}{default}', WIDTH, initial_indent=f'  --{name:14}', subsequent_indent=' ' * 18
    )
  if 'config' in entry.flags and command != 'config':
    lines += ['  --config.KEY=  Any key of the recipe; `config` lists them.']
  return '\n'.join(lines)
