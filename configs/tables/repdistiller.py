"""Shared by the CIFAR-100 tables: architectures, the recipe of 240 epochs, the methods with their weights.

It is no table itself. The protocol is that of Tian, Krishnan & Isola (ICLR 2020, 1910.10699) as RepDistiller
has it at b84f547; mdistiller and the code of logit standardisation took it over. Tables that are fields one
`--workdir` share teachers, baselines and students: a pair has one name and one config in all of them.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import base, model, smoke, training

MODELS = {
  **{f'resnet{depth}': model('cifar_resnet', depth=depth) for depth in (8, 14, 20, 32, 44, 56, 110)},
  **{f'resnet{depth}x4': model('cifar_resnet', depth=depth, widen=4) for depth in (8, 32)},
  **{f'wrn-{d}-{w}': model('cifar_wrn', depth=d, widen=w) for d in (16, 40) for w in (1, 2)},
  **{f'vgg{depth}': model('cifar_vgg', depth=depth) for depth in (8, 11, 13, 16, 19)},
  'ResNet50': model('cifar_resnet_bottleneck'),
  'MobileNetV2': model('cifar_mobilenet_v2'),
  'ShuffleNetV1': model('cifar_shufflenet_v1'),
  'ShuffleNetV2': model('cifar_shufflenet_v2'),
}
FOUR = ('vgg', 'ResNet50', 'MobileNetV2')  # have four stages, the others three
LIGHT = ('MobileNetV2', 'ShuffleNetV1', 'ShuffleNetV2')  # learn at 0.01, the others at 0.05
EPOCHS, FIRST, EXAMPLES, BATCH = 240, 30, 50_000, 64
DASH = '–'  # the paper has none: the method does not go with the pair
NOTES = (
  'Nothing is selected: all 50,000 training images are trained on, and the weights are those of the end.',
  'A cell is 3 students of one teacher. They see the same batches and crops, and differ in their first '
  'weights and in what a method draws. The number of runs behind the published figures is not stated.',
  'Teachers are trained here, one of an architecture; the published ones are checkpoints of the authors.',
  'Batches run on over the ends of epochs: 187,500 of 64, where theirs end each epoch with one of 16. The '
  'last layer starts as Flax has it.',
)


class Way(NamedTuple):
  """How a row is made: `member(teacher, student)` of a cohort, after `first` epochs of a first stage."""

  member: Callable
  first: int = 0


def maps(of: str, suffix: str = '') -> tuple[str, ...]:
  """The stages of an architecture, feat[1:-1] in RepDistiller."""
  return tuple(f'stage{i}{suffix}' for i in range(1, 5 if of.startswith(FOUR) else 4))


def way(method: str, weight: float, take: Callable, task: float = 1.0, first: int = 0, **options) -> Way:
  """`task` · cross-entropy + `weight` · method, over the taps that `take(architecture)` names.

  With `first`, the method alone for so many epochs, then the labels alone. `task` is one number for the whole
  training, so these labels come as KL to a one-hot distribution, which is their cross-entropy.
  """
  turn = first / (first + EPOCHS)
  labels = {'method': 'label_smoothing_teacher', 'weight': task, 'correct': 1.0, 'temperature': 0.01}

  def member(teacher, student):
    taps = {'teacher': take(teacher), 'student': take(student)}
    methods = {method: {'weight': weight, **taps, **options}}
    if not first:
      return {'task_weight': task, 'methods': methods}
    methods[method]['stop'] = turn
    return {'task_weight': 0.0, 'methods': methods | {'labels': labels | {'start': turn}}}

  return Way(member, first)


WAYS = {
  'KD': way('kd', 0.9, lambda of: 'logits', 0.1, temperature=4.0),
  'FitNet': way('fitnet', 100.0, lambda of: 'stage2'),
  'AT': way('at_mean', 1000.0, maps),
  'SP': way('sp', 3000.0, lambda of: maps(of)[-1]),
  'CC': way('cc_rd', 0.02, lambda of: 'embed', pairs='consecutive'),
  'VID': way('vid', 1.0, maps),
  'RKD': way('rkd', 1.0, lambda of: 'embed', distance=25.0, angle=50.0),
  'PKT': way('pkt', 30_000.0, lambda of: 'embed'),
  'AB': way('ab', 0.003, lambda of: maps(of, '_before'), first=FIRST),
  'FT': way('ft', 200.0, lambda of: maps(of)[-1], power=2),
  'FSP': way('fsp', 50.0, lambda of: ('stem', *maps(of)), first=FIRST),
  'NST': way('nst', 50.0, maps),
  'CRD': way('crd', 0.8, lambda of: 'embed', negatives=16_384, dim=128, temperature=0.07, momentum=0.5),
}


def recipe(name: str, teacher: str, student: str, scale: str, first: int = 0):
  """The config of a pair; the student's schedule begins after `first` epochs at its first learning rate."""
  config = base(name)
  config.seeds = 3
  config.data.update(name='cifar100', options={'hold_out': 0})
  config.data.columns.label = 'label'  # there are coarse ones too
  sgd = {'name': 'sgd', 'momentum': 0.9, 'schedule': 'steps', 'warmup': 0.0, 'clip': 0.0}
  sgd |= {'weight_decay': 5e-4, 'decay_all': True}
  for stage, of, before in (('teacher', teacher, 0), ('student', student, first)):
    epochs, lr = before + EPOCHS, 0.01 if of in LIGHT else 0.05
    drops = tuple((before + e) / epochs for e in (150, 180, 210))
    config[stage].model = MODELS[of]
    config[stage].train = training(epochs * EXAMPLES // BATCH, BATCH, lr, boundaries=drops, **sgd)
    config[stage].train.augment = ('crop_black', 'flip')
  steps = config.student.train.steps
  config.run.update(eval_every=steps, log_every=500, save_every=5000, eval_batch=1000)
  return smoke(config) if scale == 'smoke' else config


def table(
  scale: str,
  pairs: Mapping[tuple[str, str], tuple],
  rows: Mapping[str, tuple],
  *,
  ways: Mapping[str, Way] = WAYS,
  change: Callable = lambda config: config,
  panel: str = 'Top-1 on the test images of CIFAR-100, %',
  **fields,
) -> Table:
  """A row a method, a column a pair.

  Args:
    scale: of the table; 'cpu' is the paper's.
    pairs: (teacher, student) -> published accuracies of both, trained alone.
    rows: name of a way -> published accuracies, one a pair; None where there is none.
    ways: how each row is made.
    change: of every config.
    panel: title of the one panel.
    **fields: the other fields of a Table.
  """
  experiments, lent, body = {}, {}, {'teacher': {}, 'student': {}}
  for i, ((teacher, student), alone) in enumerate(pairs.items()):
    pair, lender = f'{teacher} → {student}', f'teacher {teacher}'
    if lender not in experiments:
      experiments[lender] = change(recipe(lender, teacher, teacher, scale))
    body['teacher'][pair] = Cell((lender,), 'teacher', published=alone[0])
    for row, published in rows.items():
      if published[i] == DASH:
        continue
      first, member = ways[row].first, row.replace(' ', '_')
      name = f'{pair}, after {first} epochs of its own' if first else pair
      if name not in experiments:
        experiments[name] = change(recipe(name, teacher, student, scale, first))
        lent[name] = lender
      experiments[name].cohort[member] = ways[row].member(teacher, student)
      body.setdefault(row, {})[pair] = Cell((name,), member=member, published=published[i])
      if not first:
        body['student'].setdefault(pair, Cell((name,), 'baseline', member, published=alone[1]))
  fields['title'] += ': smoke' if scale == 'smoke' else ''
  panels, measures = {panel: body}, {'top1': MEASURES['top1']}
  return Table(experiments=experiments, panels=panels, measures=measures, teachers=lent, **fields)
