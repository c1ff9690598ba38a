"""Second writings, in NumPy loops, of methods of language models that have more than one input a token."""

import jax
import numpy as np
import pytest
from test_sequence import LOGITS, SEED, example, kl, softmax

import taps
from configs import instructions
from kdjax.experiment import stages
from kdjax.experiment.experiment import Experiment
from kdjax.methods.sequence.distillm2 import distillm2
from kdjax.recipes import model, training
from kdjax.training.metrics_log import read_log

HERE = {'mask': 'text/target', 'student': 'logits', 'teacher': 'logits'}
OWN = np.arange(taps.B) % 3 == 0


def mixed(a, b, share):
  return share * a + (1 - share) * b


def responses(s, t, batch):
  """(whether the student wrote it, [(q, p, token)]) of each response."""
  for i in range(taps.B - 3):
    valid = np.flatnonzero(batch['text/mask'][i])
    yield (
      OWN[i],
      [(softmax(s[LOGITS][i, n]), softmax(t[LOGITS][i, n]), batch['text/target'][i, n]) for n in valid],
    )


def gap_of(own, tokens):
  q, p = (np.exp(np.mean([np.log(x[k][x[2]]) for x in tokens])) for k in (0, 1))
  return q - p if own else p - q


def contrastive(s, t, batch, still, means=None, beta=1.0, released=False):
  """`means` are m of the teacher's and of the student's responses, None for the first batches."""
  values = []
  for (own, tokens), (_, fixed) in zip(responses(s, t, batch), responses(still, t, batch), strict=True):
    alpha = 0.1
    if means is not None:
      alpha = min(max(1 - 0.9 * means[int(own)] / gap_of(own, fixed), 0.01), 0.1)
    if own:
      held = [x[0] for x in (fixed if released else tokens)]
      values.append(
        beta * np.mean([kl(q, mixed(h, p, alpha)) for (q, p, _), h in zip(tokens, held, strict=True)])
      )
    else:
      values.append((2 - beta) * np.mean([kl(p, mixed(p, q, alpha)) for q, p, _ in tokens]))
  return np.mean(values)


def directional(f, x, h=1e-5):
  """(a direction, the difference quotient of f along it)."""
  along = np.random.default_rng(0).normal(size=x.shape)
  return along, (f(x + h * along) - f(x - h * along)) / (2 * h)


def test_distillm2_against_a_second_writing():
  with jax.enable_x64(True):
    s, t, batch = example()
    batch['text/by_student'] = OWN
    means = {'batches': np.ones(2), 'gap': np.array([0.02, 0.015])}
    for stats, step, more, options in (
      (None, 0, {}, {}),
      (means, 25, {'means': means['gap'], 'beta': 1.25}, {}),
      (means, 80, {'means': means['gap'], 'beta': 1.5}, {}),
      (None, 80, {'released': True}, {'released': True}),
    ):
      method = distillm2(anchor=1, steps=100, last=0.5, **options)
      kept = stats if stats is not None else method.init(SEED, s, t, batch)[1]

      def value(x, method=method, kept=kept, step=step):
        (total, count), _ = method.loss({}, kept, {LOGITS: x}, t, batch, step=step, rng=SEED)
        return total / count

      result, grad = jax.value_and_grad(value)(s[LOGITS])
      written = lambda x, more=more: contrastive({LOGITS: x}, t, batch, s, **more)  # noqa: E731
      np.testing.assert_allclose(result, written(s[LOGITS]), rtol=1e-9)
      along, slope = directional(written, s[LOGITS])
      np.testing.assert_allclose(np.sum(grad * along), slope, rtol=1e-6)


def test_distillm2_measures_the_gaps_of_the_first_batches():
  with jax.enable_x64(True):
    s, t, batch = example()
    gaps = [(own, gap_of(own, tokens)) for own, tokens in responses(s, t, batch)]
    batch['text/by_student'] = OWN
    method = distillm2(anchor=1)
    _, stats = method.init(SEED, s, t, batch)

    def new(stats, batch):
      return method.loss({}, stats, s, t, batch, step=0, rng=SEED)[1]

    one = new(stats, batch)
    share = np.mean([own for own, _ in gaps])
    np.testing.assert_allclose(one['batches'], [1 - share, share], rtol=1e-6)
    means = [np.mean([g for own, g in gaps if own == who]) for who in (False, True)]
    np.testing.assert_allclose(one['gap'] / one['batches'], means, rtol=1e-6)
    full = {'batches': np.array([1.0, 0.5]), 'gap': np.array([0.2, 0.1])}
    assert new(full, batch)['gap'][0] == 0.2, 'm stays what it was'
    alone = {k: v for k, v in batch.items() if k != 'text/by_student'}
    assert new(stats, alone)['batches'].tolist() == [1, 0], (
      'without the key all are of the teacher or the data'
    )


def tiny_recipe(arg, positions=14):
  """The recipe of docs/language.md with models of no size."""
  config = instructions.get_config(arg)
  for stage, width in (('teacher', 16), ('student', 8)):
    config[stage].model = model('gpt2', width=width, depth=1, heads=2, mlp=16, positions=positions)
    config[stage].train = training(4, 16, 1e-2)
  config.seeds = 1
  return config


def logged(config, workdir, name):
  """The losses of a method in the training of a recipe."""
  stages.run(experiment := Experiment(config.to_dict(), workdir), ('teacher', 'student'))
  rows = read_log(experiment.folder('student') / 'metrics.jsonl')
  losses = [row[f'loss/{name}'] for row in rows if f'loss/{name}' in row]
  assert losses and np.isfinite(losses).all()
  return experiment, np.array(losses)


@pytest.mark.whole
def test_distillm2_trains_on_both_authors(tmp_path):
  logged(tiny_recipe('smoke=1,method=distillm2,share=0.5'), tmp_path, 'distillm2')
