"""The networks of Deep Compression (1510.00149): what the paper prints of them, and how they are trained."""

from kdjax.paper_tables.compression import Layer, Recipe
from kdjax.recipes import model

IMAGES, BATCH = 55_000, 128
NETS = {'LeNet-300-100': model('mlp', hidden=(300, 100)), 'LeNet-5': model('lenet5')}
SMALL = {'LeNet-300-100': model('mlp', hidden=(8,)), 'LeNet-5': model('lenet5', channels=(5, 10), hidden=56)}
COLUMNS = ('kept', 'weight bits', 'weight bits, Huffman', 'index bits', 'index bits, Huffman', 'P+Q', 'P+Q+H')
# Kernel -> name and weights, and the columns, as printed.
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
# As printed: error in % and kB of the dense network, the same of the compressed one, and the quotient.
WHOLE = {'LeNet-300-100': (1.64, 1070, 1.58, 27, 40), 'LeNet-5': (0.8, 1720, 0.74, 44, 39)}
EPOCHS = {
  'LeNet-300-100': {'dense': 20, 'round': 8, 'last': 20, 'share': 8},
  'LeNet-5': {'dense': 8, 'round': 2, 'last': 5, 'share': 2},
}
ROUNDS = {'LeNet-300-100': 5, 'LeNet-5': 3}
RATES = {'LeNet-300-100': 2e-3, 'LeNet-5': 1e-3}  # of retraining


def recipe(net, scale):
  smoke, adam = scale == 'smoke', {'name': 'adam', 'warmup': 0.0, 'clip': 0.0, 'weight_decay': 1e-4}
  return Recipe(
    layers={k: Layer(v[1] / 100, v[2], v[4]) for k, v in LAYERS[net].items()},
    small=SMALL[net],
    rounds=2 if smoke else ROUNDS[net],
    epochs=dict.fromkeys(EPOCHS[net], 1) if smoke else EPOCHS[net],
    optimisers={
      'dense': adam | {'lr': 1e-3},
      'prune': adam | {'lr': RATES[net]},
      'share': adam | {'lr': 3e-4, 'weight_decay': 0.0},
    },
    batch_size=16 if smoke else BATCH,
  )
