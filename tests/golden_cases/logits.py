"""Methods on the class scores."""

import optax
from golden_cases import scalar, value

from kdjax.methods.logits.kd import kd


def on_logits(method):
  def function(v):
    batch = {'label': v['labels']} if 'labels' in v else {}
    return value(method, {'logits': v['student_logits']}, {'logits': v['teacher_logits']}, batch)

  return function


def with_cross_entropy(v):
  ce = optax.softmax_cross_entropy_with_integer_labels(v['student_logits'], v['labels']).mean()
  return 0.1 * ce + 0.9 * on_logits(kd(temperature=4))(v)


CASES = {
  'kd_hinton': [
    *(scalar(f'loss.T{n}', on_logits(kd(temperature=n)), 'student_logits') for n in (1, 2, 4, 20)),
    scalar('loss.total_ce0.1_kd0.9_T4', with_cross_entropy, 'student_logits'),
  ],
}
