"""CIFAR-10 at 16×16 in 5 epochs: the protocol of RepDistiller for two CPU cores; no paper's table.

  python run.py table configs/tables/cifar10_scaled.py --data_dir=~/tensorflow_datasets

Losses, weights, taps, batch, schedule and the last epoch are those of cifar100_repdistiller_same.py, with DKD
and DIST beside them; the pair is resnet20 → resnet8. 55 minutes on two CPU cores, which other work shared;
`--plan` says 27, as it measures no losses of the methods, of which CRD's takes the most.
"""

from . import repdistiller
from .repdistiller import EXAMPLES, way

STEPS = 5 * EXAMPLES // repdistiller.BATCH
NAMES = ('KD', 'FitNet', 'AT', 'SP', 'RKD')
WAYS = {name: repdistiller.WAYS[name] for name in NAMES} | {
  'CRD': way('crd', 0.8, lambda of: 'embed', negatives=2048, dim=32, temperature=0.07, momentum=0.5),
  'DKD': way('dkd', 1.0, lambda of: 'logits', alpha=1.0, beta=2.0, temperature=4.0, warmup=20 / 240),
  'DIST': way('dist', 2.0, lambda of: 'logits', temperature=4.0),
}
PAIRS = {('resnet20', 'resnet8'): (None, None)}
ROWS = {row: (None,) for row in WAYS}
NOTES = (
  'No paper has these numbers: the published column is empty, and the table says nothing about theirs.',
  'Images are resized to 16×16, so that crops move by 2 pixels and maps have half the side; 5 epochs, the '
  'learning rate falling after 5/8, 6/8 and 7/8 of them, as in 240.',
  'DKD has β = 2, as mdistiller for small ResNets; DIST has 2 between the classes, 2 between the examples '
  'and T = 4. CRD has 2,048 negatives and embeddings of 32, where theirs are 16,384 and 128: these '
  'would take most of the time.',
  *repdistiller.NOTES[:2],
)


def smaller(config):
  config.data.update(name='cifar10', image_size=16)
  for stage in ('teacher', 'student'):
    config[stage].train.steps = min(config[stage].train.steps, STEPS)
  return config


def get_table(scale):
  return repdistiller.table(
    scale,
    PAIRS,
    ROWS,
    ways=WAYS,
    change=smaller,
    panel='Top-1 on the test images, %',
    name='cifar10_scaled',
    title='CIFAR-10 at 16×16 in 5 epochs: the protocol of RepDistiller, scaled down',
    paper='none; the protocol is that of Tian et al., ICLR 2020, arXiv 1910.10699',
    source='none',
    notes=NOTES,
  )
