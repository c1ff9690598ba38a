"""CIFAR-100, teacher and student of two kinds: twelve methods (Tian, Krishnan & Isola, 1910.10699, table 2).

  python run.py table configs/tables/cifar100_repdistiller_diff.py --scale=paper --workdir=runs/cifar100
    --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 1,110 PFLOP: 5 A100 hours at a fifth of the peak in bfloat16, and
models as small as these reach less.
Published: the README of RepDistiller at b84f547; the recipe is that of cifar100_repdistiller_same.py, with a
learning rate of 0.01 for MobileNetV2 and the ShuffleNets. There is no FSP: the widths differ.
"""

from . import repdistiller
from .cifar100_repdistiller_same import NOTES, PAPER, SOURCE

PAIRS = {  # teacher, student -> their accuracies alone
  ('vgg13', 'MobileNetV2'): (74.64, 64.6),
  ('ResNet50', 'MobileNetV2'): (79.34, 64.6),
  ('ResNet50', 'vgg8'): (79.34, 70.36),
  ('resnet32x4', 'ShuffleNetV1'): (79.42, 70.5),
  ('resnet32x4', 'ShuffleNetV2'): (79.42, 71.82),
  ('wrn-40-2', 'ShuffleNetV1'): (75.61, 70.5),
}
ROWS = {
  'KD': (67.37, 67.35, 73.81, 74.07, 74.45, 74.83),
  'FitNet': (64.14, 63.16, 70.69, 73.59, 73.54, 73.73),
  'AT': (59.4, 58.58, 71.84, 71.73, 72.73, 73.32),
  'SP': (66.3, 68.08, 73.34, 73.48, 74.56, 74.52),
  'CC': (64.86, 65.43, 70.25, 71.14, 71.29, 71.38),
  'VID': (65.56, 67.57, 70.3, 73.38, 73.4, 73.61),
  'RKD': (64.52, 64.43, 71.5, 72.28, 73.21, 72.21),
  'PKT': (67.13, 66.52, 73.01, 74.1, 74.69, 73.89),
  'AB': (66.06, 67.2, 70.65, 73.55, 74.31, 73.34),
  'FT': (61.78, 60.99, 70.29, 71.75, 72.5, 72.03),
  'NST': (58.16, 64.96, 71.28, 74.12, 74.68, 74.89),
  'CRD': (69.73, 69.11, 74.3, 75.11, 75.65, 76.05),
}


def get_table(scale):
  return repdistiller.table(
    scale,
    PAIRS,
    ROWS,
    name='cifar100_repdistiller_diff',
    title='CIFAR-100 of RepDistiller: teacher and student of two kinds',
    paper=f'{PAPER}, table 2',
    source=SOURCE,
    notes=NOTES,
  )
