"""CIFAR-100, two kinds: standardised logits in KD, CTKD and DKD (Sun et al., CVPR 2024, 2403.01427).

  python run.py table configs/tables/cifar100_logit_standardisation_diff.py --scale=paper
    --workdir=runs/cifar100 --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 1,260 PFLOP: 5.6 A100 hours at a fifth of the peak in bfloat16, and
models as small as these reach less.
Published, settings and recipe: as in cifar100_logit_standardisation_same.py, with a learning rate of 0.01 for
MobileNetV2 and ShuffleNetV2.
"""

from . import repdistiller
from .cifar100_logit_standardisation_same import ALONE, NOTES, PAPER, SOURCE, ways

SETTINGS = {  # (T, weight) of KD, (T, weight, β) of DKD; CTKD has the weight 9 for all
  ('resnet32x4', 'ShuffleNetV2'): ((2, 9), (2, 9, 8)),
  ('resnet32x4', 'wrn-16-2'): ((3, 9), (2, 9, 2)),
  ('resnet32x4', 'wrn-40-2'): ((3, 9), (2, 9, 8)),
  ('wrn-40-2', 'resnet8x4'): ((2, 9), (2, 18, 2)),
  ('wrn-40-2', 'MobileNetV2'): ((3, 9), (2, 15, 2)),
  ('vgg13', 'MobileNetV2'): ((3, 9), (3, 9, 2)),
  ('ResNet50', 'MobileNetV2'): ((3, 1), (2, 15, 2)),
}
ROWS = {
  'KD': (74.45, 74.9, 77.7, 73.97, 68.36, 67.37, 67.35),
  'KD standardised': (75.56, 75.26, 77.92, 77.11, 69.23, 68.61, 69.02),
  'CTKD': (75.37, 74.57, 77.66, 74.61, 68.34, 68.5, 68.67),
  'CTKD standardised': (76.18, 75.16, 77.99, 77.03, 69.53, 68.98, 69.36),
  'DKD': (77.07, 75.7, 78.46, 75.56, 69.28, 69.71, 70.35),
  'DKD standardised': (77.37, 76.19, 78.95, 76.75, 70.01, 69.98, 70.45),
}
UNSTATED = {  # β of plain DKD, for pairs that mdistiller does not have
  ('resnet32x4', 'wrn-16-2'): 2.0,
  ('wrn-40-2', 'resnet8x4'): 2.0,
  ('wrn-40-2', 'MobileNetV2'): 2.0,
}


def get_table(scale):
  return repdistiller.table(
    scale,
    dict.fromkeys(SETTINGS, ALONE),
    ROWS,
    ways=ways(SETTINGS, UNSTATED),
    name='cifar100_logit_standardisation_diff',
    title='CIFAR-100 of logit standardisation: teacher and student of two kinds',
    paper=PAPER,
    source=SOURCE,
    selection='last epoch; published: near the best on the test images',
    notes=NOTES,
  )
