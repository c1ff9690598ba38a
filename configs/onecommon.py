"""Which dot did they agree on? Grounded dialogue on OneCommon, from few labels.

  python run.py --config=configs/onecommon.py --config.data.path=onecommon/

The model scores the seven dots of one of two people by their dialogue. Student and baseline have 10 % of
the labels; the test is the published validation set. Run in its smoke form, and the teacher alone: expect
of it about 57 % on validation; 2 busy cores: 20 min.
"""

from kdjax.recipes import base, finish, model, parse_arg, training


def get_config(arg=None):
  arg = parse_arg(arg, labels=0.1, seeds=5, scale='cpu')
  config = base('onecommon')
  config.seeds, config.ceiling = arg.seeds, True
  config.data.update(name='onecommon', labels=arg.labels, text_length=144, vocab_size=600)
  config.teacher.model = model(
    'pointer',
    candidates='dots',
    width=128,
    depth=2,
    heads=4,
    dropout=0.2,
    text=model('transformer', width=128, depth=2, heads=4, dropout=0.2),
  )
  config.teacher.train = training(600, 64, 1e-3, weight_decay=0.1)
  config.student.model = model(
    'pointer', candidates='dots', width=32, depth=1, heads=2, text=model('bag_of_words', width=24)
  )
  config.student.train = training(800, 64, 5e-3, weight_decay=0.1)
  config.methods = {'kd': {'weight': 4.0, 'temperature': 2.0}}
  config.teacher.source = 'store'
  config.run.update(eval_every=300, save_every=300)
  return finish(config, arg, longer=4, larger=4)
