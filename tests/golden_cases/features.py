"""Methods on hidden features."""

from functools import partial

import jax
import jax.numpy as jnp

from golden_cases import Case, kernel, nhwc, scalar, value
from kdjax.methods.features import ab as ab_file
from kdjax.methods.features import fsp as fsp_file
from kdjax.methods.features import ft as ft_file
from kdjax.methods.features import ofd as ofd_file
from kdjax.methods.features import reviewkd as reviewkd_file
from kdjax.methods.features.ab import ab
from kdjax.methods.features.at_mean import at_mean
from kdjax.methods.features.attention_match import attention_match
from kdjax.methods.features.fitnet import Regressor, fitnet
from kdjax.methods.features.fsp import fsp
from kdjax.methods.features.ft import ft
from kdjax.methods.features.gram_match import gram_match
from kdjax.methods.features.hidden_state import hidden_state
from kdjax.methods.features.nst import nst
from kdjax.methods.features.ofd import ofd
from kdjax.methods.features.pkd_bert import pkd_bert
from kdjax.methods.features.reviewkd import reviewkd
from kdjax.methods.features.vid import vid

PARAMS = ('conv.weight', 'conv.bias', 'bn.weight', 'bn.bias')


def hint(v, transposed):
  """Also the regressor's output and its running statistics."""
  s, t = nhwc(v['student_feat']), nhwc(v['teacher_feat'])
  conv = v['param.conv.weight']
  conv = jax.numpy.transpose(conv[:, :, ::-1, ::-1], (2, 3, 0, 1)) if transposed else kernel(conv)
  params = {
    'conv': {'kernel': conv, 'bias': v['param.conv.bias']},
    'bn': {'scale': v['param.bn.weight'], 'bias': v['param.bn.bias']},
  }
  n = t.shape[-1]
  stats = {'batch_stats': {'bn': {'mean': jax.numpy.zeros(n), 'var': jax.numpy.ones(n)}}}
  method = fitnet(student='x', teacher='x')
  out, _ = Regressor(t.shape[1:], True).apply({'params': params, **stats}, s, mutable=list(stats))
  return {
    'loss': value(method, {'x': s}, {'x': t}, params=params, stats=stats),
    'regressor_out': jax.numpy.transpose(out, (0, 3, 1, 2)),
  }


def fitnet_case(transposed=False):
  grads = {f'grad.{k}': k for k in ('student_feat', *(f'param.{p}' for p in PARAMS))}
  return [Case(lambda v: hint(v, transposed), 'loss', grads)]


def nchw(x):
  return jnp.transpose(x, (0, 3, 1, 2))


def taps(v, n, student='student_feat', teacher='teacher_feat'):
  """(student's taps, teacher's taps) of n stages of maps, named '0' ..."""
  return tuple({str(i): nhwc(v[f'{key}{i}']) for i in range(n)} for key in (student, teacher))


def names(n):
  stages = tuple(str(i) for i in range(n))
  return {'student': stages, 'teacher': stages}


def one(v, method, student='raw_student', teacher='raw_teacher', **kwargs):
  """A method of one stage, called 'x', on one pair of maps."""
  return value(method(student='x', teacher='x'), {'x': nhwc(v[student])}, {'x': nhwc(v[teacher])}, **kwargs)


def affine(v, name):
  return {'scale': v[f'{name}.weight'], 'bias': v[f'{name}.bias']}


def linear(v, name):
  """A 1×1 convolution, as the linear layer that it is."""
  params = {'kernel': v[f'{name}.weight'][:, :, 0, 0].T}
  return params | ({'bias': v[f'{name}.bias']} if f'{name}.bias' in v else {})


def conv(v, name, transposed=False):
  """A convolution; a transposed one of stride 1 is one with its kernel turned around."""
  w = v[f'{name}.weight']
  turned = jnp.transpose(w[:, :, ::-1, ::-1], (2, 3, 0, 1)) if transposed else kernel(w)
  return {'kernel': turned} | ({'bias': v[f'{name}.bias']} if f'{name}.bias' in v else {})


def several(loss, function, stages, params=(), student='student_feat'):
  """A case with gradients of all student maps and of the parameters."""
  wrt = [f'{student}{i}' for i in range(stages)] + list(params)
  return Case(function, loss, {f'grad.{w}': w for w in wrt})


def staged(method, n):
  """The loss of each stage alone, and the sum with its gradients."""

  def function(v):
    s, t = taps(v, n)
    each = {f'loss.stage{i}': value(method(student=str(i), teacher=str(i)), s, t) for i in range(n)}
    return each | {'loss.sum': value(method(**names(n)), s, t)}

  return [several('loss.sum', function, n)]


def fsp_function(v):
  s, t = taps(v, 4)
  out = {'loss.sum': value(fsp(**names(4)), s, t)}
  for i in range(3):
    pair = (str(i), str(i + 1))
    out[f'loss.pair{i}'] = value(fsp(student=pair, teacher=pair), s, t)
    out[f'fsp_student{i}'] = fsp_file.fsp_matrix(s[pair[0]], s[pair[1]])
  return out


AB_PARAMS = [f'param.connectors.{i}.{p}' for i in (1, 2) for p in PARAMS]


def ab_function(v):
  s, t = taps(v, 3)
  params = {}
  for i in (1, 2):
    params[f'stage{i}'] = {'conv': conv(v, f'param.connectors.{i}.conv')}
    params[f'stage{i}_bn'] = affine(v, f'param.connectors.{i}.bn')
  pairs = [(s[k], t[k]) for k in sorted(s)]
  connected = ab_file.Connectors().apply({'params': params}, pairs, jnp.ones(4))
  out = {f'connected{i}': nchw(x) for i, x in enumerate(connected)}
  for i in range(3):  # alone a stage weighs 1, and among three 1/4, 1/2 and 1
    own = {k.replace(str(i), '0'): p for k, p in params.items() if str(i) in k}
    alone = value(ab(student=str(i), teacher=str(i)), s, t, params=own)
    out[f'loss.stage{i}'] = ab_file.WEIGHT * alone * 2.0 ** (i - 2)
  return out | {'loss.sum': ab_file.WEIGHT * value(ab(**names(3)), s, t, params=params)}


OFD_PARAMS = [f'param.connectors.{i}.{p}' for i in range(3) for p in ('0.weight', '1.weight', '1.bias')]


def ofd_function(v):
  s, t = taps(v, 3, 'student_preact', 'teacher_preact')
  params = {}
  for i in range(3):
    params[f'stage{i}'] = linear(v, f'param.connectors.{i}.0')
    params[f'stage{i}_bn'] = affine(v, f'param.connectors.{i}.1')
  margins = [ofd_file.bn_margin(v[f'bn_weight{i}'], v[f'bn_bias{i}']) for i in range(3)]
  margins = [m.astype(jnp.float32) for m in margins]  # as the reference keeps them
  out = {f'margin{i}': m for i, m in enumerate(margins)}
  return out | {'loss': value(ofd(margins=margins, **names(3)), s, t, params=params)}


def ofd_raw(v):
  a, b = nhwc(v['raw_student']), nhwc(v['raw_teacher'])
  return ofd_file.partial_l2(a, b, v['margin0'].reshape(-1).astype(a.dtype)).mean()


REVIEW_PARAMS = [
  f'param.{i}.{p}'
  for i in range(4)
  for p in (
    *('conv1.0.weight', 'conv1.1.weight', 'conv1.1.bias'),
    *('conv2.0.weight', 'conv2.1.weight', 'conv2.1.bias'),
    *(('att_conv.0.weight', 'att_conv.0.bias') if i else ()),
  )
]


def reviewkd_function(v):
  s, t = taps(v, 4)
  params = {}
  for i in range(4):
    params[f'level{i}_conv1'] = linear(v, f'param.{i}.conv1.0')
    params[f'level{i}_bn1'] = affine(v, f'param.{i}.conv1.1')
    params[f'level{i}_conv2'] = conv(v, f'param.{i}.conv2.0')
    params[f'level{i}_bn2'] = affine(v, f'param.{i}.conv2.1')
    if i:
      params[f'level{i}_attention'] = linear(v, f'param.{i}.att_conv.0')
  pairs = [(s[k], t[k]) for k in sorted(s)]
  fused = reviewkd_file.Fusion().apply({'params': params}, pairs, jnp.ones(4))
  out = {f'abf_out{i}': nchw(x) for i, x in enumerate(fused)}
  return out | {'loss': value(reviewkd(**names(4)), s, t, params=params)}


def hcl_function(v):
  s, t = taps(v, 3, 'hcl_student', 'hcl_teacher')
  return {'loss.hcl': sum(reviewkd_file.hcl(s[k], t[k]).mean() for k in s)}


TRANSLATOR = [f'param.translator.encoder.{i}.{p}' for i in (0, 1, 3, 4, 6, 7) for p in ('weight', 'bias')]


def ft_function(v):
  """Layers 0, 3 and 6 are convolutions, and the one after each is its batch norm."""
  both = {'paraphraser': {}, 'translator': {}}
  for i in range(3):
    both['translator'][f'conv{i}'] = conv(v, f'param.translator.encoder.{3 * i}')
    both['translator'][f'bn{i}'] = affine(v, f'param.translator.encoder.{3 * i + 1}')
    both['paraphraser'][f'encoder{i}'] = conv(v, f'param.paraphraser.encoder.{3 * i}')
    both['paraphraser'][f'decoder{i}'] = conv(v, f'param.paraphraser.decoder.{3 * i}', transposed=True)
  a, b = nhwc(v['student_feat']), nhwc(v['teacher_feat'])
  factor, _ = ft_file.Paraphraser(5).apply({'params': both['paraphraser']}, b)
  translated = ft_file.Translator(5).apply({'params': both['translator']}, a, jnp.ones(4))
  run = partial(one, v, student='student_feat', teacher='teacher_feat', params=both)
  return {
    'loss': run(partial(ft, power=2, reconstruction_steps=0)),
    'loss.paraphraser_reconstruction': run(partial(ft, reconstruction=1.0, reconstruction_steps=1)),
    'factor_s': nchw(translated),
    'factor_t': nchw(factor),
  }


def ft_raw(v, p):
  return ft_file.distance(nhwc(v['raw_student']), nhwc(v['raw_teacher']), 2, p).mean()


VID_PARAMS = ['param.log_scale', *(f'param.regressor.{i}.weight' for i in (0, 2, 4))]


def vid_function(v):
  params = {f'stage0_conv{i}': linear(v, f'param.regressor.{2 * i}') for i in range(3)}
  run = partial(one, v, vid, 'student_feat', 'teacher_feat')
  start = vid(student='x', teacher='x').init(
    jax.random.key(0), {'x': nhwc(v['student_feat'])}, {'x': nhwc(v['teacher_feat'])}, {}
  )[0]['stage0_log_scale']
  return {
    'loss': run(params=params | {'stage0_log_scale': v['param.log_scale']}),
    'loss.at_init_log_scale': run(params=params | {'stage0_log_scale': v['log_scale_init']}),
    'log_scale_init': start,
  }


VID = [Case(vid_function, 'loss', {f'grad.{k}': k for k in ('student_feat', *VID_PARAMS)}, float32=1e-5)]


def text(method, masked, *stored):
  """A method on stored states or scores, (student's, teacher's) for each tap, with or without the mask."""

  def function(v):
    s, t = ({f'text/{i}': v[pair[k]] for i, pair in enumerate(stored)} for k in (0, 1))
    layers = tuple(s)
    batch = {'text/mask': v['mask']} if masked else {}
    return value(method(student=layers, teacher=layers), s, t, batch)

  return function


ATTENTION = ('att_student', 'att_teacher')
HEADS = ('att_student', 'att_teacher_4heads')
HIDDEN = ('hid_student', 'hid_teacher')


def attention_case(name, match, masked, stored=ATTENTION):
  released = {'softmax_over_padding': True} if masked else {'zero_negative': True}
  method = partial(attention_match, match=match, **released)
  return scalar(f'loss.{name}', text(method, masked, stored), 'att_student')


def hidden_cases(name, method):
  return [
    scalar(f'loss.{name}_{kind}', text(method, kind == 'mask', HIDDEN), 'hid_student')
    for kind in ('mask', 'nomask')
  ]


def gram_cases(name, over, *stored):
  return [
    scalar(
      f'loss.{name}_{kind}',
      text(partial(gram_match, over=over), kind == 'mask', *stored),
      *('hid_student', 'hid_student2'),
    )
    for kind in ('mask', 'nomask')
  ]


CASES = {
  'fitnet_hint_same': fitnet_case(),
  'fitnet_hint_stride2': fitnet_case(),
  'fitnet_hint_valid': fitnet_case(),
  'fitnet_hint_upsample': fitnet_case(transposed=True),
  'mimic_mse': [
    scalar(
      'loss',
      lambda v: one(v, partial(hidden_state, project=False), 'student_feat', 'teacher_feat'),
      'student_feat',
    )
  ],
  'at': staged(at_mean, 3),
  'nst': staged(nst, 3),
  'fsp': [several('loss.sum', fsp_function, 4)],
  'ab': [
    several('loss.sum', ab_function, 3, AB_PARAMS),
    Case(
      lambda v: {'loss.raw_single': ab_file.WEIGHT * one(v, ab)},
      'loss.raw_single',
      {'grad.raw_student': 'raw_student'},
    ),
  ],
  'ofd': [
    several('loss', ofd_function, 3, OFD_PARAMS, 'student_preact'),
    Case(lambda v: {'loss.raw_margin0': ofd_raw(v)}, 'loss.raw_margin0', {'grad.raw_student': 'raw_student'}),
  ],
  'ft_factor_transfer': [
    Case(ft_function, 'loss', {f'grad.{k}': k for k in ('student_feat', *TRANSLATOR)}),
    *(
      Case(
        lambda v, p=p: {f'loss.raw_p2_{p}': ft_raw(v, p)},
        f'loss.raw_p2_{p}',
        {f'grad.raw_student_p2_{p}': 'raw_student'},
      )
      for p in (1, 2)
    ),
  ],
  'reviewkd': [
    several('loss', reviewkd_function, 4, REVIEW_PARAMS),
    several('loss.hcl', hcl_function, 3, student='hcl_student'),
  ],
  'vid_same': VID,
  'vid_student_larger': VID,
  'vid_teacher_larger': VID,
  'textbrewer_match_losses': [
    *(
      attention_case(f'att_{match}_{kind}', match, kind == 'mask')
      for match in ('mse', 'mse_sum', 'ce', 'ce_mean')
      for kind in ('mask', 'nomask')
    ),
    attention_case('att_mse_sum_4heads_mask', 'mse_sum', True, HEADS),
    attention_case('att_ce_mean_4heads_mask', 'ce_mean', True, HEADS),
    *hidden_cases('hid_mse', hidden_state),
    *hidden_cases('cos', partial(hidden_state, match='cosine')),
    *hidden_cases('pkd', pkd_bert),
    *gram_cases('fsp', 'features', HIDDEN, ('hid_student2', 'hid_teacher2')),
    *gram_cases(
      'mmd', 'positions', ('hid_student', 'hid_teacher_wide'), ('hid_student2', 'hid_teacher_wide2')
    ),
  ],
}
