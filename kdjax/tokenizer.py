"""Text to ids with HF `tokenizers`: word vocabularies trained on the spot, or a tokenizer.json."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from kdjax.errors import KdjaxError

PAD, UNKNOWN = '[PAD]', '[UNK]'


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
  """A lower-cased word vocabulary of the most frequent words; id 0 is padding, 1 the unknown."""
  tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
  tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  trainer = trainers.WordLevelTrainer(
    vocab_size=vocab_size, special_tokens=[PAD, UNKNOWN], show_progress=False
  )
  tokenizer.train_from_iterator(texts, trainer)
  return tokenizer


def load(path: str | Path) -> Tokenizer:
  """Reads a tokenizer.json.

  Raises:
    KdjaxError: if there is none, or it cannot be read.
  """
  try:
    return Tokenizer.from_file(str(path))
  except Exception as e:  # the library raises bare Exception
    raise KdjaxError(f'cannot read the tokenizer {path}: {e}') from e


def cut(tokenizer: Tokenizer, length: int) -> Tokenizer:
  """The tokenizer, set to make texts of one length, filled up with its own padding token."""
  own = tokenizer.padding or {}
  named = ((tokenizer.token_to_id(t), t) for t in (own.get('pad_token', PAD), PAD, '<pad>'))
  number, token = next(((i, t) for i, t in named if i is not None), (own.get('pad_id', 0), PAD))
  tokenizer.enable_truncation(length)
  tokenizer.enable_padding(length=length, pad_id=number, pad_token=token)
  return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Ids i32 [N, L], their validity bool [N, L], and whether a text was too long [N]; for `cut` tokenizers."""
  encoded = tokenizer.encode_batch(list(texts))
  ids, mask = ([getattr(e, k) for e in encoded] for k in ('ids', 'attention_mask'))
  return np.array(ids, np.int32), np.array(mask, bool), np.array([bool(e.overflowing) for e in encoded])
