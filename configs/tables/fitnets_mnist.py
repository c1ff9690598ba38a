"""MNIST of FitNets (Romero et al., ICLR 2015, 1412.6550, table 4): a thin deep student that is given hints.

  python run.py table configs/tables/fitnets_mnist.py --data_dir=~/tensorflow_datasets

A maxout network of three convolutions teaches one of six with a twelfth of its weights: by its soft targets
(KD), and by its second layer first, which the student's fourth learns to give (FitNet). The numbers are the
errors on the 10,000 test images. 2 cores: 51 min, other work beside it.
"""

from kdjax.paper_tables import MEASURES, Cell, Measure, Table
from kdjax.paper_tables.measures import error_rate
from kdjax.recipes import base, model, smoke, training

# Epochs of the teacher, of the hint, and of soft targets and labels after it.
EPOCHS = {'smoke': (0.1, 0.1, 0.2), 'cpu': (8, 2, 4), 'paper': (300, 150, 500)}
RATE = Measure(lambda metrics, gathered: error_rate(gathered), '%', False)
IMAGES, BATCH, T = 50_000, 128, 3.0
FALL = 0.3  # share of the second stage in which the weight of the soft targets falls: 150 epochs of 500
HINT = 4 * 4 * 48 / 2  # makes of a mean over the map the sum of squares halved of equation 3
TEACHER = model('maxout', dropout=0.5, input_dropout=0.2)
STUDENT = model(  # 29,944 weights without the biases
  'maxout',
  channels=(16, 16, 16, 16, 12, 12),
  kernel=(5, 3, 5, 3, 3, 3),
  pad=(0, 0, 3, 0, 3, 0),
  pool=(1, 4, 1, 4, 1, 2),
  stride=(1, 2, 1, 2, 1, 2),
)
NOTES = (
  'The appendix gives layers, channels, two pieces, pooling, the layers of the hint, 50,000 training and '
  '10,000 validation images, a rate of 0.0005, batches of 128, τ = 3, and λ from 4 to 1 in 150 of at most '
  '500 epochs, but no kernels. The teacher has those of pylearn2, the student those of the released file: '
  'with two pieces in each layer that makes the 361 K and 30 K printed. That file has RMSProp, a λ that '
  'falls to 0, and four pieces in the last two layers, which would be 36 K.',
  'Every sixth training image is for validation, theirs are the last 10,000. As with them the weights kept '
  'are the best on validation, looked at once an epoch. Nothing is chosen on the test images.',
  "All students get the same number of epochs: those of the hint come off FitNet's. λ falls in 0.3 of the "
  'epochs after the hint, as theirs.',
  'Scale cpu: labels alone make a student better than its teacher, so that nothing is left to distil, and '
  "better than the printed one. The start of the kernels, Flax's, is the likeliest cause, not proven: from "
  "the paper's U(-0.005, 0.005) neither network had begun to learn after 150 steps. Adam at 0.003 and "
  'RMSProp at 0.002 were the best on validation of a few trials; later ones would have had Adam at 0.001, '
  'and a start in U(-0.02, 0.02), for a better teacher.',
  "Scale paper: that start, these rates; the epochs are assumed. The teacher's momentum is 0.7 (theirs "
  'grows to it from 0.5), its rate a cosine (theirs is divided by 1.00004 a step).',
  'Max-norm is 1.9365, theirs 0.9 in first layers; biases are shared over positions; the regressor is '
  'linear, theirs maxout. Students have no dropout, as released. The paper prints one run each.',
)


def soft_targets(start, fall):
  """λ · H(teacher, student) at T = 3 of equation 2, where λ falls from 4 to 1; kdjax's KD has T² in it."""
  kd = {'method': 'kd', 'temperature': T}
  return {
    'soft_targets': kd | {'weight': 1 / T**2, 'start': start},
    'early': kd | {'weight': 3 / T**2, 'schedule': 'linear', 'start': start, 'stop': start + fall},
  }


def members(first, second):
  """KD from the first epoch on; FitNet after `first` epochs of the hint alone."""
  epochs = first + second
  turn, fall = first / epochs, FALL * second / epochs
  hint = {'weight': HINT, 'norm': False, 'student': 'hidden4', 'teacher': 'hidden2', 'stop': turn}
  # `task_weight` is one number for the whole training: these are the labels of the second stage.
  labels = {'method': 'label_smoothing_teacher', 'weight': 1.0, 'correct': 1.0, 'temperature': 0.01}
  return {
    'KD': {'methods': soft_targets(0.0, fall)},
    'FitNet': {
      'task_weight': 0.0,
      'methods': {'fitnet': hint, 'labels': labels | {'start': turn}} | soft_targets(turn, fall),
    },
  }


def experiment(scale):
  epochs, paper = EPOCHS[scale], scale == 'paper'
  teacher, first, second = (round(n * IMAGES / BATCH) for n in epochs)
  config = base('fitnets_mnist')
  config.select, config.seeds = 'best', 3
  config.data.update(name='mnist', options={'hold_out': 6})
  spread = {'spread': 0.005 if paper else 0.0}
  config.teacher.model, config.student.model = TEACHER | spread, STUDENT | spread
  same = {'max_norm': 1.9365, 'weight_decay': 0.0, 'clip': 0.0, 'warmup': 0.0}
  sgd, adam = {'name': 'sgd', 'lr': 0.05, 'momentum': 0.7}, {'name': 'adam', 'lr': 3e-3}
  rms = {'name': 'rmsprop', 'eps': 1e-10}  # pylearn2 divides by 1e-5 at least
  rms |= {'lr': 5e-4, 'schedule': 'constant'} if paper else {'lr': 2e-3}
  config.teacher.train = training(teacher, BATCH, **(sgd if paper else adam), **same)
  config.student.train = training(first + second, BATCH, **rms, **same)
  config.cohort = members(*epochs[1:])
  config.run.update(eval_every=IMAGES // BATCH, log_every=100, save_every=1000, eval_batch=1000)
  return smoke(config) if scale == 'smoke' else config


def cells(stage, member, published):
  args = ('MNIST',), stage, member
  return {'%': Cell(*args, published=published), 'of 10,000': Cell(*args, measure='errors')}


def get_table(scale):
  teacher, first, second = EPOCHS[scale]
  epochs = f': {teacher} epochs of the teacher, {first + second} of the students'
  rows = {
    'teacher, 361 K weights': ('teacher', 'KD', 0.55),
    'student, 30 K, labels alone': ('baseline', 'KD', 1.9),
    'student, KD': ('student', 'KD', 0.65),
    'student, FitNet': ('student', 'FitNet', 0.51),
  }
  return Table(
    name='fitnets_mnist',
    title='MNIST of FitNets' + {'cpu': epochs, 'smoke': ': smoke'}.get(scale, ''),
    paper='Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv 1412.6550, table 4',
    source='the paper; recipe from its appendix A.2 and adri-romsor/FitNets, yaml/MNIST_fitnet_valid.yaml',
    experiments={'MNIST': experiment(scale)},
    panels={'Errors on the test images': {row: cells(*args) for row, args in rows.items()}},
    measures={'error rate': RATE, 'errors': MEASURES['errors']},
    selection='best on validation',
    notes=NOTES,
  )
