"""Small photographs, CIFAR-10 or CIFAR-100: a wide residual teacher into a narrow residual student.

  python run.py --config=configs/cifar.py --data_dir=~/tensorflow_datasets
  python run.py --config=configs/cifar.py:name=cifar100,labels=1,scale=gpu

`labels` is the share of the training labels that student and baseline have; the student has the teacher's
outputs for all images. `scale=cpu` projects patches of 2×2 pixels and trains for minutes; `scale=gpu` takes
single pixels, for 200 epochs (not run yet). Nothing is tuned. Expect 72.8 % for the teacher, 60.9 % ± 0.3 for
the baseline and 58.5 % ± 0.7 for the student: at this budget KD does not help, it hurts (p = 0.0086); 2
cores: 17 min, other work beside it.
"""

from kdjax.recipes import base, full, model, parse_arg, smoke, training


def get_config(arg=None):
  arg = parse_arg(arg, name='cifar10', labels=0.1, scale='cpu')
  large = full(arg)
  config = base(f'{arg.name}_{arg.scale}')
  config.seeds = 5
  config.data.update(name=arg.name, labels=arg.labels)
  blocks, patch = ((3, 3, 3), 1) if large else ((1, 1, 1), 2)
  config.teacher.model = model('resnet', widths=(48, 96, 192), blocks=blocks, patch=patch)
  config.student.model = model('resnet', widths=(12, 24, 48), blocks=(1, 1, 1), patch=patch)
  steps = {'teacher': 70_000, 'student': 70_000} if large else {'teacher': 1400, 'student': 1200}
  for stage, n in steps.items():
    config[stage].train = training(n, 128, 2e-3, weight_decay=0.05)
    config[stage].train.augment = ('flip', 'crop')
  config.student.train.optimiser.lr = 5e-3
  config.methods = {'kd': {'weight': 1.0, 'temperature': 4.0}}
  config.run.update(eval_every=400, save_every=400)
  return smoke(config) if arg.smoke else config
