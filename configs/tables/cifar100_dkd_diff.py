"""CIFAR-100, teacher and student of two kinds: KD and decoupled KD (Zhao et al., CVPR 2022, 2203.08679).

  python run.py table configs/tables/cifar100_dkd_diff.py --scale=paper --workdir=runs/cifar100
    --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 378 PFLOP: 1.7 A100 hours at a fifth of the peak in bfloat16, and
models as small as these reach less.
Published: the README of mdistiller at a08d46f; recipe: as in cifar100_dkd_same.py, with a learning rate of
0.01 for MobileNetV2 and the ShuffleNets.
"""

from . import repdistiller
from .cifar100_dkd_same import ALONE, NOTES, PAPER, SOURCE, WAYS

PAIRS = {
  ('resnet32x4', 'ShuffleNetV1'): ALONE,
  ('wrn-40-2', 'ShuffleNetV1'): ALONE,
  ('vgg13', 'MobileNetV2'): ALONE,
  ('ResNet50', 'MobileNetV2'): ALONE,
  ('resnet32x4', 'ShuffleNetV2'): ALONE,
}
ROWS = {
  'KD': (74.07, 74.83, 67.37, 67.35, 74.45),
  'DKD': (76.45, 76.7, 69.71, 70.35, 77.07),
}
COLUMN = (
  'The README calls the last student MobileNet-V2. Its KD is the 74.45 that RepDistiller has for '
  'ShuffleNetV2, and there is a config of that pair alone: it is taken for a slip.'
)


def get_table(scale):
  return repdistiller.table(
    scale,
    PAIRS,
    ROWS,
    ways=WAYS,
    name='cifar100_dkd_diff',
    title='CIFAR-100 of DKD: teacher and student of two kinds',
    paper=PAPER,
    source=SOURCE,
    selection='last epoch; published: perhaps the best on the test images',
    notes=(COLUMN, *NOTES),
  )
