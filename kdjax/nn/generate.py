"""Generation by a language model: prompts padded on the right, each row continued from its own length.

`make_generate` draws tokens, or takes the likeliest; `kdjax.nn.beam_search` looks for the likeliest text.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError
from kdjax.input.tokenizer import targets
from kdjax.types import Array, Batch


class Written(NamedTuple):
  """The tokens generated after each prompt, up to N.

  Attributes:
    ids: i32 [B, N].
    mask: bool [B, N], which of them are valid, the end token included.
    log_q: f32 [B, N], log-probabilities at a temperature of 1, 0 where there is no token.
  """

  ids: Array
  mask: Array
  log_q: Array


def prompts(batch: Batch, most: int) -> dict:
  """The prompts of a batch of prompts and responses: 'text' and 'text/mask' [B, most], and other inputs."""
  mask = batch['text/mask'] > 0
  prompt_mask = mask & ~(batch['text/response'] > 0)
  others = {k: v for k, v in batch.items() if k.partition('/')[0] != 'text'}
  return others | {'text': batch['text'][:, :most], 'text/mask': prompt_mask[:, :most]}


def make_forward(apply: Callable) -> Callable:
  """`forward(variables, inputs) -> (logits f32 [B, V], cache)` of a model that goes on with a text.

  Raises:
    KdjaxError: from `forward`, for a model that cannot.
  """

  def forward(variables, inputs):
    taps, _ = apply(variables, inputs)
    if 'cache' not in taps:
      raise KdjaxError('the model cannot go on with a text: it takes no text/at. gpt2 and llama do.')
    return taps['logits'].astype(jnp.float32), taps['cache']

  return forward


def begun(batch: Batch, length: int) -> dict:
  """The inputs of a forward pass of `prompts` with a cache for so many tokens more."""
  rows, most = batch['text'].shape
  at = jnp.broadcast_to(jnp.arange(most), (rows, most))
  return dict(batch) | {'text/at': at, 'text/room': jnp.zeros((rows, most + length))}


def after(token: Array, at: Array, cache) -> dict:
  """The inputs of a forward pass of one token [B] more, which stands at the position `at` [B]."""
  one = {'text': token[:, None], 'text/mask': jnp.ones((len(token), 1), bool), 'text/at': at[:, None]}
  return one | {'text/cache': cache}


def make_generate(apply: Callable, end: int, length: int, temperature: float = 1.0) -> Callable:
  """`generate(variables, batch, rng, enabled=True) -> Written`, a pure function.

  The batch has 'text' i32 [B, P] and 'text/mask', valid from the left, 'id' [B], and other inputs.
  A token is drawn with the key of `rng`, the example's id and the position, so that a text does not depend on
  its batch, up to rounding. `enabled` [] False generates nothing, and takes no time beyond the forward pass
  of the prompt.

  Args:
    apply: `(variables, batch) -> (taps, stats)` of a model that takes 'text/at', as `models.text.gpt2` does.
    end: the token after which generation stops.
    length: N, the most tokens that are generated.
    temperature: divides the logits; 0 takes the likeliest token.

  Raises:
    KdjaxError: from `generate`, for a model that cannot go on with a text.
  """

  forward = make_forward(apply)

  def draw(rng, ids, at, logits):
    if not temperature:
      return jnp.argmax(logits, -1).astype(jnp.int32)

    def draw_one(i, position, row):
      key = jax.random.fold_in(jax.random.fold_in(rng, i), position)
      return jax.random.categorical(key, row / temperature)

    return jax.vmap(draw_one)(ids, at, logits).astype(jnp.int32)

  def generate(variables, batch: Batch, rng, enabled=True) -> Written:
    rows, start = len(batch['text']), batch['text/mask'].sum(1).astype(jnp.int32)
    logits, cache = forward(variables, begun(batch, length))
    zeros = jnp.zeros((rows, length))
    written = Written(zeros.astype(jnp.int32), zeros > 0, zeros)
    active = jnp.broadcast_to(enabled, (rows,))

    def append(n, written, active, logits):
      """(written, active, token) after token n of every active row."""
      token = jnp.where(active, draw(rng, batch['id'], start + n, logits), end)
      log_q = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], 1)[:, 0]
      new = Written(token, active, jnp.where(active, log_q, 0))
      written = jax.tree.map(lambda whole, x: whole.at[:, n].set(x), written, new)
      return written, active & (token != end), token

    def step(carry):
      n, written, active, token, cache = carry
      logits, cache = forward(variables, after(token, start + n, cache))
      return n + 1, *append(n + 1, written, active, logits), cache

    def unfinished(carry):
      return (carry[0] + 1 < length) & carry[2].any()

    first = jnp.int32(0), *append(0, written, active, logits), cache
    return jax.lax.while_loop(unfinished, step, first)[1]

  return generate


def answered(batch: Batch, most: int, written: Written) -> dict:
  """`batch` with the generated tokens in place of its responses.

  Args:
    batch: prompts and responses of L tokens.
    most: the length of the longest prompt; with the generated tokens no longer than L.
    written: generated after its `prompts`.
  """
  prompt = prompts(batch, most)
  start = prompt['text/mask'].sum(1, keepdims=True)
  column, width = jnp.arange(batch['text'].shape[1]), batch['text'].shape[1]
  columns = jnp.where(written.mask, start + jnp.arange(written.ids.shape[1]), width)
  put = jax.vmap(lambda row, i, new: row.at[i].set(new, mode='drop'))
  text = put(jnp.where(column < start, batch['text'], 0), columns, written.ids)
  mask = column < start + written.mask.sum(1, keepdims=True)
  response = mask & (column >= start)
  changes: Mapping = {'text': text, 'text/mask': mask, 'text/response': response}
  return dict(batch) | changes | {'text/target': targets(text, response, jnp)}
