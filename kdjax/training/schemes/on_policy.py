"""On-policy distillation (GKD: Agarwal et al., 2306.13649): on responses that student or teacher write.

A fork of `step`: the update of a batch whose responses are written in the update. Its `t` are the teacher's
variables, not taps, since the teacher reads the written responses. With `shown` it has read the data's
response before, as the teacher of on-policy self-distillation has (OPSD: Zhao et al., 2601.18734).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from kdjax.errors import KdjaxError, unknown
from kdjax.input import tokenizer as tokenizers
from kdjax.nn import generate, taps
from kdjax.types import Batch, Model, Task

OWN = 'text/written'  # [B], 1 where a response is not the data's
BY_STUDENT = 'text/by_student'  # [B], 1 where it is the student's
DRAWN = 2**31 - 1  # folded into the step's key, for draws of their own
WHO = ('student', 'teacher')


class Writer(NamedTuple):
  """The generation of responses in training.

  Attributes:
    share: λ of GKD, the probability that a batch gets written responses.
    length: of a response, in tokens at most.
    temperature: of the sampling; 0 takes the likeliest token.
    who: the model that writes: 'student', or 'teacher' for sequence-level distillation.
    end: the token that ends a response.
    prompt: the longest prompt in tokens.
    shown: the tokens between the data's response and the student's, of a teacher that reads both; None where
      it reads what the student does.
  """

  share: float
  length: int
  temperature: float
  who: str
  end: int
  prompt: int
  shown: tuple[int, ...] | None = None


def writer(config: Mapping, tokenizer: Any) -> Writer | None:
  """The writer of the config's 'on_policy'; None where its share is 0.

  Args:
    config: of the experiment.
    tokenizer: of its data.

  Raises:
    KdjaxError: unless the task is language modelling, with a live teacher and under 'jit'.
  """
  settings, train_config = config['on_policy'], config['student']['train']
  if not settings['share']:
    return None
  if not 0 < settings['share'] <= 1:
    raise KdjaxError(f'on_policy.share is {settings["share"]}; it is a share, from 0 to 1.')
  if settings['writer'] not in WHO:
    raise unknown('on_policy.writer', settings['writer'], WHO)
  for key, value, required in (
    ('task.name', config['task']['name'].replace('captioning', 'language_modelling'), 'language_modelling'),
    ('teacher.source', config['teacher']['source'], 'live'),
    ('run.parallel', config['run']['parallel'], 'jit'),
    ('generator', dict(config['generator']), {}),
    ('student.train.augment', [a for a in train_config['augment'] if a == 'drop_words'], []),
  ):
    if value != required:
      raise KdjaxError(
        f'on_policy.share is {settings["share"]}: it needs {key}={required!r}, and that is {value!r}.'
      )
  prompt = tokenizers.longest(tokenizer, config['data']['prompt_length'])
  room = config['data']['text_length'] - prompt
  if not 0 <= settings['length'] <= room:
    raise KdjaxError(
      f'on_policy.length is {settings["length"]}, and prompts of up to {prompt} tokens leave {room} of a '
      'text.'
    )
  shown = None
  if settings['shown']:
    if settings['share'] < 1 or settings['writer'] != 'student':
      raise KdjaxError(
        "on_policy.shown shows the teacher the data's responses, which are not to be judged: set "
        "on_policy.share=1 and on_policy.writer='student'."
      )
    shown = tuple(tokenizers.ids_of(tokenizer, settings['transition'])) if settings['transition'] else ()
  sampling = settings['share'], settings['length'] or room, settings['temperature'], settings['writer']
  return Writer(*sampling, tokenizers.end(tokenizer), prompt, shown)


def make_rewrite(model: Model, writer: Writer) -> Callable:
  """`rewrite(variables, batch, rng) -> batch`: with probability λ the model writes new responses.

  The model is in evaluation mode, and no gradient goes through the responses.
  """
  write = generate.make_generate(model.apply, writer.end, writer.length, writer.temperature)

  def rewrite(variables, batch, rng):
    chosen = jax.random.uniform(jax.random.fold_in(rng, 0)) < writer.share
    prompts = generate.prompts(batch, writer.prompt)
    written = write(jax.lax.stop_gradient(variables), prompts, jax.random.fold_in(rng, 1), chosen)
    new = generate.answered(batch, writer.prompt, written)
    batch = {k: jnp.where(chosen, v, batch[k]) for k, v in new.items()}
    chosen = jnp.broadcast_to(chosen, batch['id'].shape)
    return batch | {OWN: chosen, BY_STUDENT: chosen & (writer.who == 'student')}

  return rewrite


def in_sight(data: Batch, batch: Batch, writer: Writer) -> tuple[dict, jax.Array]:
  """(what the teacher reads, [B, L + S + N]; by how many positions a response stands later there [B]).

  It is the prompt, the data's response, `writer.shown` and the response of `batch`.

  Args:
    data: prompts and responses of L tokens.
    batch: the same prompts with written responses of N tokens at most.
    writer: of the responses.
  """
  between, length = jnp.asarray(writer.shown or (), jnp.int32), batch['text'].shape[1]
  width = length + len(between) + writer.length
  column, written = jnp.arange(width), batch['text/response'] > 0
  start = ((batch['text/mask'] > 0) & ~written).sum(1, keepdims=True)
  first = (data['text/mask'] > 0).sum(1, keepdims=True)
  begin = first + len(between)

  def at(tokens, columns):
    return jnp.take_along_axis(tokens, jnp.clip(columns, 0, tokens.shape[1] - 1), 1)

  text = jnp.where(column < first, at(data['text'], column[None]), at(batch['text'], start + column - begin))
  if len(between):
    inside = (column >= first) & (column < begin)
    text = jnp.where(inside, at(between[None], column - first), text)
  mask = column < begin + written.sum(1, keepdims=True)
  response, text = mask & (column >= begin), jnp.where(mask, text, 0)
  changes = {'text': text, 'text/mask': mask, 'text/response': response}
  return dict(batch) | changes | {'text/target': tokenizers.targets(text, response, jnp)}, (begin - start)[
    :, 0
  ]


def taught(teacher: Model, variables: Mapping, data: Batch, batch: Batch, writer: Writer) -> dict:
  """The teacher's taps of written responses, at the positions of `batch`, whatever else it has read."""
  if writer.shown is None:
    return jax.lax.stop_gradient(teacher.apply(variables, batch, train=False)[0])
  seen, later = in_sight(data, batch, writer)
  outputs = jax.lax.stop_gradient(teacher.apply(variables, seen, train=False)[0])
  (rows, length), width = batch['text'].shape, seen['text'].shape[1]
  places = jnp.clip(jnp.arange(length) + later[:, None], 0, width - 1)

  def moved(x):
    if x.shape[:2] != (rows, width):
      return x
    return jnp.take_along_axis(x, places.reshape(rows, length, *[1] * (x.ndim - 2)), 1)

  return {k: moved(x) for k, x in outputs.items()}


def of_labels(task: Task) -> Task:
  """The task with a loss that masks written responses: only those of the data have labels."""

  def loss(outputs, batch):
    if OWN not in batch:
      return task.loss(outputs, batch)
    mask = taps.example_mask(batch, batch[OWN].astype('float32')) * ~batch[OWN]
    return task.loss(outputs, batch | {'mask': mask})

  return task._replace(loss=loss)


def with_live_teacher(
  init: Callable, update: Callable, student: Model, teacher: Model, writer: Writer
) -> tuple[Callable, Callable]:
  """`init(seed, teacher_variables, batch)` and `update(state, teacher_variables, batch)`.

  Args:
    init: of `step.make_init`.
    update: of `step.make_update` with `of_labels`.
  """
  return make_init(init, teacher), make_update(update, student, teacher, writer)


def make_init(init: Callable, teacher: Model) -> Callable:
  """`init(seed, teacher_variables, batch) -> TrainState`, of `step.make_init`'s."""

  def live_init(seed, teacher_variables, batch):
    t, _ = teacher.apply(teacher_variables, batch, train=False)
    return init(seed, t, batch)

  return live_init


def make_update(update: Callable, student: Model, teacher: Model, writer: Writer) -> Callable:
  """`update(state, teacher_variables, batch) -> (state, losses)`, of `step.make_update`'s with `of_labels`.

  Randomness is `fold_in(seed, step)`, so that a resumed training writes the same responses.
  """
  rewrite = make_rewrite(student if writer.who == 'student' else teacher, writer)

  def live_update(state, teacher_variables, batch):
    rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), state.step), DRAWN)
    variables = {'params': state.params['student'], **state.stats['student']}
    written = rewrite(variables if writer.who == 'student' else teacher_variables, batch, rng)
    return update(state, taught(teacher, teacher_variables, batch, written, writer), written)

  return live_update
