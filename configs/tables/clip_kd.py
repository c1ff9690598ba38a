"""CLIP-KD: what each way of distilling CLIP is worth (Yang et al., CVPR 2024, 2307.12732).

  python run.py table configs/tables/clip_kd.py --scale=paper --workdir=runs/clip_kd --data_dir=DIR

It has not been run. DIR holds cc3m_cc12m/pairs.jsonl, your download of CC3M and CC12M, and what
configs/tables/clip_towers.py says. The models' FLOPs are 136,000 PFLOP: 605 A100 hours at a fifth of the
peak in bfloat16. Published: README.md of winycg/CLIP-KD at f3ae18b; recipe: its script/ and src/ at e151019.
"""

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import smoke

from .clip_towers import EMOJI, IMAGENET, adamw, clip, recipe

PAIRS, EPOCHS, BATCH, WARMUP = 12_860_000, 32, 1024, 10_000  # 2.89 M of CC3M and 9.97 M of CC12M
STEPS = EPOCHS * PAIRS // BATCH
MASK = 0.75
NAME = 'ViT-B/16 → ViT-T/16'
MASKED = ('image/masked_embed', 'text/embed')
ROWS = {  # published, and the methods with their weights; each beside CLIP's own loss
  'CRD': (31.94, {'clip_crd': {'weight': 1.0}}),
  'FD': (34.23, {'clip_fd': {'weight': 2000.0}}),
  'MFD': (34.09, {'clip_fd': {'weight': 2000.0, 'student': MASKED}}),
  'GD': (31.54, {'clip_gd': {'weight': 1e8, 'released': True}}),
  'ICL': (33.11, {'clip_icl': {'weight': 1.0, 'released': True}}),
  'AFD': (31.42, {'clip_afd': {'weight': 1.0, 'released': True}}),
  'CLIP-KD': (34.9, {'clip_kd': {'weight': 1.0, 'fd': 2000.0, 'icl': 1.0, 'crd': 1.0, 'released': True}}),
}
ALONE = {'teacher': 36.99, 'student': 30.55}
NOTES = (
  'Images are squeezed to 224×224 and enlarged from a box of 90 to 100 % of that, bilinear. Theirs are such '
  'boxes of the whole image, bicubic, and for the test the middle of 224 pixels on the shorter side.',
  'The prompts of the test are five templates of our own, not the 80 of CLIP: give those in '
  'data.options.templates. Prompts matter by a few points, to all rows alike.',
  'CLIP-KD is FD + ICL + CRD. Each row has the contrastive loss of weight 1 beside it.',
  'GD, ICL, AFD and CLIP-KD have the scale as the released code has it, with which the numbers were made: '
  'not exponentiated, and in GD dividing where the formula multiplies; 1e8 is its weight for that.',
  'The weight of AFD is not known: its script sets that of CRD. It is 1 here.',
  'MFD drops 75 % of the patches of a second look of the student, as the paper has it; CLIP of the pairs '
  'sees all. The code at e151019 makes that look and then overwrites it, so that its MFD may have been FD.',
  'Weight decay is 0.1 on arrays of two axes and more, the class token among them; theirs spares that, and '
  'gives 0.01 to what AFD learns. The factor of the cosines is at most 100 in both.',
  'Batches run on over the ends of epochs, and are computed in bfloat16 where theirs are mixed float16.',
  'One run each, as published (seed 0), so nothing is tested. The weights are those of the last step.',
  'The ablation without the task loss (40.1 and 42.6 of a LAION-400M ViT-B/16 of 67.1) is not here: we '
  'know no such weights in the names of transformers, and laion/CLIP-ViT-B-16-laion2B-s34B-b88K is another.',
)


def experiment(scale):
  config = recipe(NAME, 'cc3m_cc12m/pairs.jsonl', scale)
  config.teacher.model = clip((768, 12), (512, 12), 16, scale, scale_limit=100.0)
  config.student.model = clip((192, 12), (384, 12), 16, scale, scale_limit=100.0, of_image={'masked': MASK})
  for stage in ('teacher', 'student'):
    config[stage].train = adamw(STEPS, BATCH, 1e-3, WARMUP, weight_decay=0.1, clip=0.0)
  config.cohort = {row: {'methods': methods} for row, (_, methods) in ROWS.items()}
  return smoke(config) if scale == 'smoke' else config


def get_table(scale):
  small, column = scale == 'smoke', 'ViT-T/16'
  published = {} if small else ALONE | {row: n for row, (n, _) in ROWS.items()}
  models = {'teacher': ('teacher', 'CRD'), 'student': ('baseline', 'CRD')}
  models |= {row: ('student', row) for row in ROWS}
  rows = {
    row: {column: Cell((NAME,), stage, member, published=published.get(row))}
    for row, (stage, member) in models.items()
  }
  return Table(
    name='clip_kd',
    title='Distilling CLIP of CLIP-KD' + (': smoke' if small else ''),
    paper='Yang et al., CVPR 2024, arXiv 2307.12732',
    source='README.md of winycg/CLIP-KD at f3ae18b',
    experiments={NAME: experiment(scale)},
    panels={EMOJI if small else IMAGENET: rows},
    measures={'zero_shot': MEASURES['zero_shot']},
    notes=NOTES,
  )
