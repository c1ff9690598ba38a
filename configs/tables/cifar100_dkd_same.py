"""CIFAR-100, teacher and student of one kind: KD and decoupled KD (Zhao et al., CVPR 2022, 2203.08679).

  python run.py table configs/tables/cifar100_dkd_same.py --scale=paper --workdir=runs/cifar100
    --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 516 PFLOP: 2.3 A100 hours at a fifth of the peak in bfloat16, and
models as small as these reach less.
Published: the README of mdistiller at a08d46f; recipe: its configs/cifar100/dkd and mdistiller/engine/cfg.py,
which is that of RepDistiller. With its --workdir, teachers, baselines and KD are those of its tables.
"""

from . import repdistiller
from .repdistiller import DASH, EPOCHS, Way, maps, way

ALONE = (None, None)  # the README does not say what the models have without the other
PAIRS = {
  ('resnet56', 'resnet20'): ALONE,
  ('resnet110', 'resnet32'): ALONE,
  ('resnet32x4', 'resnet8x4'): ALONE,
  ('wrn-40-2', 'wrn-16-2'): ALONE,
  ('wrn-40-2', 'wrn-40-1'): ALONE,
  ('vgg13', 'vgg8'): ALONE,
}
ROWS = {
  'KD': (70.66, 73.08, 73.33, 74.92, 73.54, 72.98),
  'DKD': (71.97, 74.11, 76.32, 76.23, 74.81, 74.68),
  'ReviewKD': (DASH, DASH, None, DASH, DASH, DASH),
}
BETA = {  # where it is not 8
  ('resnet56', 'resnet20'): 2.0,
  ('resnet110', 'resnet32'): 2.0,
  ('wrn-40-2', 'wrn-16-2'): 6.0,
  ('wrn-40-2', 'wrn-40-1'): 6.0,
  ('vgg13', 'vgg8'): 6.0,
  ('vgg13', 'MobileNetV2'): 6.0,
}
NOTES = (
  'mdistiller keeps the epoch that is best on the test images, and does not say whether its numbers are of '
  'that one. A choice on the test images is refused here: ours are of the last epoch, and the logs of a fork '
  'have the best one 0.1 to 1.0 higher.',
  'DKD is 1 · cross-entropy + α = 1 and β as in its configs, 2, 6 or 8, at T = 4, grown over 20 epochs: here '
  'with every step, there with every epoch.',
  "KD's published row is that of RepDistiller.",
  'ReviewKD: mdistiller has the config of resnet32x4 → resnet8x4 alone, with a weight of 5 that grows over '
  '20 epochs, and no number of it on CIFAR-100.',
  *repdistiller.NOTES,
)
SOURCE = 'README.md of megvii-research/mdistiller at a08d46f'
PAPER = 'Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679'


def dkd(teacher, student):
  options = {'weight': 1.0, 'alpha': 1.0, 'beta': BETA.get((teacher, student), 8.0), 'temperature': 4.0}
  return {'task_weight': 1.0, 'methods': {'dkd': options | {'warmup': 20 / EPOCHS}}}


WAYS = {
  'KD': repdistiller.WAYS['KD'],
  'DKD': Way(dkd),
  'ReviewKD': way('reviewkd', 5.0, lambda of: (*maps(of, '_before'), 'embed'), warmup=20 / EPOCHS),
}


def get_table(scale):
  return repdistiller.table(
    scale,
    PAIRS,
    ROWS,
    ways=WAYS,
    name='cifar100_dkd_same',
    title='CIFAR-100 of DKD: teacher and student of one kind',
    paper=PAPER,
    source=SOURCE,
    selection='last epoch; published: perhaps the best on the test images',
    notes=NOTES,
  )
