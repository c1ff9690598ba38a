"""TinyCLIP: small CLIPs cut out of large ones, then distilled (Wu et al., ICCV 2023, 2309.12314).

  python run.py table configs/tables/tinyclip.py --scale=paper --workdir=runs/tinyclip --data_dir=DIR

It has not been run. DIR holds yfcc15m/pairs.jsonl, laion400m/pairs.jsonl, your downloads, and what
configs/tables/clip_towers.py says. The models' FLOPs are 874,000 PFLOP: 3,890 A100 hours at a fifth of the
peak in bfloat16. Published: README.md of wkcn/TinyCLIP at ad981bf; recipe: its script/, configs of models and
src/training/params.py, as in microsoft/Cream.
"""

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import smoke

from .clip_towers import EMOJI, IMAGENET, adamw, clip, recipe

PAIRS, EPOCHS, BATCH, WARMUP, SCALE = 400_000_000, 6, 32 * 1024, 2000, 50.0
STEPS = EPOCHS * PAIRS // BATCH
ADAMW = {'weight_decay': 0.2, 'clip': 5.0}
PLAIN = {'b2': 0.999, 'eps': 1e-8}  # of a model whose name lacks 'vit'
TEACHERS = {  # patch -> weights, activation
  16: ('hf:openai/clip-vit-base-patch16', 'quick_gelu'),
  32: ('hf:laion/CLIP-ViT-B-32-laion2B-s34B-b79K', 'gelu'),
}
YFCC, LAION, BOTH = 'YFCC-15M', 'LAION-400M', 'LAION+YFCC-400M'
FILES = {YFCC: 'yfcc15m/pairs.jsonl', LAION: 'laion400m/pairs.jsonl'}
MODELS = {  # (row, data) -> patch, (width, blocks) of the towers, the layers that each keeps, optimiser
  ('ViT-39M/16 Text-19M', YFCC): (16, (512, 12), (512, 6), ('first', 'alternate'), {}),
  ('ViT-8M/16 Text-3M', YFCC): (16, (256, 10), (256, 3), ('first', 'alternate'), {}),
  ('ViT-61M/32 Text-29M', LAION): (32, (640, 12), (512, 9), ('first', 'first'), {}),
  ('ViT-40M/32 Text-19M', LAION): (32, (512, 12), (512, 6), ('first', 'first'), PLAIN),
}
RESNET, MASKS = "CLIP's ResNet", 'learned masks of what to inherit'
OTHERS = {  # what is published and cannot be run, and why
  ('ResNet-30M Text-29M', LAION): RESNET,
  ('ResNet-19M Text-19M', LAION): RESNET,
  **{(row, LAION): MASKS for row in ('ViT-63M/32 Text-31M', 'ViT-45M/32 Text-18M', 'ViT-22M/32 Text-10M')},
  **{(row, BOTH): MASKS for row in ('ViT-63M/32 Text-31M', 'ViT-45M/32 Text-18M')},
}
PUBLISHED = {
  YFCC: {'ViT-39M/16 Text-19M': 63.5, 'ViT-8M/16 Text-3M': 41.1},
  LAION: {
    'ResNet-30M Text-29M': 59.1,
    'ResNet-19M Text-19M': 56.4,
    'ViT-61M/32 Text-29M': 62.4,
    'ViT-40M/32 Text-19M': 59.8,
    'ViT-63M/32 Text-31M': 63.9,
    'ViT-45M/32 Text-18M': 61.4,
    'ViT-22M/32 Text-10M': 53.7,
  },
  BOTH: {'ViT-63M/32 Text-31M': 64.5, 'ViT-45M/32 Text-18M': 62.7},
}
NOTES = (
  'The loss is affinity mimicking alone (α = 1), with no contrastive loss of the labels. In the second panel '
  'the same students learn from the pairs alone; nobody published that.',
  'Students start from the first channels and heads of the teacher, and from every n-th layer with n rounded '
  'down, as in weight_inherit.py at 31418e9. 40M/32 is cut from the trained 61M/32 there, and here from the '
  'teacher, at the same layers and channels.',
  'The scripts are those of ViT-B/32 on LAION-400M, with one node; docs/PRETRAINING.md says four, a batch of '
  '32,768. For YFCC-15M none is given: it has the same steps here, and the ViT-B/16 of OpenAI as teacher.',
  'The teacher of LAION is a ViT-B/32 of another training on LAION-2B (s34B-b79K) than theirs (e16), of '
  'which we know no weights in the names of transformers.',
  'Both scales of the cosines are 50, as the scripts set them; here the student cannot raise its own. '
  'Students compute GELU, as their configs say.',
  'Weight decay is 0.2, the default of their params.py. TinyCLIP-40M has other moments of Adam, since those '
  'hang on "vit" in its name. Images and prompts are as the notes of clip_kd say.',
  'One run each, as published (seed 0), so nothing is tested.',
)


def experiment(name, row, data, scale):
  patch, image, text, (of_image, of_text), own = MODELS[row, data]
  weights, act = TEACHERS[patch]
  config = recipe(name, FILES[data], scale)
  first = {'from': 'teacher', 'width': 'first'}
  acts = {k: {'act': act} for k in ('of_image', 'of_text')}
  config.teacher.model = clip((768, 12), (512, 12), patch, scale, scale_limit=SCALE, **acts)
  cuts = {k: {'init': first | {'layers': v}} for k, v in (('of_image', of_image), ('of_text', of_text))}
  config.student.model = clip(image, text, patch, scale, scale_limit=SCALE, init=first, **cuts)
  for stage in ('teacher', 'student'):  # the teacher is trained in smoke alone
    config[stage].train = adamw(STEPS, BATCH, 1e-4, WARMUP, **ADAMW, **own)
  config.task_weight, config.methods = 0.0, {'tinyclip': {'weight': 1.0}}
  if scale == 'smoke':
    return smoke(config)
  config.teacher.init, config.student.train.remat = weights, True
  return config


def get_table(scale):
  experiments, rows, alone, lent, small = {}, {}, {}, {}, scale == 'smoke'
  for data, published in PUBLISHED.items():
    for row, n in published.items():
      name, cells = f'{row}, {data}', rows.setdefault(row, {})
      if (row, data) in OTHERS:
        cells[data] = Cell((), published=None if small else n, needs=OTHERS[row, data])
        continue
      experiments[name] = experiment(name, row, data, scale)
      cells[data] = Cell((name,), published=None if small else n)
      first = next(k for k in experiments if k.endswith(data))
      alone.setdefault(f'teacher ViT-B/{MODELS[row, data][0]}', {})[data] = Cell((first,), 'teacher')
      alone.setdefault(row, {})[data] = Cell((name,), 'baseline')
      lent |= {name: first} if name != first else {}
  return Table(
    name='tinyclip',
    title='The model zoo of TinyCLIP' + (': smoke' if small else ''),
    paper='Wu et al., ICCV 2023, arXiv 2309.12314',
    source='README.md of wkcn/TinyCLIP at ad981bf',
    experiments=experiments,
    panels={EMOJI if small else IMAGENET: rows, 'The same of the teachers, and of the students alone': alone},
    measures={'zero_shot': MEASURES['zero_shot']},
    teachers=lent,
    notes=NOTES,
  )
