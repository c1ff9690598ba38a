"""The next token of a response, given a prompt and what of the response was there before."""

from collections.abc import Sequence

import numpy as np

from kdjax import losses, taps, tokenizer
from kdjax.errors import KdjaxError
from kdjax.types import Task

TARGET = 'text/target'  # the tokens that count, where they are predicted


def told(gathered) -> np.ndarray:
  """Which positions predict a token of a response, bool [N, L]."""
  return gathered[TARGET] >= 0


def finalize(gathered) -> dict[str, float]:
  """exp of the loss."""
  loss = -gathered['likelihood'].astype(np.float64)[told(gathered)].mean()
  return {'perplexity': float(np.exp(loss))}


def references(train, test) -> dict[str, float]:
  """The loss of the unigram distribution of the training responses, every token counted once more."""
  seen, asked = (x[TARGET][told(x)] for x in (train, test))
  counts = np.bincount(seen, minlength=max(seen.max(), asked.max()) + 1) + 1.0
  return {'unigram of the training responses': float(-np.log(counts / counts.sum())[asked].mean())}


def compare(teacher, student) -> dict[str, float]:
  """How often both have the same token for the likeliest, and by how many nats a token the teacher is ahead.

  The KL of all probabilities would need the whole vocabulary of each position.
  """
  where = told(teacher)
  ahead = (teacher['likelihood'] - student['likelihood']).astype(np.float64)
  same = teacher['best'] == student['best']
  return {'agreement': float(same[where].mean()), 'nats_behind_teacher': float(ahead[where].mean())}


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Prompts with the response, and what each stage finds likeliest at every place of it: half the worst."""
  where = told(next(iter(gathered.values())))
  each = [np.where(where, -g['likelihood'], 0).sum(1) / where.sum(1) for g in gathered.values()]
  order = np.argsort(-np.max(each, 0), kind='stable')
  worst = order[: size // 2]
  others = np.random.default_rng(0).permutation(np.setdiff1d(order, worst))
  made = []
  for row in np.concatenate([worst, others])[:size]:
    example = examples[int(row)]
    answers = {s: tokenizer.spell(g['best'][row][where[row]], classes) for s, g in gathered.items()}
    made.append({'text': example['text'], 'truth': example['response']} | answers)
  return made


def answer(outputs, classes: Sequence[str]) -> list[tuple[str, float]]:
  """The text that was written, with the mean probability of its tokens."""
  ids, log_q = outputs['written'], outputs['written/likelihood']
  kept = outputs['written/mask'] > 0
  return [(tokenizer.spell(ids[kept], classes), float(np.exp(log_q[kept]).mean()))]


def language_modelling() -> Task:
  """Cross-entropy of a response's tokens, its end included, on `logits` [B, L, V]; metric `loss`.

  It is in nats a token. Beside it `accuracy`, the share of these tokens that are the likeliest, and
  `perplexity`. The batch has 'text/target' i32 [B, L], what each position predicts, negative for nothing.
  The classes of its data set are the vocabulary.
  """

  def weighed(like, batch):
    if TARGET not in batch:
      raise KdjaxError(
        "the task language_modelling needs examples with a 'text' and a 'response', and the batch has "
        f'{", ".join(sorted(batch))}.'
      )
    return taps.positions(like, batch, TARGET, 'language_modelling')

  def loss(outputs, batch):
    logits = taps.raise_precision(outputs['logits'])
    weights = weighed(logits[..., 0], batch)
    return taps.mean_over_positions(-losses.log_likelihood(logits, batch[TARGET]), weights)

  def metrics(outputs, batch):
    total, count = loss(outputs, batch)
    right = (outputs['best'] == batch[TARGET]).astype(total.dtype)
    found = taps.mean_over_positions(right, weighed(right, batch))
    return {'loss': (total, count), 'accuracy': found}

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
