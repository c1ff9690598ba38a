"""Metrics of the responses of a language model: ROUGE-L and exact match; of captions those of their own."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.errors import KdjaxError
from kdjax.evaluation import caption_metrics
from kdjax.input import pipeline
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import beam_search, generate
from kdjax.runtime.progress import bar
from kdjax.training import sharding
from kdjax.types import Model


class RowSubset:
  """Some rows of a source."""

  def __init__(self, source: Any, rows: np.ndarray):
    self.source, self.rows = source, rows

  def __len__(self) -> int:
    return len(self.rows)

  def take(self, indices) -> dict[str, np.ndarray]:
    return self.source.take(self.rows[np.asarray(indices)])


def rouge_l(references: Sequence[str], written: Sequence[str]) -> float:
  """The mean F of ROUGE-L (Lin, 2004) with stemming, a share of 1."""
  from rouge_score.rouge_scorer import RougeScorer

  scorer = RougeScorer(['rougeL'], use_stemmer=True)
  pairs = zip(references, written, strict=True)
  return float(np.mean([scorer.score(a, b)['rougeL'].fmeasure for a, b in pairs]))


def check_package(wanted: bool) -> None:
  """Raises KdjaxError if the package rouge-score is wanted and not there."""
  if wanted and find_spec('rouge_score') is None:
    raise KdjaxError('generation is scored with ROUGE-L: pip install rouge-score, or set generation.seeds=()')


def room(tokenizer: Any, settings: Mapping, prompt_length: int) -> tuple[int, int]:
  """(length of the longest prompt, of the longest response) in tokens.

  Raises:
    KdjaxError: for data without text.
  """
  if tokenizer is None:
    raise KdjaxError("generation needs examples with a 'text' and a 'response', and the data have no text.")
  longest_prompt = tokenizers.longest(tokenizer, prompt_length)
  return longest_prompt, settings['length'] or tokenizer.truncation['max_length'] - longest_prompt


def writer(apply: Callable, tokenizer: Any, length: int, settings: Mapping) -> Callable:
  """`generate(variables, batch, rng)` by the settings: a beam search where they have more than one beam.

  This one writes no unknown words.
  """
  end, unknown = tokenizers.end(tokenizer), tokenizers.unknown(tokenizer)
  if settings['beams'] > 1:
    never = () if unknown is None else (unknown,)
    return beam_search.make_search(apply, end, length, settings['beams'], never=never)
  return generate.make_generate(apply, end, length, settings['temperature'])


def make_write(model: Model, tokenizer: Any, settings: Mapping, prompt_length: int) -> Callable:
  """`write(variables, batch, seed) -> (ids i32 [S, B, N], reference ids i32 [B, L], mask [B])`.

  Ids are -1 where there is no token; the variables are stacked over S seeds.
  """
  longest_prompt, length = room(tokenizer, settings, prompt_length)
  write = writer(model.apply, tokenizer, length, settings)

  def written(variables, batch, seed):
    prompts, responses = generate.prompts(batch, longest_prompt), []
    for i in range(len(jax.tree.leaves(variables)[0])):
      one_model = jax.tree.map(lambda x, i=i: x[i], variables)
      response = write(one_model, prompts, jax.random.key(seed))
      responses.append(jnp.where(response.mask, response.ids, -1))
    truths = jnp.where(batch['text/response'] > 0, batch['text'], -1)
    return jnp.stack(responses), truths, batch['mask']

  return written


def make_score(model: Model, tokenizer: Any, settings: Mapping, prompt_length: int, mesh, batch_size: int):
  """`score(variables, source, examples, title) -> ({name: f64 [S]}, texts)`, of models stacked over S seeds.

  'rouge_l' and 'exact_match', the share of responses with every token right, are means over the sampling
  seeds; 'rouge_l (seed 10)' is of one. Captions, examples with 'references', have `caption_metrics` instead,
  means over the sampling seeds, and their texts str [N] of the first for each model, if all were written.

  Args:
    model: a language model.
    tokenizer: its tokenizer.
    settings: the config's 'generation'.
    prompt_length: of the config's 'data'.
    mesh: the devices; they divide `batch_size`.
    batch_size: of all devices together.

  Raises:
    KdjaxError: as `room` does.
  """
  whole, vocabulary = sharding.replicated(mesh), tokenizers.vocabulary(tokenizer)
  write = jax.jit(make_write(model, tokenizer, settings, prompt_length), out_shardings=whole)

  def score(variables, source, examples, title=''):
    n = min(settings['examples'] or len(source), len(source))
    rows = np.linspace(0, len(source) - 1, n).astype(int)
    subset: Any = RowSubset(source, rows)  # has what `eval_batches` reads
    chosen = [{k: v for k, v in examples[int(i)].items() if k in ('response', 'references')} for i in rows]
    references = [e['response'] for e in chosen]
    variables, scores, captions, first = jax.device_put(variables, whole), {}, [], []
    for seed in settings['seeds']:
      texts, correct = [], []
      with bar(f'{title or "writing"}, sampling seed {seed}', n, 'example') as shown:
        for batch in pipeline.eval_batches(subset, batch_size):
          ids, truths, mask = jax.device_get(write(variables, sharding.to_global_arrays(batch, mesh), seed))
          for row in np.flatnonzero(mask):
            written, truth = ids[:, row], truths[row][truths[row] >= 0]
            texts.append([tokenizers.spell(one, vocabulary) for one in written])
            correct.append([np.array_equal(one[one >= 0], truth) for one in written])
          shown.update(len(texts))
      by_model = list(zip(*texts, strict=True))
      if 'references' in chosen[0]:
        each = [caption_metrics.score([e['references'] for e in chosen], texts) for texts in by_model]
        captions.append({k: np.array([one[k] for one in each]) for k in each[0]})
        first = first or [np.array(texts) for texts in by_model]
        continue
      scores[f'rouge_l (seed {seed})'] = np.array([rouge_l(references, each) for each in by_model])
      scores.setdefault('exact', []).append(np.mean(correct, 0))
    if captions:
      means = {k: np.mean([one[k] for one in captions], 0) for k in captions[0]}
      return means, first if n == len(source) else []
    exact = {'exact_match': np.mean(scores.pop('exact'), 0)}
    return {'rouge_l': np.mean(list(scores.values()), 0)} | exact | scores, []

  return score
