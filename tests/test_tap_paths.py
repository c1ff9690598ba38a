"""Taps by the path of a module, and by a pattern, of models that were not written to return them."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from kdjax.errors import KdjaxError
from kdjax.experiment import build, stages, tap_listing
from kdjax.experiment.validate import check
from kdjax.nn.functional import weights
from kdjax.nn.taps import expand, pair
from kdjax.nn.taps import stages as stages_of

TAPS = {
  k: jnp.full((2, 3), float(i)) for i, k in enumerate(('block10/out', 'block2/out', 'block2/attention/out'))
}
TAPS |= {'logits': jnp.zeros((2, 3))}


@pytest.mark.parametrize(
  ('pattern', 'matching'),
  [
    ('logits', ['logits']),
    ('block*/out', ['block2/out', 'block10/out']),
    ('**/out', ['block2/attention/out', 'block2/out', 'block10/out']),
    ('**/attention/*', ['block2/attention/out']),
    ('block2/**', ['block2/attention/out', 'block2/out']),
    ('log*', ['logits']),
  ],
)
def test_patterns(pattern, matching):
  assert expand(TAPS, pattern, 'fitnet', 'student') == matching


def test_what_patterns_pair():
  pairs = stages_of(TAPS, TAPS, 'block*/out', ('block2/out', 'block10/out'), 'x', rank=2)
  assert [float(a[0, 0]) for a, _ in pairs] == [1.0, 0.0] == [float(b[0, 0]) for _, b in pairs]
  np.testing.assert_array_equal(
    pair(TAPS, TAPS, '**/attention/out', 'logits', 'x')[0], TAPS['block2/attention/out']
  )
  with pytest.raises(
    KdjaxError, match=r"takes one tap of the student, and 'block\*/out' matches block2/out, block10"
  ):
    pair(TAPS, TAPS, 'block*/out', 'logits', 'x')
  with pytest.raises(KdjaxError, match=r"unknown tap of the teacher in methods.x: '\*/none'"):
    stages_of(TAPS, TAPS, 'logits', '*/none', 'x', rank=2)
  with pytest.raises(
    KdjaxError, match=r"student taps \['block2/out', 'block10/out'\] .* give as many of each"
  ):
    stages_of(TAPS, TAPS, 'block*/out', 'logits', 'x', rank=2)


def test_modules_of_kdjax_are_taps_where_a_method_names_them(config, experiment):
  plain = experiment('a')
  assert not any(k.startswith('encoders_') for k in plain.shapes('student')[1])
  own, inner = tap_listing.taps(plain, 'student')
  assert own.keys() == plain.shapes('student')[1].keys() and 'encoders_text/words' in inner
  config.methods = {'fitnet': {'student': 'encoders_image/stem', 'teacher': '**/stem_norm'}}
  named = experiment('b')
  check(named)
  taps = named.shapes('student')[1]
  assert taps['encoders_image/stem'].shape == inner['encoders_image/stem'].shape
  config.methods = {'fitnet': {'student': 'encoders_image/steam'}}
  with pytest.raises(KdjaxError, match="'encoders_image/steam'; did you mean 'encoders_image/stem'"):
    check(experiment('c'))


def test_the_options_that_may_be_paths():
  methods = {
    'a': {'weight': 1.0, 'student': ('x/y', 'z')},
    'b': {'options': {'teacher': '**/q', 'mode': 'sum'}},
  }
  assert build.tap_names(methods) == {'x/y', '**/q'}


def test_the_listing(experiment):
  text = io.StringIO()
  tap_listing.show(experiment(), Console(file=text, width=120))
  assert 'encoders_text/words' in text.getvalue() and '[B, ' in text.getvalue()
  assert text.getvalue().count('logits') == 2


def test_weights_are_taps_of_one_row():
  params = {'head': {'linear': {'kernel': np.ones((3, 2)), 'bias': np.zeros(2)}}, 'scale': np.ones(())}
  taps = weights(params)
  shapes = {k: x.shape for k, x in taps.items()}
  assert shapes == {
    'weights/head/linear/kernel': (1, 3, 2),
    'weights/head/linear/bias': (1, 2),
    'weights/scale': (1,),
  }
  outputs = taps | TAPS
  assert expand(outputs, 'weights/**', 'x', 'student') == sorted(taps)
  assert expand(outputs, '**', 'x', 'student') == expand(TAPS, '**', 'x', 'student')
  with pytest.raises(KdjaxError, match='unknown tap') as raised:
    expand(outputs, '**/linear/*', 'x', 'student')
  assert 'weights/' not in str(raised.value)


def test_a_method_reads_the_classifier_of_the_teacher(config, experiment):
  """And its weights are not listed among the taps."""
  kernel = 'weights/head/kernel'  # of fusion; of an encoder 'weights/head/linear/kernel'
  config.methods = {'wkd': {'weight': 1.0, 'transport': 1.0, 'classifier': kernel}}
  exp = experiment('a')
  check(exp)
  width, classes = exp.shapes('teacher')[0]['params']['head']['kernel'].shape
  assert exp.shapes('teacher')[1][kernel].shape == (1, width, classes)
  assert not any(k.startswith('weights/') for part in tap_listing.taps(exp, 'teacher') for k in part)
  stages.run(exp, ('teacher', 'student'))
  learned = exp.variables('teacher')['params']['head']['kernel'][0]
  model, batch = exp.model('teacher'), exp.data.train.take(np.arange(4))
  taps = model.apply(jax.tree.map(lambda x: x[0], exp.variables('teacher')), batch)[0]
  np.testing.assert_array_equal(taps[kernel][0], learned)
