"""`kdjax.distill`: the whole experiment of the command line, for models and data of a program."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdjax import settings
from kdjax.api import data as data_
from kdjax.api import models
from kdjax.api.result import Result
from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages
from kdjax.experiment.experiment import Experiment
from kdjax.runtime import trust
from kdjax.runtime.files import user_path


def distill(
  teacher: Any = None,
  student: Any = None,
  train: Any = None,
  test: Any = None,
  *,
  validation: Any = None,
  classes: Sequence[str] = (),
  methods: Mapping[str, Mapping[str, Any]] | None = None,
  task: str | Mapping[str, Any] = 'classification',
  labels: float = 1.0,
  steps: int = 1000,
  teacher_steps: int | None = None,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  augment: Sequence[str] = (),
  seeds: int = 5,
  seed: int = 0,
  workdir: str | Path = 'runs/distill',
  config: Mapping[str, Any] | None = None,
) -> Result:
  """Trains a student on a teacher's outputs, and the same student without it, and compares them.

  The teacher is trained on all labels first, unless it comes with weights or is a function or outputs; then
  it is taken as it is. Run again with the same arguments it goes on where it was stopped, or loads what is
  done.

  Args:
    teacher: a Linen module, an NNX module (a class or a function of `rngs` is trained, an instance taken as
      it is), `(module, variables)` or `(module, path)`, a function `(batch) -> logits [B, C] or dict` that
      JAX can trace, `kdjax.host(function)` for any other, a path or `kdjax.load(...)` of a published
      checkpoint, a dict with 'model', the name of a model of kdjax. Or its outputs: logits [N, C] of the
      training examples in their order, or a dict of arrays: 'logits', `<tap>`, 'test/logits', and 'id' [N]
      where the rows are in another order.
    student: as `teacher`, but a model that can be trained. One with weights starts from them, and so does its
      baseline.
    train: what to learn from: `(x, label)`, a dict of arrays by key ('image' [N, H, W, C], 'text' str [N],
      'audio' [N, samples], 'label' [N], …), a source of examples, the path of a file or folder, or the name
      of a data set; see docs/python.md.
    test: for the comparison, as `train`; None where `train` is a path or a name, which has its own splits.
    validation: for tuning and `select`, as `test`.
    classes: the names of the labels, in order.
    methods: name -> weight, schedule, taps and options, as `config.methods` of a recipe; KD by default.
    task: its name, or a dict of 'name' and options.
    labels: share of the training labels that student and baseline see, in (0, 1].
    steps: updates of student and baseline.
    teacher_steps: updates of the teacher, where it is trained; `steps` by default.
    batch_size: examples a step.
    learning_rate: the largest of AdamW's, with a warm-up and a cosine schedule, of every training.
    augment: operations of the training images or texts, see `kdjax/input/augment.py`.
    seeds: how many students and baselines are trained.
    seed: of the first.
    workdir: the folder of checkpoints and reports.
    config: any other keys of a recipe, such as {'run': {'eval_every': 100}}; they go before the arguments.

  Returns:
    The `Result`.

  Raises:
    KdjaxError: for anything that the caller can put right, in one line.
    kdjax.runtime.signals.Interrupted: after Ctrl-C, with everything saved.
  """
  if student is None:
    raise KdjaxError(f'distill needs a student: give {models.TAKES}.')
  task = {'name': task} if isinstance(task, str) else dict(task)
  label = build.task(task).label
  training = {'steps': steps, 'batch_size': batch_size, 'optimiser': {'lr': learning_rate}}
  keys: dict[str, Any] = {
    'name': Path(workdir).name or 'distill',
    'seed': seed,
    'seeds': seeds,
    'task': task,
    'methods': {k: dict(v) for k, v in (methods if methods is not None else {'kd': {}}).items()},
    'teacher': {'train': training | {'steps': teacher_steps or steps}},
    'student': models.student(student) | {'train': training | {'augment': tuple(augment)}},
    'data': data_.keys(train, test, validation, classes, label or 'none') | {'labels': labels},
  }
  if teacher is not None:
    keys['teacher'] = models.teacher(teacher) | keys['teacher']
  if tokenizer := data_.tokenizer(teacher, student):
    keys['data']['tokenizer'] = tokenizer
  keys = merged(keys, config or {})
  if teacher is None and not keys['teacher'].get('model') and keys['teacher'].get('source', 'live') == 'live':
    raise KdjaxError(f'distill needs a teacher: give {models.TAKES}, a function, or its outputs.')
  keys = settings.complete(keys)
  settings.check(keys)
  trust.trust(trust.named(keys))
  experiment = Experiment(keys, user_path(workdir), command=f'kdjax.distill(workdir={str(workdir)!r})')
  results = stages.run(experiment)
  assert results is not None  # of a run with the stage 'compare'
  return Result(experiment, results)


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
  """`config` with `changes`, dicts within them merged too, but for models and methods, which are replaced."""
  result = dict(config)
  for key, value in changes.items():
    both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
    result[key] = merged(result[key], value) if both and key not in ('model', 'methods', 'task') else value
  return result
