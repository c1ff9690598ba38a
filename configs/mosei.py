"""Sentiment of spoken opinions from words, voice and face: CMU-MOSEI or CMU-MOSI.

  python run.py --config=configs/mosei.py --config.data.path=unaligned_50.pkl
  python run.py --config=configs/mosei.py:inputs=audio+video --config.data.path=aligned_50.pkl

The sets cannot be downloaded freely: docs/mosei.md lists the files to bring. The teacher is a
multimodal Transformer that has all three; `inputs` are those of the student, which takes the mean over time
of each. A starting point, not tuned, and not yet run on the real sets: there is no number to expect.
`smoke=1` takes about a minute on 2 cores.
"""

from kdjax.recipes import base, model, parse_arg, smoke, training

EMBEDS = {'student': 'embed', 'teacher': 'embed'}


def get_config(arg=None):
  arg = parse_arg(arg, inputs='words+audio+video', seeds=5, epochs=20)
  inputs = {m: m for m in arg.inputs.split('+')}
  config = base('mosei')
  config.seeds = arg.seeds
  config.task = {'name': 'sentiment'}
  config.data.update(name='mosei', text_length=50, vocab_size=5000)
  config.select = 'best'  # by the mean absolute error on validation, as the field does
  steps = arg.epochs * 16326 // 32  # MMSA's training split
  config.teacher.model = model('mult', width=40, depth=1 if arg.smoke else 4, heads=8, dropout=0.1)
  config.teacher.inputs = {m: m for m in ('words', 'audio', 'video')}
  config.teacher.train = training(steps, 32, 1e-3)
  encoders = {m: model('feature_encoder', modality=m, width=32, dropout=0.1) for m in inputs}
  config.student.model = model('fusion', width=64, join='concat', dropout=0.1, encoders=encoders)
  config.student.inputs = inputs
  config.student.train = training(steps, 32, 2e-3, weight_decay=0.01)
  config.methods = {
    'logit_l1': {'weight': 1.0},
    'fitnet': {'weight': 1.0, **EMBEDS},
    'rkd': {'weight': 0.05, **EMBEDS},
  }
  return smoke(config) if arg.smoke else config
