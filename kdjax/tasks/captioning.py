"""Captions of images: next-token prediction, scored by what the model writes."""

from typing import Literal

import numpy as np

from kdjax import registry
from kdjax.input import tokenizer
from kdjax.types import Task

TARGET = 'text/target'  # the caption's tokens, at the positions that predict them
WRITTEN = 'written'  # what a model writes about each photo, str [N]


def no_references(train, test) -> dict[str, float]:
  """{}: captions without a model take the texts, see `evaluation.caption_metrics.trivial`."""
  return {}


def cards(gathered, examples, classes, size: int = 12) -> list[dict]:
  """Photos with all their captions, and what each stage writes."""
  first, gallery = next(iter(gathered.values())), []
  for row in np.random.default_rng(0).permutation(len(first[TARGET]))[:size]:
    example = examples[int(row)]

    def said(outputs, row=row):
      if WRITTEN in outputs:
        return str(outputs[WRITTEN][row])
      return tokenizer.spell(outputs['best'][row][outputs[TARGET][row] >= 0], classes)

    truth = tuple(example.get('references', (example['response'],)))
    gallery.append({'image': example['image'], 'truth': truth} | {s: said(g) for s, g in gathered.items()})
  return gallery


def captioning(*, metric: Literal['cider_d', 'bleu_4', 'rouge_l'] = 'cider_d') -> Task:
  """Cross-entropy of a caption's tokens, as in `language_modelling`; metric `cider_d` of what is written.

  The comparison and `evaluate` let each model write a caption for each photo, as `generation` of the recipe
  says, and score it against all captions of the photo: CIDEr-D, BLEU-4 and ROUGE-L. In training there are
  `loss`, `accuracy` and `perplexity` of the first caption. With `data.labels` below 1 student and baseline
  see the captions of a share of the photos.

  Args:
    metric: the primary one.
  """
  return registry.make('tasks', 'language_modelling', {})._replace(
    metric=metric,
    higher_is_better=True,
    references=no_references,
    hides_labels=True,
    prompted=False,
    cards=cards,
  )
