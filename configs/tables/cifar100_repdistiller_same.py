"""CIFAR-100, teacher and student of one kind: thirteen methods (Tian, Krishnan & Isola, 1910.10699, table 1).

  python run.py table configs/tables/cifar100_repdistiller_same.py --scale=paper --workdir=runs/cifar100
    --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 2,050 PFLOP: 9 A100 hours at a fifth of the peak in bfloat16, and
models as small as these reach less.
Published: the README of RepDistiller at b84f547; recipe: its train_student.py, train_teacher.py and
scripts/run_cifar_distill.sh. The scale `cpu` is the paper's; `smoke` is a few steps.
"""

from . import repdistiller
from .repdistiller import DASH

PAIRS = {  # teacher, student -> their accuracies alone
  ('wrn-40-2', 'wrn-16-2'): (75.61, 73.26),
  ('wrn-40-2', 'wrn-40-1'): (75.61, 71.98),
  ('resnet56', 'resnet20'): (72.34, 69.06),
  ('resnet110', 'resnet20'): (74.31, 69.06),
  ('resnet110', 'resnet32'): (74.31, 71.14),
  ('resnet32x4', 'resnet8x4'): (79.42, 72.5),
  ('vgg13', 'vgg8'): (74.64, 70.36),
}
ROWS = {
  'KD': (74.92, 73.54, 70.66, 70.67, 73.08, 73.33, 72.98),
  'FitNet': (73.58, 72.24, 69.21, 68.99, 71.06, 73.5, 71.02),
  'AT': (74.08, 72.77, 70.55, 70.22, 72.31, 73.44, 71.43),
  'SP': (73.83, 72.43, 69.67, 70.04, 72.69, 72.94, 72.68),
  'CC': (73.56, 72.21, 69.63, 69.48, 71.48, 72.97, 70.71),
  'VID': (74.11, 73.3, 70.38, 70.16, 72.61, 73.09, 71.23),
  'RKD': (73.35, 72.22, 69.61, 69.25, 71.82, 71.9, 71.48),
  'PKT': (74.54, 73.45, 70.34, 70.25, 72.61, 73.64, 72.88),
  'AB': (72.5, 72.38, 69.47, 69.53, 70.98, 73.17, 70.94),
  'FT': (73.25, 71.59, 69.84, 70.22, 72.37, 72.86, 70.58),
  'FSP': (72.91, DASH, 69.95, 70.11, 71.89, 72.62, 70.23),
  'NST': (73.68, 72.24, 69.6, 69.53, 71.96, 73.3, 71.53),
  'CRD': (75.48, 74.14, 71.16, 71.46, 73.48, 75.51, 73.94),
}
NOTES = (
  'KD is 0.1 · cross-entropy + 0.9 · KL at T = 4; every other row has 1 · cross-entropy and no KL. Layers '
  'that a method learns are trained as the student is.',
  'AB and FSP: theirs train the body of the student on the method alone for 30 epochs, with an optimiser for '
  'that, and then all of it on the labels alone for 240. Here that is one training of 270: momentum goes on, '
  'and weight decay reaches the last layer from the start. p compares them with a baseline of 270 epochs, '
  'which has no cell of its own.',
  'FT: their paraphraser is trained for 30 epochs before the student, at 0.01 for ResNets and WRNs, and then '
  'left as it is. Here it learns beside the student, at its learning rate: left alone it would decay.',
  'FSP has the 50 of their script, which their released first stage does not multiply with.',
  'CRD draws its 16,384 negatives with replacement. CC takes neighbours in the batch, as theirs does.',
  *repdistiller.NOTES,
)
SOURCE = 'README.md of HobbitLong/RepDistiller at b84f547'
PAPER = 'Tian, Krishnan & Isola, Contrastive Representation Distillation, ICLR 2020, arXiv 1910.10699'


def get_table(scale):
  return repdistiller.table(
    scale,
    PAIRS,
    ROWS,
    name='cifar100_repdistiller_same',
    title='CIFAR-100 of RepDistiller: teacher and student of one kind',
    paper=f'{PAPER}, table 1',
    source=SOURCE,
    notes=NOTES,
  )
