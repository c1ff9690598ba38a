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
  """The tokenizer, set to make texts of one length."""
  tokenizer.enable_truncation(length)
  tokenizer.enable_padding(length=length, pad_id=0, pad_token=PAD)
  return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Ids i32 [N, L] and their validity bool [N, L], with a tokenizer from `cut`."""
  encoded = tokenizer.encode_batch(list(texts))
  return np.array([e.ids for e in encoded], np.int32), np.array([e.attention_mask for e in encoded], bool)
