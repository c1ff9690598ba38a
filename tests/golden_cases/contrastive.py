"""Methods that tell examples from each other."""

import jax.numpy as jnp

from golden_cases import Case, kernel
from kdjax.methods.contrastive.crd import crd

LINEAR = [f'embed_{side}.linear.{part}' for side in 'st' for part in ('weight', 'bias')]
BANKS = {'student': 'v1', 'teacher': 'v2'}
METHOD = crd(dim=5, temperature=0.07, momentum=0.5)


def stored(v, step):
  """The method's statistics after a step; before the first, Z is not set."""
  z = v[f'params_K_T_Z1_Z2_m_step{step}'][2:4] if step else (-1.0, -1.0)
  return {
    'bank': {side: jnp.asarray(v[f'memory_{v12}_step{step}']) for side, v12 in BANKS.items()},
    'z': {'student': jnp.asarray(z[0]), 'teacher': jnp.asarray(z[1])},
    'label': jnp.arange(len(v['memory_v1_step0'])),
  }


def one_step(v, step):
  """Also what the step leaves: the two banks, and Z among the constants."""
  params = {
    side: {'kernel': kernel(v[f'param.{weight}']), 'bias': v[f'param.{bias}']}
    for side, weight, bias in (('student', *LINEAR[:2]), ('teacher', *LINEAR[2:]))
  }
  s, t = ({'embed': v[f'{side}_feat_step{step}']} for side in ('student', 'teacher'))
  batch = {'id': v[f'idx_step{step}'], 'contrast_idx': v[f'contrast_idx_step{step}']}
  (total, count), new = METHOD.loss(params, stored(v, step - 1), s, t, batch, step=0, rng=None)
  z = new['z']
  return {
    f'loss.step{step}': total[None] / count,
    f'memory_v1_step{step}': new['bank']['student'],
    f'memory_v2_step{step}': new['bank']['teacher'],
    f'params_K_T_Z1_Z2_m_step{step}': jnp.stack(
      [jnp.asarray(x, total.dtype) for x in (6, 0.07, z['student'], z['teacher'], 0.5)]
    ),
  }


def crd_case(step):
  grads = {f'grad.param.{name}_step{step}': f'param.{name}' for name in LINEAR}
  grads[f'grad.student_feat_step{step}'] = f'student_feat_step{step}'
  return Case(lambda v: one_step(v, step), f'loss.step{step}', grads)


CASES = {'crd': [crd_case(1), crd_case(2)]}
