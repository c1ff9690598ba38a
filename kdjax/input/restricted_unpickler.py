"""Pickles, carried out here, opcode by opcode, so that nothing of theirs is imported or run."""

import codecs
import mmap
import pickletools
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from kdjax.errors import KdjaxError

CODES = {op.code: op for op in pickletools.opcodes}
MADE = {'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False}
MADE |= {'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}
# What carries its own value: as newer protocols write it, then bytes and what the first protocols wrote.
_NEWER = 'BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING'
_OLDER = 'INT LONG FLOAT STRING UNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8'
_OTHERS = (
  'PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS '
  'APPEND APPENDS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET'
)
PUSHED = {*_NEWER.split(), *_OLDER.split()}
# All that is needed to build dicts, lists, strings, numbers and calls of what a dialect allows.
BASIC = {*_NEWER.split(), *_OTHERS.split(), *MADE}
FULL = BASIC | PUSHED | {'DICT', 'LIST', 'PUT', 'GET'}
SIZES = {'BINSTRING': '<i', 'SHORT_BINSTRING': '<B', 'BINBYTES': '<I', 'SHORT_BINBYTES': '<B'}
SIZES |= {'BINBYTES8': '<Q', 'BYTEARRAY8': '<Q'}
LONG = 4096  # bytes from which a string is left where it lies in the file
MOST = 4_000_000  # operations: each may take a hundred times the memory of its one byte
# Bytes that calls may make: they can copy one long value again and again.
FREE = 4_000_000  # in any pickle
TIMES, SMALL = 100, 10_000_000  # for each of its first bytes
LATER = 4  # for each of the others
KEY, GIVEN = 4096, 16  # bytes of a key, values that a call or a state has: more are slow to compare or copy


def whole_numbers(value: Any, most: int = 64) -> bool:
  """Whether it is a tuple of a few whole numbers from 0, none of which fills more than a word."""
  return type(value) is tuple and len(value) <= most and all(type(n) is int and 0 <= n < 2**62 for n in value)


class Allowed(NamedTuple):
  """What a name of the pickle stands for: a call that makes data, and cannot be changed."""

  name: str
  make: Callable
  dtype: Any = None


class Dialect(NamedTuple):
  """What a kind of pickle may say.

  Attributes:
    names: (module, name) -> what stands for it; there is no other.
    opcodes: their names.
    thing: what the pickle ought to hold, for messages.
    instead: what a person can do about one that holds more.
    persistent: makes a value of a persistent id.
  """

  names: Mapping[tuple[str, str], Allowed]
  opcodes: set[str]
  thing: str
  instead: str
  persistent: Callable | None = None

  def find(self, module: str, name: str) -> Allowed:
    if type(module) is not str or type(name) is not str:
      raise ValueError('a name that is no text')
    if (module, name) not in self.names:
      shown = f'{module[:200]}.{name[:200]}'.encode('unicode_escape').decode()
      raise KdjaxError(
        f'it asks for {shown}, which is no {self.thing}, and no code is run from {self.instead}'
      )
    return self.names[module, name]


class Unbuilt:
  """A value that its state, which comes after it in the pickle, makes another of: `build(state) -> value`."""

  def __init__(self):
    self.places = []  # in the memo


def cannot(path: Path, e: Exception) -> KdjaxError:
  """The one line that says why a file cannot be loaded."""
  reason = ' '.join(str(getattr(e, 'strerror', None) or e).split())[:300]
  reason = reason if isinstance(e, KdjaxError | OSError) else f'it is damaged ({type(e).__name__}: {reason})'
  return KdjaxError(f'cannot load {path}: {reason.rstrip(".")}.')


def _held(file, form):
  """The string of a size that the file bears out; a long one is a view of the file."""
  (n,) = struct.unpack(form, file.read(struct.calcsize(form)))
  start, mapped = file.tell(), isinstance(file, mmap.mmap)
  left = (len(file) if mapped else file.getbuffer().nbytes) - start
  if not 0 <= n <= left:
    raise ValueError(f'{n} bytes are announced and {left} are left')
  if n < LONG:
    return file.read(n)
  file.seek(start + n)
  return (memoryview(file) if mapped else file.getbuffer())[start : start + n]


def _operations(file) -> Iterator[tuple[str, Any]]:
  """The name and the argument of each opcode."""
  while True:
    code = file.read(1)
    opcode = CODES.get(code.decode('latin-1'))
    if opcode is None:
      raise ValueError(f'there is no opcode {code!r}' if code else 'it ends before its last opcode')
    if opcode.name in SIZES:
      arg = _held(file, SIZES[opcode.name])
      if 'STRING' in opcode.name and type(arg) is bytes:  # of Python 2, which had no other
        arg = arg.decode('latin-1')
    elif opcode.name == 'STRING':
      line = file.readline().strip()
      if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b'"', b"'"):
        raise ValueError('a string without its quotes')
      arg = codecs.escape_decode(line[1:-1])[0].decode('latin-1')
    else:
      arg = opcode.arg.reader(file) if opcode.arg else None
    yield opcode.name, arg


def put(target, items):
  """Puts keys and values in turn into a dict; what is slow or odd to hash is no key."""
  if not isinstance(target, dict) or len(items) % 2:
    raise ValueError('entries of what is no dict')
  for key, value in zip(items[::2], items[1::2], strict=True):
    if type(key) not in (str, bytes) and not (type(key) is int and abs(key) < 2**61 - 1):
      raise ValueError(f'a {type(key).__name__} as the key of a dict')
    if isinstance(key, str | bytes) and len(key) > KEY:
      raise ValueError(f'a key of {len(key):,} characters')
    target[key] = value


def _size(value) -> int:
  """Bytes of what a call made; those of an array count as its own, though it may be a view."""
  return sys.getsizeof(value) + getattr(value, 'nbytes', 0)


def load(file: Any, dialect: Dialect) -> Any:
  """The value of the next pickle of a file in memory, an `mmap` or a `BytesIO`, which is left behind it.

  Nothing is called but what the dialect's names stand for, and no size is believed that the file does not
  bear out. Each operation may take about a hundred bytes in memory, and there are `MOST` at most; what calls
  make is bounded by `FREE`, `TIMES` and `LATER`. No value is put into a message: a small pickle can hold one
  whose text has no end.

  Raises:
    KdjaxError: if it says what the dialect does not have, or it makes more than that.
    Exception: of many types, if it is damaged.
  """
  stack, marks, memo, begun, taken = [], [], {}, file.tell(), 0

  def top(n):
    items = stack[len(stack) - n :] if 0 < n <= len(stack) else []
    del stack[len(stack) - len(items) :]
    if len(items) != n:
      raise ValueError('more is taken from the stack than lies on it')
    return items

  def since():
    return top(n) if (n := len(stack) - marks.pop()) else []

  def counted(value):
    nonlocal taken
    taken += _size(value)
    size = file.tell() - begun
    if taken > FREE + TIMES * min(size, SMALL) + LATER * size:
      raise KdjaxError(f'its pickle makes more than {TIMES} times its own size by calls: save it as arrays')
    return value

  for n, (name, arg) in enumerate(_operations(file)):
    allowed = dialect.find(*arg.split(' ', 1)) if name in ('GLOBAL', 'INST') else None
    if name not in dialect.opcodes:
      raise KdjaxError(f'its pickle uses {name}, which no {dialect.thing} needs')
    if n > MOST:
      raise KdjaxError(f'its pickle has more than {MOST:,} operations: save it as arrays')
    if name in PUSHED or name == 'GLOBAL':
      stack.append(allowed or arg)
    elif name in MADE:
      stack.append(MADE[name]())
    elif name == 'STOP':
      return top(1)[0]
    elif name == 'MARK':
      marks.append(len(stack))
    elif name == 'TUPLE':
      stack.append(tuple(since()))
    elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      stack.append(tuple(top(int(name[-1]))))
    elif name == 'LIST':
      stack.append(since())
    elif name == 'DICT':
      items, built = since(), {}
      put(built, items)
      stack.append(built)
    elif name in ('SETITEM', 'SETITEMS'):
      items = top(2) if name == 'SETITEM' else since()
      put(stack[-1], items)
    elif name in ('APPEND', 'APPENDS'):
      items = top(1) if name == 'APPEND' else since()
      if type(stack[-1]) is not list:
        raise ValueError('items of what is no list')
      stack[-1].extend(items)
    elif name in ('PUT', 'BINPUT', 'LONG_BINPUT', 'MEMOIZE'):
      place = len(memo) if name == 'MEMOIZE' else arg
      if place > n:
        raise ValueError(f'a memo of {place} entries after {n} operations')
      memo[place] = stack[-1]
      if isinstance(stack[-1], Unbuilt):
        stack[-1].places.append(place)
    elif name in ('GET', 'BINGET', 'LONG_BINGET'):
      stack.append(memo[arg])
    elif name == 'STACK_GLOBAL':
      module, attribute = top(2)
      stack.append(dialect.find(module, attribute))
    elif name == 'REDUCE':
      built, args = top(2)
      if type(built) is not Allowed or type(args) is not tuple or len(args) > GIVEN:
        raise ValueError('a call of what is no name')
      stack.append(counted(built.make(*args)))
    elif name == 'BUILD':
      instance, state = top(2)
      build = getattr(type(instance), 'build', None)  # plain data have none
      if build is None or (type(state) is tuple and len(state) > GIVEN):
        raise ValueError(f'a state of a {type(instance).__name__}')
      stack.append(counted(build(instance, state)))
      while isinstance(instance, Unbuilt) and instance.places:  # once: it may be built again
        memo[instance.places.pop()] = stack[-1]
    elif name == 'BINPERSID' and dialect.persistent:
      (pid,) = top(1)
      if type(pid) is not tuple or len(pid) > GIVEN:
        raise ValueError('a persistent id that is none')
      stack.append(dialect.persistent(pid))
