"""Methods on how examples relate to each other."""

import jax.numpy as jnp

from golden_cases import Case, kernel, nhwc, scalar, value
from kdjax.methods.relations import rkd as rkd_file
from kdjax.methods.relations.cc_rd import cc_rd
from kdjax.methods.relations.pkt import pkt
from kdjax.methods.relations.rkd import rkd
from kdjax.methods.relations.sp import sp


def on_embeds(method):
  return lambda v: value(method, {'embed': v['student_feat']}, {'embed': v['teacher_feat']})


def similarities(v):
  """The reference's loss has one axis."""
  s, t = {'image/stage3': nhwc(v['student_feat'])}, {'image/stage3': nhwc(v['teacher_feat'])}
  return {'loss': value(sp(), s, t)[None]}


LINEAR = [f'param.embed_{side}.linear.{part}' for side in 'st' for part in ('weight', 'bias')]


def correlation(v):
  params = {
    side: {'kernel': kernel(v[weight]), 'bias': v[bias]}
    for side, weight, bias in (('student', *LINEAR[:2]), ('teacher', *LINEAR[2:]))
  }
  method = cc_rd(dim=5, pairs='consecutive')
  return value(method, {'embed': v['student_feat']}, {'embed': v['teacher_feat']}, params=params)


def raw_correlation(v):
  method = cc_rd(dim=None, pairs='consecutive')
  return {'loss.raw': value(method, {'embed': v['raw_student']}, {'embed': v['raw_teacher']})}


CASES = {
  'rkd': [
    scalar('loss.distance', on_embeds(rkd(distance=1, angle=0)), 'student_feat'),
    scalar('loss.angle', on_embeds(rkd(distance=0, angle=1)), 'student_feat'),
    scalar('loss.total_25_50', on_embeds(rkd()), 'student_feat'),
    scalar('loss.distance_squared', on_embeds(rkd(distance=1, angle=0, squared=True)), 'student_feat'),
    Case(lambda v: {'pdist_student': rkd_file.distances(jnp.asarray(v['student_feat']))}),
  ],
  'sp': [Case(similarities, 'loss', {'grad.student_feat': 'student_feat'})],
  'pkt': [scalar('loss', on_embeds(pkt()), 'student_feat')],
  'cc': [
    scalar('loss', correlation, 'student_feat', *LINEAR),
    Case(raw_correlation, 'loss.raw', {'grad.raw_student': 'raw_student'}),
  ],
}
