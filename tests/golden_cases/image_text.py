"""Methods for two-tower models. Stored scales are exponentials; the taps hold their logs."""

import jax.numpy as jnp

from golden_cases import Case, scalar, value
from kdjax.methods.image_text import clip_gd as clip_gd_file
from kdjax.methods.image_text import mobileclip as mobileclip_file
from kdjax.methods.image_text.clip_afd import clip_afd
from kdjax.methods.image_text.clip_crd import clip_crd
from kdjax.methods.image_text.clip_cross_kd import clip_cross_kd
from kdjax.methods.image_text.clip_fd import clip_fd
from kdjax.methods.image_text.clip_gd import clip_gd
from kdjax.methods.image_text.clip_icl import clip_icl
from kdjax.methods.image_text.clip_kd import clip_kd
from kdjax.methods.image_text.mobileclip import mobileclip
from kdjax.methods.image_text.tinyclip import tinyclip
from kdjax.nn import losses

FEATURES = ('student_image_features', 'student_text_features')
WEIGHTS = tuple(f'param.{tower}_proj.{kind}' for tower in ('visual', 'text') for kind in ('weight', 'bias'))


def taps(image, text, scale=1.0):
  return {
    'image/embed': image,
    'text/embed': text,
    'logit_scale': jnp.log(jnp.asarray(scale, jnp.asarray(image).dtype)),
  }


def given_unit(image, text, scale):
  """Taps for a vector with the gradient by features of length 1 that are not normalised again.

  Methods normalise. One more coordinate each, in which the two do not meet, gives image and text
  the length √2 whatever they are: normalising halves their products and bends no gradient.
  """
  more = [jnp.sqrt(2 - jnp.sum(x * x, -1, keepdims=True)) for x in (image, text)]
  zero = jnp.zeros_like(more[0])
  return taps(
    jnp.concatenate([image, more[0], zero], -1), jnp.concatenate([text, zero, more[1]], -1), 2 * scale
  )


def info_nce(image, text, scale):
  return losses.clip_info_nce(image, text, scale, jnp.ones_like(image[:, 0])).mean()


def task(v):
  return info_nce(*(losses.unit(v[k]) for k in FEATURES), v['logit_scale'])


def dense(v, name):
  return {'kernel': v[f'param.{name}.weight'].T, 'bias': v[f'param.{name}.bias']}


def clipkd(method, params=lambda v: {}):
  def function(v):
    s = taps(v['student_image_features'], v['student_text_features'], v['logit_scale'])
    t = taps(v['teacher_image_features'], v['teacher_text_features'], v['teacher_logit_scale'])
    return value(method, s, t, params=params(v))

  return function


def projection(v):
  if 'param.visual_proj.weight' not in v:
    return {}
  return {'image': dense(v, 'visual_proj'), 'text': dense(v, 'text_proj')}


def crossed(v):
  return {'projection': projection(v), 'logit_scale': v['param.cross_logit_scale']}


def fused(v):
  return {
    'image': dense(v, 'visual_fusion_proj'),
    'text': dense(v, 'text_fusion_proj'),
    'logit_scale': v['param.fusion_logit_scale'],
  }


def clipkd_cases(learned):
  """`learned`: the projections that the vector has gradients of."""
  icl = clipkd(clip_icl(released=True), crossed)
  cross = 'param.cross_logit_scale'
  return [
    scalar('loss.task', task, *FEATURES, 'logit_scale'),
    scalar('loss.crd', clipkd(clip_crd()), *FEATURES, 'logit_scale'),
    scalar('loss.icl', icl, *FEATURES, cross, *learned),
    scalar('loss.cross_kd', clipkd(clip_cross_kd(released=True), crossed), *FEATURES, cross, *learned),
    scalar('loss.fd', clipkd(clip_fd(), projection), *FEATURES, *learned),
    scalar('loss.gd', clipkd(clip_gd(released=True), projection), *FEATURES, 'logit_scale', *learned),
    # One of the three terms at a time.
    scalar('loss.fd', clipkd(clip_kd(fd=1, icl=0, crd=0), crossed), *FEATURES, *learned),
    scalar('loss.icl', clipkd(clip_kd(fd=0, crd=0, released=True), crossed), *FEATURES, cross, *learned),
    scalar('loss.crd', clipkd(clip_kd(fd=0, icl=0), crossed), *FEATURES, 'logit_scale'),
  ]


AFD = tuple(k.replace('_proj', '_fusion_proj') for k in WEIGHTS)
afd = scalar('loss.afd', clipkd(clip_afd(released=True), fused), *FEATURES, 'param.fusion_logit_scale', *AFD)


def get_grad(v):
  ones = jnp.ones_like(v['p'][:, 0])
  cold = clip_gd_file.gradients(v['p'], v['k'], 1 / 0.07, ones)
  warm = clip_gd_file.gradients(v['p'], v['k'], 1 / 20, ones)
  return {
    'grad_p_tau0p07': cold[0],
    'grad_k_tau0p07': cold[1],
    'autograd_p_tau0p07': cold[0],
    'autograd_k_tau0p07': cold[1],
    'grad_p_tau20': warm[0],
    'grad_k_tau20': warm[1],
  }


def ensemble(v):
  """The two teachers of the vector, whose features are stored side by side."""
  image, text = v['teacher_image_concat'], v['teacher_text_concat']
  return [taps(image[:, i : i + 4], text[:, i : i + 4], 100.0) for i in (0, 4)]


def mobile_distill(v):
  members = [{f'{i}/{k}': x for k, x in t.items()} for i, t in enumerate(ensemble(v))]
  names = tuple(tuple(f'{i}/{k}' for k in ('image/embed', 'text/embed', 'logit_scale')) for i in (0, 1))
  s = given_unit(v['student_image'], v['student_text'], 30.0)
  return value(mobileclip(teacher=names), s, members[0] | members[1])


def mobile_contrastive(v):
  return info_nce(v['student_image'], v['student_text'], 30.0)


def mobile_probabilities(v):
  members = [(t['image/embed'], t['text/embed'], t['logit_scale']) for t in ensemble(v)]
  result = mobileclip_file.mean_affinity(members, jnp.ones_like(v['student_image'][:, 0]))
  return dict(zip(('teacher_probs_i2t', 'teacher_probs_t2i'), result, strict=True))


def tiny(v):
  s = given_unit(v['student_image'], v['student_text'], v['student_scale'])
  t = taps(v['teacher_image'], v['teacher_text'], v['teacher_scale'])
  return value(tinyclip(), s, t)


def tiny_direction(first, second):
  def function(v):
    mask = jnp.ones_like(v['student_image'][:, 0])
    p, q = (
      losses.log_affinity(v[f'{m}_{first}'], v[f'{m}_{second}'], v[f'{m}_scale'], mask)
      for m in ('teacher', 'student')
    )
    return losses.soft_cross_entropy(p, q).mean()

  return function


STUDENT = ('student_image', 'student_text')
CASES = {
  'clip_infonce': [
    scalar(
      'loss',
      lambda v: info_nce(v['image_features'], v['text_features'], v['logit_scale']),
      'image_features',
      'text_features',
      'logit_scale',
    )
  ],
  'clipkd_same_dim': [*clipkd_cases(()), afd],
  'clipkd_diff_dim': clipkd_cases(WEIGHTS),
  'clipkd_get_grad': [Case(get_grad)],
  'mobileclip_dr_distill': [
    scalar('loss.distill', mobile_distill, *STUDENT),
    scalar('loss.contrastive', mobile_contrastive),
    Case(
      lambda v: {'loss.total_0.25_0.75': 0.25 * mobile_contrastive(v) + 0.75 * mobile_distill(v)},
      'loss.total_0.25_0.75',
      {f'grad.{k}.total': k for k in STUDENT},
    ),
    Case(mobile_probabilities),
  ],
  'tinyclip_affinity_mimicking': [
    scalar('loss', tiny, *STUDENT, 'student_scale'),
    scalar('loss.i2t', tiny_direction('image', 'text')),
    scalar('loss.t2i', tiny_direction('text', 'image')),
  ],
}
