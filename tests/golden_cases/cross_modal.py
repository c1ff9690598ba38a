"""Methods between modalities."""

from golden_cases import scalar, value
from kdjax.methods.cross_modal.alignment import alignment
from kdjax.methods.cross_modal.c2kd import c2kd
from kdjax.methods.cross_modal.cmd import cmd
from kdjax.methods.cross_modal.mfh import mfh
from kdjax.methods.cross_modal.orthogonality import orthogonality


def taps(v):
  return {'logits': v['student_logits']}, {'logits': v['teacher_logits']}


def on_logits(method):
  return lambda v: value(method, *taps(v))


def selected(temperature):
  """The reference is given a selection: the mask makes it, and the mean is over all examples."""
  method = c2kd(threshold=-2, temperature=temperature, keep_target=True, proxies=False)

  def function(v):
    batch = {'label': v['labels'], 'mask': v['mask']}
    (total, _), _ = method.loss({}, {}, *taps(v), batch, step=0, rng=None)
    return total / len(v['labels'])

  return function


def between(method):
  return lambda v: value(method, {'x': v['x']}, {'x': v['y']})


NAMES = {'student': 'x', 'teacher': 'x'}
ALIGNMENTS = {
  'mse': alignment(distance='mse', **NAMES),
  'simse': alignment(distance='mean', **NAMES),
  'diff': orthogonality(**NAMES),
  'cmd5': cmd(moments=5, **NAMES),
  'mfh_disloss1': alignment(distance='norm', **NAMES),
}

CASES = {
  'mfh_crossmodal_kl': [
    scalar('loss.mean', on_logits(mfh(over_classes=True)), 'student_logits'),
    scalar('loss.batchmean', on_logits(mfh()), 'student_logits'),
  ],
  'c2kd_ntkl': [scalar(f'loss.T{n}', selected(n), 'student_logits') for n in (1, 2)],
  'multimodal_alignment_mfh': [
    scalar(f'loss.{name}', between(method), 'x') for name, method in ALIGNMENTS.items()
  ],
}
