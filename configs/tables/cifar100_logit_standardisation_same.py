"""CIFAR-100, one kind: standardised logits in KD, CTKD and DKD (Sun et al., CVPR 2024, 2403.01427).

  python run.py table configs/tables/cifar100_logit_standardisation_same.py --scale=paper
    --workdir=runs/cifar100 --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 1,020 PFLOP: 4.5 A100 hours at a fifth of the peak in bfloat16, and
models as small as these reach less.
Published: the README of logit-standardization-KD at f6e5aa5; T, weight and β of each pair are in the names of
its logs; the recipe is that of RepDistiller. With its --workdir, teachers, baselines and KD are those of its
tables, and DKD that of mdistiller's.
"""

from . import repdistiller
from .cifar100_dkd_same import ALONE, EPOCHS, dkd
from .repdistiller import BATCH, EXAMPLES, Way, way

SETTINGS = {  # (T, weight) of KD, (T, weight, β) of DKD; CTKD has the weight 9 for all
  ('resnet32x4', 'resnet8x4'): ((2, 9), (2, 9, 8)),
  ('vgg13', 'vgg8'): ((3, 9), (2, 15, 2)),
  ('wrn-40-2', 'wrn-40-1'): ((2, 9), (2, 12, 2)),
  ('wrn-40-2', 'wrn-16-2'): ((2, 9), (2, 12, 2)),
  ('resnet56', 'resnet20'): ((2, 9), (3, 18, 2)),
  ('resnet110', 'resnet32'): ((2, 9), (2, 15, 2)),
  ('resnet110', 'resnet20'): ((4, 12), (2, 15, 2)),
}
ROWS = {
  'KD': (73.33, 72.98, 73.54, 74.92, 70.66, 73.08, 70.67),
  'KD standardised': (76.62, 74.36, 74.37, 76.11, 71.43, 74.17, 71.48),
  'CTKD': (73.39, 73.52, 73.93, 75.45, 71.19, 73.52, 70.99),
  'CTKD standardised': (76.67, 74.47, 74.58, 76.08, 71.34, 74.01, 71.39),
  'DKD': (76.32, 74.68, 74.81, 76.24, 71.97, 74.11, 71.06),
  'DKD standardised': (77.01, 74.81, 74.89, 76.39, 72.32, 74.29, 71.85),
}
NOTES = (
  'The published means are near the best epochs of the released logs on the test images: 76.62 of KD for '
  'resnet32x4 → resnet8x4, with 76.66 for the best epoch and 76.28 for the last. Ours are of the last.',
  'The rows that are not standardised are copied from the papers of these methods: KD at T = 4 with 0.9 and '
  '0.1 on the labels, CTKD with the same weights, DKD as in mdistiller, which has no config for four of the '
  'pairs: there β is that of the standardised log.',
  'Standardised KD and CTKD have 0.1 on the labels. DKD has 1, and the weight multiplies α = 1 and β.',
  'CTKD is the variant with one temperature, 1 + 20 · σ(θ), turned against the student over 10 epochs. Three '
  'of its logs, all of two kinds, hold 480 epochs; ours has 240. It and the warm-up of DKD change with every '
  'step, not every epoch.',
  'MLKD and its standardised form have no row: they need a second, strongly augmented view of each image '
  '(RandAugment), and a batch has one; they train for 480 epochs.',
  *repdistiller.NOTES,
)
SOURCE = 'README.md and logs of sunshangquan/logit-standardization-KD at f6e5aa5'
PAPER = 'Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, arXiv 2403.01427'
UNSTATED = {('resnet110', 'resnet20'): 2.0}  # β of plain DKD, for pairs that mdistiller does not have
REVERSAL = 10 * EXAMPLES // BATCH  # steps until CTKD has turned its gradient


def ways(settings, unstated):
  """The ways of a table's rows, of its settings."""

  def plain(teacher, student):
    entry = dkd(teacher, student)
    entry['methods']['dkd']['beta'] = unstated.get((teacher, student), entry['methods']['dkd']['beta'])
    return entry

  def kd(teacher, student):
    temperature, weight = settings[teacher, student][0]
    options = {'weight': float(weight), 'temperature': float(temperature), 'standardise': True}
    return {'task_weight': 0.1, 'methods': {'kd': options}}

  def decoupled(teacher, student):
    temperature, weight, beta = map(float, settings[teacher, student][1])
    options = {'weight': weight, 'alpha': 1.0, 'beta': beta, 'temperature': temperature, 'standardise': True}
    return {'task_weight': 1.0, 'methods': {'dkd': options | {'warmup': 20 / EPOCHS}}}

  return {
    'KD': repdistiller.WAYS['KD'],
    'KD standardised': Way(kd),
    'CTKD': way('ctkd', 0.9, lambda of: 'logits', 0.1, steps=REVERSAL),
    'CTKD standardised': way('ctkd', 9.0, lambda of: 'logits', 0.1, steps=REVERSAL, standardise=True),
    'DKD': Way(plain),
    'DKD standardised': Way(decoupled),
  }


def get_table(scale):
  return repdistiller.table(
    scale,
    dict.fromkeys(SETTINGS, ALONE),
    ROWS,
    ways=ways(SETTINGS, UNSTATED),
    name='cifar100_logit_standardisation_same',
    title='CIFAR-100 of logit standardisation: teacher and student of one kind',
    paper=PAPER,
    source=SOURCE,
    selection='last epoch; published: near the best on the test images',
    notes=NOTES,
  )
