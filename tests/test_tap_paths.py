"""Taps by the path of a module, and by a pattern, of models that were not written to return them."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from kdjax.errors import KdjaxError
from kdjax.experiment import build, tap_listing
from kdjax.experiment.validate import check
from kdjax.nn.taps import expand, pair, stages

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
  pairs = stages(TAPS, TAPS, 'block*/out', ('block2/out', 'block10/out'), 'x', rank=2)
  assert [float(a[0, 0]) for a, _ in pairs] == [1.0, 0.0] == [float(b[0, 0]) for _, b in pairs]
  np.testing.assert_array_equal(
    pair(TAPS, TAPS, '**/attention/out', 'logits', 'x')[0], TAPS['block2/attention/out']
  )
  with pytest.raises(
    KdjaxError, match=r"takes one tap of the student, and 'block\*/out' matches block2/out, block10"
  ):
    pair(TAPS, TAPS, 'block*/out', 'logits', 'x')
  with pytest.raises(KdjaxError, match=r"unknown tap of the teacher in methods.x: '\*/none'"):
    stages(TAPS, TAPS, 'logits', '*/none', 'x', rank=2)
  with pytest.raises(
    KdjaxError, match=r"student taps \['block2/out', 'block10/out'\] .* give as many of each"
  ):
    stages(TAPS, TAPS, 'block*/out', 'logits', 'x', rank=2)


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
