"""Text to ids with HF `tokenizers`, and back: a vocabulary of the training texts, or a tokenizer.json."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from kdjax.errors import KdjaxError
from kdjax.input import tokenizer_bounds
from kdjax.runtime import files
from kdjax.runtime.files import fingerprint, regular_file

FILE = 'tokenizer.json'  # in a workdir
PAD, UNKNOWN, END = '[PAD]', '[UNK]', '[END]'
ENDS = (
  END,
  '<|endoftext|>',
  '</s>',
  '<eos>',
  '<|im_end|>',
  '<|eot_id|>',
  '[SEP]',
)  # the first in the vocabulary
LARGEST = 64e6  # bytes of a tokenizer.json; the largest vocabularies take 35 MB
# Scripts without spaces between words: each character, with the marks on it, is a token. Thai to Khmer, kana,
# ideographs; not Hangul, which has spaces.
UNSPACED = '\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff'
UNSPACED += '\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\U00020000-\U0003134f'
MOST = 2**24  # tokens of a vocabulary
NOTHING = -100  # where there is no target
BETWEEN = re.compile(f'(?<=[{UNSPACED}]) (?=[{UNSPACED}])')
# Prefix of the tokens of a vocabulary -> its decoder.
SPELLINGS = {'Ġ': decoders.ByteLevel(), '▁': decoders.Metaspace(), '##': decoders.WordPiece()}


def train(texts: Iterable[str], vocab_size: int, end: bool = False) -> Tokenizer:
  """A lower-cased vocabulary of the most frequent words; id 0 is padding, 1 the unknown, 2 the end.

  In scripts without spaces (`UNSPACED`) a character is a word.
  """
  tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
  tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
  characters = pre_tokenizers.Split(Regex(rf'[{UNSPACED}]\p{{M}}*'), 'isolated')
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), characters])
  special = [PAD, UNKNOWN, *([END] if end else [])]
  trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


def load(path: str | Path) -> Tokenizer:
  """Reads a tokenizer.json.

  Raises:
    KdjaxError: if there is none, or it cannot be read.
  """
  try:
    tokenizer = Tokenizer.from_file(str(regular_file(path, 'tokenizer', LARGEST)))
    tokenizer_bounds.check(tokenizer)
    return tokenizer
  except BaseException as e:  # the library raises bare Exception, and panics
    if isinstance(e, KeyboardInterrupt | SystemExit):
      raise
    raise KdjaxError(f'cannot read the tokenizer {path}: {e}') from e


def kept(workdir: Path) -> Tokenizer | None:
  """The tokenizer of a workdir, whose hash has to be the one in data.json; None where there is none.

  Raises:
    KdjaxError: if it is damaged.
  """
  path, metadata_path = workdir / FILE, workdir / 'data.json'
  if not path.exists():
    return None
  advice = 'delete it and run the same command, which writes it anew'
  recorded = files.read_json(metadata_path, {'tokenizer?': str}, advice, {})
  if recorded.get('tokenizer', now := fingerprint(regular_file(path, 'tokenizer').read_bytes())) != now:
    raise KdjaxError(f'cannot read {path} (it is not what was written): {advice}.')
  return load(path)


def mark(tokenizer: Tokenizer | None) -> str:
  """A hash of the vocabulary, '' without one."""
  return fingerprint(sorted(tokenizer.get_vocab().items())) if tokenizer is not None else ''


def size(tokenizer: Tokenizer) -> int:
  """The number of ids: one more than the largest, since an id may have no token."""
  return max(tokenizer.get_vocab().values(), default=-1) + 1


def cut(tokenizer: Tokenizer, length: int) -> Tokenizer:
  """The tokenizer, set to truncate and pad to `length` with its padding token."""
  padding = tokenizer.padding or {}
  candidates = ((tokenizer.token_to_id(t), t) for t in (padding.get('pad_token', PAD), PAD, '<pad>'))
  pad_id, token = next(((i, t) for i, t in candidates if i is not None), (padding.get('pad_id', 0), PAD))
  tokenizer.enable_truncation(length)
  tokenizer.enable_padding(length=length, pad_id=pad_id, pad_token=token)
  _check(tokenizer)
  return tokenizer


def max_length(tokenizer: Tokenizer) -> int:
  """Tokens of a text of a `cut` tokenizer."""
  assert tokenizer.truncation is not None  # `cut` sets it
  return tokenizer.truncation['max_length']


def _pad_id(tokenizer: Tokenizer) -> int:
  assert tokenizer.padding is not None  # `cut` sets it
  return tokenizer.padding['pad_id']


def _check(tokenizer: Tokenizer) -> None:
  """Raises KdjaxError for a tokenizer with too many tokens or none, or ids outside its vocabulary."""
  tokens = size(tokenizer)
  if not 0 < tokens <= MOST:
    raise KdjaxError(f'the tokenizer has ids up to {tokens - 1}; it needs 1 to {MOST:,} tokens.')
  largest = max(encode(tokenizer, [''])[0].max(), _pad_id(tokenizer))
  if largest >= tokens:
    raise KdjaxError(
      f'the tokenizer gives the id {largest}, and the largest of its vocabulary is {tokens - 1}: its padding '
      'or post-processor does not fit its vocabulary.'
    )


def _encoded(tokenizer: Tokenizer, texts: Sequence[str], **kwargs) -> list:
  try:
    return tokenizer.encode_batch(list(texts), **kwargs)
  except BaseException as e:  # the library raises bare Exception, and panics
    if isinstance(e, (KeyboardInterrupt, SystemExit)):
      raise
    reason = ' '.join(str(e).split())[:200]
    raise KdjaxError(
      f'the tokenizer cannot read a text ({reason}): it needs a token for unknown words.'
    ) from e


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ids i32 [N, L], their validity bool [N, L], whether a text was truncated [N]; for `cut` tokenizers."""
  encoded = _encoded(tokenizer, texts)
  ids, mask = ([getattr(e, k) for e in encoded] for k in ('ids', 'attention_mask'))
  return np.array(ids, np.int32), np.array(mask, bool), np.array([bool(e.overflowing) for e in encoded])


def unknown(tokenizer: Tokenizer) -> int | None:
  """The id of the token for unknown words, None without one."""
  unk_token = getattr(tokenizer.model, 'unk_token', None)
  ids = (tokenizer.token_to_id(token) for token in (unk_token, UNKNOWN, '<unk>') if token)
  return next((i for i in ids if i is not None), None)


def unknown_words(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, int]:
  """Word -> how many of the texts have it, of the words that the tokenizer reads as its unknown token."""
  words, unknown_id = Counter(), unknown(tokenizer)
  for start in range(0, len(texts) if unknown_id is not None else 0, 1024):
    part = texts[start : start + 1024]
    for text, encoding in zip(part, _encoded(tokenizer, part), strict=True):
      tokens = zip(encoding.ids, encoding.attention_mask, encoding.offsets, strict=True)
      unseen = (text[slice(*offsets)] for i, valid, offsets in tokens if valid and i == unknown_id)
      words.update(list(dict.fromkeys(unseen)))
  return dict(words.most_common())


def end(tokenizer: Tokenizer) -> int:
  """The id of the token that ends a text.

  Raises:
    KdjaxError: if the vocabulary has none of `ENDS`.
  """
  end_id = next((i for i in map(tokenizer.token_to_id, ENDS) if i is not None), None)
  if end_id is None:
    raise KdjaxError(f'the tokenizer has no token that ends a text: it needs one of {", ".join(ENDS)}.')
  return end_id


def longest(tokenizer: Tokenizer, prompt_length: int) -> int:
  """The longest prompt in tokens; half of a text of a `cut` tokenizer where `prompt_length` is 0.

  Raises:
    KdjaxError: if it leaves no room for a response.
  """
  length = max_length(tokenizer)
  prompt = prompt_length or length // 2
  if not 0 < prompt < length:
    raise KdjaxError(
      f'data.prompt_length is {prompt_length} and data.text_length {length}: a text is a prompt and a '
      'response, and both need room.'
    )
  return prompt


def targets(ids, response, like=np):
  """The target of each position, i32 [N, L]: the next token where it is of the response, else `NOTHING`."""
  shifted = like.where(response[:, 1:], ids[:, 1:], NOTHING)
  return like.pad(shifted, ((0, 0), (0, 1)), constant_values=NOTHING)


def encode_pairs(
  tokenizer: Tokenizer,
  prompts: Sequence[str] | None,
  responses: Sequence[str],
  prompt_length: int = 0,
  ends: bool = False,
) -> dict[str, np.ndarray]:
  """A prompt, its response and the end token as one text, padded on the right; for `cut` tokenizers.

  A prompt that is too long is truncated on the left, since its request tends to come last; a response that
  is too long has no end token.

  Args:
    prompts: None for responses to something else, such as an image: each then begins with the end token.
    prompt_length: the longest prompt in tokens; 0 for half of a text.
    ends: whether '/ends' is wanted too.

  Returns:
    '' the ids i32 [N, L], '/mask' their validity, '/response' which of them are the response's,
    '/target' as in `targets`, '/cut' whether either was truncated [N]. '/ends' i32 [N, L] says of each target
    after how many characters of the response it ends, the end token one after the last; `NOTHING` for none.

  Raises:
    KdjaxError: if a prompt has no token.
  """
  max_prompt, length = longest(tokenizer, prompt_length), max_length(tokenizer)
  pad_id, end_id = _pad_id(tokenizer), end(tokenizer)
  ids = np.full((len(responses), length), pad_id, np.int32)
  mask, response = np.zeros((2, *ids.shape), bool)
  cut, last = np.zeros(len(responses), bool), np.full(ids.shape, NOTHING, np.int32)

  def whole(texts):
    return _whole(_encoded(tokenizer, texts, add_special_tokens=False))

  full_prompts = [([end_id], [])] * len(responses) if prompts is None else whole(prompts)
  for row, ((full_prompt, _), (response_ids, stops)) in enumerate(
    zip(full_prompts, whole(responses), strict=True)
  ):
    if prompts and not full_prompt:
      raise KdjaxError(f'the prompt {prompts[row]!r} has no token that the tokenizer knows.')
    prompt_ids = full_prompt[-max_prompt:]
    sequence = [*prompt_ids, *response_ids, end_id]
    cut[row] = len(sequence) > length or len(full_prompt) > max_prompt
    sequence = sequence[:length]
    ids[row, : len(sequence)], mask[row, : len(sequence)] = sequence, True
    response[row, len(prompt_ids) : len(sequence)] = True
    stops = [*stops, len(responses[row]) + 1][: len(sequence) - len(prompt_ids)]
    last[row, len(prompt_ids) - 1 : len(prompt_ids) - 1 + len(stops)] = stops
  encoded = {'': ids, '/mask': mask, '/response': response, '/target': targets(ids, response)}
  return encoded | {'/cut': cut} | ({'/ends': last} if ends else {})


def _whole(encoded):
  """The ids of each text, without truncation and padding, and where in the text each token ends."""
  for encoding in encoded:
    pieces = [(p.ids, p.attention_mask, p.offsets) for p in (encoding, *encoding.overflowing)]
    tokens = [(i, end) for piece in pieces for i, m, (_, end) in zip(*piece, strict=True) if m]
    yield [i for i, _ in tokens], [end for _, end in tokens]


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
  """The ids of a text alone, without special tokens, truncation and padding; for `cut` tokenizers."""
  return next(_whole(_encoded(tokenizer, [text], add_special_tokens=False)))[0]


def vocabulary(tokenizer: Tokenizer) -> tuple[str, ...]:
  """The tokens by id."""
  return tuple(tokenizer.id_to_token(i) or '' for i in range(size(tokenizer)))


def spell(ids: Iterable[int], words: Sequence[str]) -> str:
  """Ids as text, without end tokens, padding and ids outside `words`, the tokens by id."""
  pieces = [words[i] for i in ids if 0 <= i < len(words) and words[i] not in (*ENDS, PAD)]
  style = next((s for s in SPELLINGS if any(w.startswith(s) for w in words)), None)
  return SPELLINGS[style].decode(pieces).strip() if style else BETWEEN.sub('', ' '.join(pieces))
