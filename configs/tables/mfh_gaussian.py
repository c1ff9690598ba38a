"""The Gaussian study of the Modality Focusing Hypothesis (Xue et al., ICLR 2023, 2206.06487, table 2).

  python run.py table configs/tables/mfh_gaussian.py --workdir=runs/mfh_gaussian

A linear teacher on x1 with all the values that decide the label is a worse teacher for a linear student on x2
than one with the shared values alone, though it is more accurate. γ is the share of the decisive
values that both have. 10 runs, each with data of its own, drawn from the seeds 42 to 51. Expect
docs/tables/mfh_gaussian.md; 2 cores: 19 min, other work beside it.
"""

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import base, model, training

# γ as printed -> decisive values of x1 alone and of both; published: regular teacher, general teacher, no KD,
# KD from the regular teacher, KD from the general one.
ROWS = {
  'γ = 0.25': ((15, 5), (89.7, 64.84, 59.29, 59.46, 61.01)),
  'γ = 0.33': ((10, 5), (89.41, 68.42, 61.98, 62.16, 64.5)),
  'γ = 0.50': ((10, 10), (89.62, 73.41, 67.64, 67.86, 70.25)),
  'γ = 0.66': ((10, 20), (89.82, 77.98, 73.48, 73.6, 75.43)),
  'γ = 0.75': ((10, 30), (89.7, 79.41, 76.46, 76.53, 77.7)),
}
NOTES = (
  'The paper does not say which decisive values its γ = 0.25 and 0.66 have; 15 + 5 and 10 + 20 are taken.',
  'The released code gives the teacher of the regular student x2 and trains that student on x1, and tests it '
  'on x2. The column "as released" does the same; "regular KD" gives each what is meant for it. With 50 '
  'values in either, no shape gives it away. Where most of what decides is shared, that mistake helps the '
  'student. Their code, run with torch 2.13 and the seeds 42 to 51, gives 63.15, 68.86, 75.58 and 77.86 in '
  'this column from γ = 0.33 on, as ours does; the printed 73.6 and 76.53 are lower.',
  'Published numbers are means of 10 runs, with no deviation. Ours draw other data from the same '
  'distribution. KD is 1/2 · KL at T = 1, since the released loss is a mean over examples and both classes.',
  'p tests a student against no KD on the same data.',
)


def experiment(own, shared, seed, steps, general=False, swapped=False):
  config = base('mfh_gaussian')
  config.seeds, config.seed = 1, seed
  config.data.update(name='gaussians', transfer='transfer_swapped' if swapped else 'transfer')
  ranges = {'decisive': own + shared, 'x1': (0, own + shared), 'x2': (0, shared)}
  config.data.options = ranges | {'seed': seed, 'same': general}
  for stage in ('teacher', 'student'):
    config[stage].model = model('mlp', hidden=())
    config[stage].train = training(steps, 200, 0.1, name='sgd', schedule='constant', warmup=0.0, clip=0.0)
    config[stage].train.optimiser.weight_decay = 0.0
    config[stage].inputs = {'image': 'x2' if stage == 'student' else 'x1_general' if general else 'x1'}
  config.methods = {'kd': {'weight': 0.5, 'temperature': 1.0}}
  config.run.update(eval_every=steps, log_every=steps, save_every=steps)
  return config


def get_table(scale):
  runs, steps = (2, 20) if scale == 'smoke' else (10, 1000)
  experiments, teachers, body = {}, {}, {}
  for row, (decisive, published) in ROWS.items():
    names = {kind: [f'{row} {kind} {i}' for i in range(runs)] for kind in ('regular', 'general', 'released')}
    for i in range(runs):
      args = (*decisive, 42 + i, steps)
      experiments[names['regular'][i]] = experiment(*args)
      experiments[names['general'][i]] = experiment(*args, general=True)
      experiments[names['released'][i]] = experiment(*args, swapped=True)
      teachers[names['released'][i]] = names['regular'][i]
    regular, general, released = (tuple(names[k]) for k in ('regular', 'general', 'released'))
    body[row] = {
      'regular teacher': Cell(regular, 'teacher', published=published[0]),
      'general teacher': Cell(general, 'teacher', published=published[1]),
      'no KD': Cell(regular, 'baseline', published=published[2]),
      'regular KD': Cell(regular),
      'regular KD, as released': Cell(released, published=published[3], against=regular),
      'general KD': Cell(general, published=published[4]),
    }
  return Table(
    name='mfh_gaussian',
    title='Modality Focusing Hypothesis: the Gaussian study',
    paper='Xue et al., The Modality Focusing Hypothesis, ICLR 2023, arXiv 2206.06487, table 2',
    source='zihuixue/MFH at e6e4e85, gauss/figs/table2.png; recipe from gauss/main_modify_gamma.py',
    experiments=experiments,
    panels={'Accuracy on 1,000 test examples, %': body},
    measures={'top1': MEASURES['top1']},
    teachers=teachers,
    notes=NOTES,
  )
