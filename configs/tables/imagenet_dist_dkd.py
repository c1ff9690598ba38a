"""ImageNet: DIST (Huang et al., NeurIPS 2022, 2205.10536) and DKD (Zhao et al., CVPR 2022, 2203.08679).

  python run.py table configs/tables/imagenet_dist_dkd.py --scale=paper --workdir=runs/imagenet
    --data_dir=~/tensorflow_datasets

It has not been run. The models' FLOPs are 22,800 PFLOP: 101 A100 hours at a fifth of the peak in bfloat16.
TFDS wants ILSVRC 2012 by hand. Published: the READMEs of DIST_KD at 2418f18 and of mdistiller at a08d46f;
recipe: configs/imagenet of the latter. The teachers are torchvision's first weights, from the hub.
"""

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import base, model, smoke, training

EXAMPLES, EPOCHS, BATCH = 1_281_167, 100, 512
STEPS = EPOCHS * EXAMPLES // BATCH
PAIRS = {  # models, weights of the teacher, accuracies alone, β of DKD
  'ResNet34 → ResNet18': (
    (model('resnet_imagenet', depth=34), model('resnet_imagenet', depth=18)),
    ('hf:timm/resnet34.tv_in1k', (73.31, 69.76), 0.5),
  ),
  'ResNet50 → MobileNetV1': (
    (model('resnet_imagenet', depth=50), model('mobilenet_v1')),
    ('hf:timm/resnet50.tv_in1k', (76.16, 70.13), 2.0),
  ),
}
ROWS = {'KD': (71.03, 70.5), 'DKD': (71.7, 72.05), 'DIST': (72.07, 73.24)}
NOTES = (
  'Images are squeezed to 224×224, moved by up to 28 pixels over a border of reflections, and mirrored. In '
  'the papers they are crops of random size and shape, and for the test the middle of 256 pixels. This is '
  'the largest deviation: it changes what students learn, and what the published teachers are worth.',
  'KD is 0.5 · cross-entropy + 0.5 · KL at T = 1; DKD has α = 1, β = 0.5 and 2, T = 1, grown over the first '
  'epoch, with every step of it.',
  'DIST is 1 · cross-entropy + 2 · between the classes + 2 · between the examples, at T = 1. It is run at '
  "mdistiller's batch of 512 and rate of 0.2; its authors' strategy files could not be read.",
  'The teacher, the student alone and DIST are printed as in DIST_KD, KD and DKD as in mdistiller, which '
  'keeps the epoch that is best on the test images; ours are of the last. These images are '
  'the 50,000 of the split "validation".',
  'A cell is 3 students of one teacher, over one order of the data. No number of runs is stated.',
  'Weights start as Flax has them, and batch norm and biases decay too.',
)


def members(beta):
  """The students of a pair, by row."""
  return {
    'KD': {'task_weight': 0.5, 'methods': {'kd': {'weight': 0.5, 'temperature': 1.0}}},
    'DKD': {'methods': {'dkd': {'weight': 1.0, 'beta': beta, 'temperature': 1.0, 'warmup': 1 / EPOCHS}}},
    'DIST': {'methods': {'dist': {'weight': 2.0, 'temperature': 1.0}}},
  }


def experiment(name, scale):
  (teacher, student), (weights, _, beta) = PAIRS[name]
  config = base(name)
  config.seeds = 3
  config.data.update(name='imagenet2012', image_size=224, test='validation')
  config.teacher.model, config.student.model = teacher, student
  for stage in ('teacher', 'student'):
    sgd = {'name': 'sgd', 'momentum': 0.9, 'weight_decay': 1e-4, 'decay_all': True, 'clip': 0.0}
    sgd |= {'schedule': 'steps', 'boundaries': (0.3, 0.6, 0.9), 'warmup': 0.0}
    config[stage].train = training(STEPS, BATCH, 0.2, **sgd)
    config[stage].train.augment = ('crop', 'flip')
  config.cohort = members(beta)
  config.run.update(eval_every=STEPS, log_every=500, save_every=2500, eval_batch=512, members_per_program=1)
  if scale == 'smoke':
    return smoke(config)
  config.teacher.init = weights
  return config


def get_table(scale):
  rows = {'teacher': {}, 'student': {}} | {row: {} for row in ROWS}
  for i, (name, (_, (_, alone, _))) in enumerate(PAIRS.items()):
    rows['teacher'][name] = Cell((name,), 'teacher', published=alone[0])
    rows['student'][name] = Cell((name,), 'baseline', next(iter(ROWS)), published=alone[1])
    for row, published in ROWS.items():
      rows[row][name] = Cell((name,), member=row, published=published[i])
  return Table(
    name='imagenet_dist_dkd',
    title='ImageNet of DIST and DKD' + (': smoke' if scale == 'smoke' else ''),
    paper='Huang et al., NeurIPS 2022, arXiv 2205.10536; Zhao et al., CVPR 2022, arXiv 2203.08679',
    source='README.md of hunto/DIST_KD at 2418f18 and of megvii-research/mdistiller at a08d46f',
    experiments={name: experiment(name, scale) for name in PAIRS},
    panels={'Top-1 on the 50,000 validation images, %': rows},
    measures={'top1': MEASURES['top1']},
    selection='last epoch; published: DKD and KD perhaps the best on these images',
    notes=NOTES,
  )
