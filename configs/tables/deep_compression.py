"""Deep Compression (Han, Mao & Dally, 1510.00149): LeNet-300-100 and LeNet-5 pruned, shared and coded; and distilled.

  python run.py table configs/tables/deep_compression.py --data_dir=~/tensorflow_datasets

Each layer keeps the share of weights and has the bits that the paper prints, so that the sizes are given and the
errors are measured. Expect docs/tables/deep_compression.md; 2 cores: TIME, other work beside it.
"""

from kdjax.paper_tables import Cell, Measure, Table
from kdjax.paper_tables.compression import Layer, Recipe, run
from kdjax.recipes import base, model, training

IMAGES, BATCH = 55_000, 128
SEEDS = {'LeNet-300-100': 3, 'LeNet-5': 3}
NETS = {'LeNet-300-100': model('mlp', hidden=(300, 100)), 'LeNet-5': model('lenet5')}
SMALL = {'LeNet-300-100': model('mlp', hidden=(8,)), 'LeNet-5': model('lenet5', channels=(5, 10), hidden=56)}
TEACHER = model('lenet5', channels=(32, 64), hidden=1000, dropout=0.5)
# Kernel -> name and weights as printed; kept %, bits of a weight, with Huffman, of an index, with Huffman, P+Q %,
# P+Q+H %.
LAYERS = {
  'LeNet-300-100': {
    'hidden1/kernel': ('ip1, 235K', 8, 6, 4.4, 5, 3.7, 3.1, 2.32),
    'hidden2/kernel': ('ip2, 30K', 9, 6, 4.4, 5, 4.3, 3.8, 3.04),
    'head/linear/kernel': ('ip3, 1K', 26, 6, 4.3, 5, 3.2, 15.7, 12.7),
  },
  'LeNet-5': {
    'conv1/kernel': ('conv1, 0.5K', 66, 8, 7.2, 5, 1.5, 78.5, 67.45),
    'conv2/kernel': ('conv2, 25K', 12, 8, 7.2, 5, 3.9, 6.0, 5.28),
    'hidden/kernel': ('ip1, 400K', 8, 5, 4.5, 5, 4.5, 2.7, 2.45),
    'head/linear/kernel': ('ip2, 5K', 19, 5, 5.2, 5, 3.7, 6.9, 6.13),
  },
}
# Errors in % and kB, dense and compressed.
WHOLE = {'LeNet-300-100': (1.64, 1070, 1.58, 27, 40), 'LeNet-5': (0.8, 1720, 0.74, 44, 39)}
COLUMNS = ('kept', 'weight bits', 'weight bits, Huffman', 'index bits', 'index bits, Huffman', 'P+Q', 'P+Q+H')
EPOCHS = {
  'LeNet-300-100': {'dense': 20, 'round': 8, 'last': 20, 'share': 8},
  'LeNet-5': {'dense': 8, 'round': 2, 'last': 5, 'share': 2},
}
ROUNDS, PRUNE = {'LeNet-300-100': 5, 'LeNet-5': 3}, {'LeNet-300-100': 2e-3, 'LeNet-5': 1e-3}  # PRUNE: rates
TEACHER_EPOCHS = 6
NOTES = ('TODO',)


def number(digits, higher=None, unit=''):
  return Measure(lambda metrics, gathered: float('nan'), unit, higher, digits)


def recipe(net, scale):
  smoke = scale == 'smoke'
  adam = {'name': 'adam', 'schedule': 'cosine', 'warmup': 0.0, 'clip': 0.0, 'weight_decay': 1e-4}
  return Recipe(
    layers={k: Layer(v[1] / 100, v[2], v[4]) for k, v in LAYERS[net].items()},
    small=SMALL[net],
    rounds=2 if smoke else ROUNDS[net],
    epochs=dict.fromkeys(EPOCHS[net], 1) if smoke else EPOCHS[net],
    optimisers={
      'dense': adam | {'lr': 1e-3},
      'prune': adam | {'lr': PRUNE[net]},
      'share': adam | {'lr': 3e-4, 'weight_decay': 0.0},
    },
    batch_size=16 if smoke else BATCH,
  )


def experiment(net, scale, seed):
  config, steps = base('deep_compression'), IMAGES // BATCH
  config.seeds, config.seed = 1, seed
  config.data.update(name='mnist', options={'hold_out': 12})
  config.teacher.model, config.student.model = TEACHER, NETS[net]
  config.teacher.train = training(TEACHER_EPOCHS * steps, BATCH, 1e-3, name='adam', weight_decay=0.0)
  config.teacher.train.augment = ('jitter',)
  config.student.train = training(recipe(net, scale).all_epochs * steps, BATCH, 1e-3, name='adam')
  config.methods = {'kd': {'weight': 1.0, 'temperature': 8.0}}
  config.run.update(eval_every=steps, log_every=100, save_every=1000, eval_batch=1000)
  if scale == 'smoke':
    config.teacher.train.update(steps=4, batch_size=16)
    config.data.limit.update(train=96, validation=32, test=48)
    config.run.eval_batch = 48
  return config


def panels(net, names):
  """The three panels of a network."""
  error, kb, coded_error, coded_kb, times = WHOLE[net]

  def row(member, stage='student', error=None, kb=None, sized=True):
    size = Cell(names, stage, member, 'kB', kb)
    return {'error, %': Cell(names, stage, member, published=error)} | ({'kB': size} if sized else {})

  coded = {'kB': Cell(names, 'student', 'coded', 'kB', coded_kb), '×': Cell(names, 'student', 'coded', '×', times)}
  whole = {
    'dense': row('dense', 'baseline', error, kb),
    'pruned, retrained': row('pruned', sized=False),
    'weights shared': row('shared', sized=False),
    'centroids trained, coded': row('coded', error=coded_error, sized=False) | coded,
  }
  ours = {
    'coded, no KD': row('coded', sized=False) | {'kB': Cell(names, 'student', 'coded', 'kB')},
    'coded, KD from the dense net': row('kd', sized=False) | {'kB': Cell(names, 'student', 'kd', 'kB')},
    'coded, KD from a larger net': row('kd_large', sized=False) | {'kB': Cell(names, 'student', 'kd_large', 'kB')},
    'that larger net': row('teacher', 'teacher'),
    'small dense net, labels': row('small', 'baseline'),
    'small dense net, KD from the dense net': row('small'),
  }
  layers = {}
  for key, (name, *printed) in LAYERS[net].items():
    pairs = zip(COLUMNS, printed, strict=True)
    layers[name] = {c: Cell(names, 'baseline', key, c, p) for c, p in pairs}
  layers['all'] = {c: Cell(names, 'baseline', 'whole', c) for c in COLUMNS}
  return {f'{net}': whole, f'{net}: layers': layers, f'{net}: beyond the paper': ours}


def get_table(scale):
  seeds = {net: range(1 if scale == 'smoke' else n) for net, n in SEEDS.items()}
  names = {net: tuple(f'{net} seed {i}' for i in seeds[net]) for net in SEEDS}
  experiments = {n: experiment(net, scale, i) for net in SEEDS for i, n in enumerate(names[net])}
  first, *others = experiments
  recipes = {net: recipe(net, scale) for net in SEEDS}
  digits = {'kept': 1, 'weight bits': 0, 'index bits': 0, 'weight bits, Huffman': 1, 'index bits, Huffman': 1}
  return Table(
    name='deep_compression',
    title='Deep Compression of LeNets on MNIST' + (': smoke' if scale == 'smoke' else ''),
    paper='Han, Mao & Dally, Deep Compression, ICLR 2016, arXiv 1510.00149, tables 1, 2 and 3',
    source='the paper',
    experiments=experiments,
    teachers=dict.fromkeys(others, first),
    panels=dict(panel for net in SEEDS for panel in panels(net, names[net]).items()),
    measures={'error': number(2, False, '%'), 'kB': number(1, unit='kB'), '×': number(1)}
    | {c: number(digits.get(c, 2)) for c in COLUMNS},
    notes=NOTES,
    runner=lambda name, experiment: run(recipes[name.split(' seed ')[0]], experiment),
  )
