"""What a frozen encoder gives of every image, computed once instead of in every step."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.input import pipeline
from kdjax.input.splits import InMemorySplit
from kdjax.models.multimodal.captioner import image_tokens
from kdjax.nn.functional import functions
from kdjax.nn.layers import FEATURES
from kdjax.pretrained import initialize
from kdjax.runtime.progress import bar

IMAGE = 'image'
BATCH = 128


def encoder(config: Mapping) -> Mapping:
  """The dict of the encoder of images that teacher and student share.

  Raises:
    KdjaxError: if they do not, it is trained or drawn, or images are augmented.
  """
  ours, theirs = (config[s]['model'].get('encoder') for s in ('student', 'teacher'))
  if not isinstance(ours, Mapping) or ours != theirs or not (ours.get('frozen') and ours.get('init')):
    raise KdjaxError(
      'data.features computes once what a frozen encoder gives: student.model.encoder and '
      "teacher.model.encoder have to be the same, with 'init' and 'frozen'; or leave data.features out."
    )
  for stage in ('teacher', 'student'):
    if augment := config[stage]['train']['augment']:
      raise KdjaxError(
        f'data.features is of images as they are: set {stage}.train.augment=(), and it is {tuple(augment)}.'
      )
  return ours


def make_attach(config: Mapping) -> Callable:
  """`attach(split) -> split` with 'image/features' f16 [N, P, F] and its 'embed' [N, E], see `captioner`.

  Images of one 'group' are the same image, and computed once.

  Raises:
    KdjaxError: as `encoder` does, and from `attach` for data that do not fit in memory.
  """
  attributes = {k: v for k, v in initialize.complete(encoder(config)).items() if k != 'frozen'}
  model, forward = functions(build.module(attributes, {}), {}), {}

  def compiled(batch) -> Callable:
    """The forward pass, with weights that are read once."""
    if not forward:
      like = jax.eval_shape(model.init, jax.random.key(0), batch)
      variables = jax.device_put(initialize.load(attributes, like))

      @jax.jit
      def features(variables, image):
        taps = model.apply(variables, {IMAGE: image})[0]
        own = {FEATURES: image_tokens(taps)} | {f'{FEATURES}/{k}': taps[k] for k in ('embed',) if k in taps}
        return {f'{IMAGE}{k}': x.astype('float16') for k, x in own.items()}

      forward['of'] = lambda image: jax.device_get(features(variables, image))
    return forward['of']

  def attach(split: Any) -> Any:
    arrays = getattr(split, 'arrays', {})
    if IMAGE not in arrays:
      raise KdjaxError('data.features needs images that fit in memory: raise data.memory, or leave it out.')
    _, first, group = np.unique(
      arrays.get('group', np.arange(len(split))), return_index=True, return_inverse=True
    )
    images, parts = InMemorySplit({IMAGE: arrays[IMAGE][first]}), []
    with bar('computing features', len(images), 'image') as shown:
      for batch in pipeline.eval_batches(images, BATCH * jax.process_count()):
        of_batch = compiled({IMAGE: batch[IMAGE]})(batch[IMAGE])
        parts.append({k: v[batch['mask'] > 0] for k, v in of_batch.items()})
        shown.update(sum(len(next(iter(p.values()))) for p in parts))
    return InMemorySplit(arrays | {k: np.concatenate([p[k] for p in parts])[group] for k in parts[0]})

  return attach
