"""Shared by the tables of CLIP models: their towers, and pairs to train on with ImageNet for the test.

It is no table itself. Under --data_dir it wants imagenet2012 as TFDS prepares it; imagenet_classes.txt, a
readable name a line in the order of TFDS's labels, which are WordNet ids; and the pairs, a row of a .jsonl an
image file and its text. The smoke scale takes small towers and the emoji of configs/openmoji.py instead.
"""

from kdjax.recipes import base, model, training

OPENAI = {'mean': (0.48145466, 0.4578275, 0.40821073), 'std': (0.26862954, 0.26130258, 0.27577711)}
VOCABULARY = 'hf:openai/clip-vit-base-patch16'  # its tokenizer.json is that of all of them
NARROWER, SHALLOWER = 8, 6  # times, in smoke
IMAGENET = 'Zero-shot top-1 on the 50,000 validation images of ImageNet, %'
EMOJI = 'Zero-shot top-1 of emoji by their categories, %'  # the published numbers are of something else


def clip(image, text, patch: int, scale: str, *, of_image=(), of_text=(), **attributes) -> dict:
  """CLIP's two towers of (width, blocks) each, with heads of 64 channels, in a space of 512.

  Args:
    image: width and blocks of the image tower.
    text: those of the text tower.
    patch: the side of its patches.
    scale: of the table.
    of_image: attributes and keys of the image tower beside these.
    of_text: those of the text tower.
    **attributes: those of the whole model.
  """
  by, shallower = (NARROWER, SHALLOWER) if scale == 'smoke' else (1, 1)

  def tower(name, size, **more):
    width, depth = size[0] // by, max(size[1] // shallower, 1)
    sizes = {'width': width, 'depth': depth, 'heads': size[0] // 64, 'mlp': 4 * width}
    return model(name, eps=1e-5, **sizes) | {'act': 'gelu'} | more

  towers = {
    'image': tower('vit_class_token', image, patch=patch, clip=True, **OPENAI, **dict(of_image)),
    'text': tower('clip_text', text, positions=77, **dict(of_text)),
  }
  return model('clip', width=512 // by, **towers, **attributes)


def recipe(name: str, pairs: str, scale: str):
  """The data, the task and what is alike in all trainings.

  Args:
    name: of the experiment.
    pairs: the file of the training pairs.
    scale: of the table.
  """
  config = base(name)
  config.seeds = 1
  config.task = {'name': 'retrieval', 'metric': 'zero_shot'}
  if scale == 'smoke':
    config.data.update(name='openmoji', text_length=16, image_size=64, options={'languages': ('en',)})
    return config
  config.data.update(name='image_text', path=pairs, text_length=77, image_size=224, tokenizer=VOCABULARY)
  config.data.options = {'class_names': 'imagenet_classes.txt'}
  config.teacher.dtype = config.student.dtype = 'bfloat16'
  config.run.update(log_every=500, save_every=2500, eval_batch=512)
  return config


def adamw(steps: int, batch: int, lr: float, warmup: int, **options):
  """A cosine after `warmup` steps; weight decay as open_clip has it."""
  train = training(steps, batch, lr, warmup=warmup / steps, **{'b1': 0.9, 'b2': 0.98, 'eps': 1e-6, **options})
  train.augment = ('slight_crop',)
  return train
