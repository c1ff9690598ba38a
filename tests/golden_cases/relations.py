"""Methods on how examples relate to each other."""

import jax.numpy as jnp
from golden_cases import Case, scalar, value

from kdjax.methods.relations import rkd as rkd_file
from kdjax.methods.relations.rkd import rkd


def on_embeds(method):
  return lambda v: value(method, {'embed': v['student_feat']}, {'embed': v['teacher_feat']})


CASES = {
  'rkd': [
    scalar('loss.distance', on_embeds(rkd(distance=1, angle=0)), 'student_feat'),
    scalar('loss.angle', on_embeds(rkd(distance=0, angle=1)), 'student_feat'),
    scalar('loss.total_25_50', on_embeds(rkd()), 'student_feat'),
    scalar('loss.distance_squared', on_embeds(rkd(distance=1, angle=0, squared=True)), 'student_feat'),
    Case(lambda v: {'pdist_student': rkd_file.distances(jnp.asarray(v['student_feat']))}),
  ],
}
