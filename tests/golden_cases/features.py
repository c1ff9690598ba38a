"""Methods on hidden features."""

import jax
from golden_cases import Case, kernel, nhwc, value

from kdjax.methods.features.fitnet import Regressor, fitnet

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


CASES = {
  'fitnet_hint_same': fitnet_case(),
  'fitnet_hint_stride2': fitnet_case(),
  'fitnet_hint_valid': fitnet_case(),
  'fitnet_hint_upsample': fitnet_case(transposed=True),
}
