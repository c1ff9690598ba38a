"""Next-token prediction of a response to a prompt."""

from collections.abc import Sequence

import numpy as np

from kdjax.errors import KdjaxError
from kdjax.input import tokenizer
from kdjax.nn import losses, taps
from kdjax.types import Task

TARGET = 'text/target'  # the response's tokens, at the positions that predict them


def response_mask(gathered) -> np.ndarray:
  """The positions that predict a token of a response, bool [N, L]."""
  return gathered[TARGET] >= 0


def finalize(gathered) -> dict[str, float]:
  """exp of the loss."""
  loss = -gathered['likelihood'].astype(np.float64)[response_mask(gathered)].mean()
  return {'perplexity': float(np.exp(loss))}


def references(train, test) -> dict[str, float]:
  """The loss of the unigram distribution of the training responses, with add-one smoothing."""
  train_tokens, test_tokens = (x[TARGET][response_mask(x)] for x in (train, test))
  counts = np.bincount(train_tokens, minlength=max(train_tokens.max(), test_tokens.max()) + 1) + 1.0
  return {'unigram of the training responses': float(-np.log(counts / counts.sum())[test_tokens].mean())}


def compare(teacher, student) -> dict[str, float]:
  """How often both have the same most likely token, and by how many nats per token the teacher is ahead.

  The KL of all probabilities would need the whole vocabulary of each position.
  """
  mask = response_mask(teacher)
  ahead = (teacher['likelihood'] - student['likelihood']).astype(np.float64)
  same = teacher['best'] == student['best']
  return {'agreement': float(same[mask].mean()), 'nats_behind_teacher': float(ahead[mask].mean())}


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Prompts with the response, and the most likely tokens of each stage; half are the worst examples."""
  mask = response_mask(next(iter(gathered.values())))
  nll = [np.where(mask, -g['likelihood'], 0).sum(1) / mask.sum(1) for g in gathered.values()]
  order = np.argsort(-np.max(nll, 0), kind='stable')
  worst = order[: size // 2]
  others = np.random.default_rng(0).permutation(np.setdiff1d(order, worst))
  gallery = []
  for row in np.concatenate([worst, others])[:size]:
    example = examples[int(row)]
    predictions = {s: tokenizer.spell(g['best'][row][mask[row]], classes) for s, g in gathered.items()}
    gallery.append({'text': example['text'], 'truth': example['response']} | predictions)
  return gallery


def answer(outputs, classes: Sequence[str]) -> list[tuple[str, float]]:
  """The generated text, with the mean probability of its tokens."""
  ids, log_q = outputs['written'], outputs['written/likelihood']
  mask = outputs['written/mask'] > 0
  return [(tokenizer.spell(ids[mask], classes), float(np.exp(log_q[mask]).mean()))]


def language_modelling() -> Task:
  """Cross-entropy of a response's tokens, its end included, on `logits` [B, L, V]; metric `loss`.

  It is in nats per token. Also `accuracy`, the share of these tokens that are the most likely, and
  `perplexity`. The batch has 'text/target' i32 [B, L], the token that each position predicts, negative for
  none. The classes of its data set are the vocabulary.
  """

  def position_weights(values, batch):
    if TARGET not in batch:
      raise KdjaxError(
        "the task language_modelling needs examples with a 'text' and a 'response', and the batch has "
        f'{", ".join(sorted(batch))}.'
      )
    return taps.positions(values, batch, TARGET, 'language_modelling')

  def loss(outputs, batch):
    logits = taps.raise_precision(outputs['logits'])
    weights = position_weights(logits[..., 0], batch)
    return taps.mean_over_positions(-losses.log_likelihood(logits, batch[TARGET]), weights)

  def metrics(outputs, batch):
    total, count = loss(outputs, batch)
    correct = (outputs['best'] == batch[TARGET]).astype(total.dtype)
    accuracy = taps.mean_over_positions(correct, position_weights(correct, batch))
    return {'loss': (total, count), 'accuracy': accuracy}

  return Task(
    loss=loss,
    metrics=metrics,
    gather=('best', 'likelihood', TARGET),
    finalize=finalize,
    references=references,
    compare=compare,
    metric='loss',
    higher_is_better=False,
    outputs=lambda dataset: {'logits': len(dataset.classes), 'best': None, 'likelihood': None},
    cards=cards,
    answer=answer,
  )
