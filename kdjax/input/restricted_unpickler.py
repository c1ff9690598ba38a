"""A restricted unpickler: it interprets opcodes itself, so that a pickle imports and runs nothing."""

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
CONSTANTS = {'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False}
CONSTANTS |= {'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}
# Opcodes with a value: those of newer protocols, then bytes and those of the first protocols.
_NEWER = 'BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINSTRING SHORT_BINSTRING'
_OLDER = 'INT LONG FLOAT STRING UNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8'
_OTHERS = (
  'PROTO FRAME STOP MARK GLOBAL STACK_GLOBAL REDUCE BUILD TUPLE TUPLE1 TUPLE2 TUPLE3 SETITEM SETITEMS '
  'APPEND APPENDS BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET'
)
PUSHED = {*_NEWER.split(), *_OLDER.split()}
# All that is needed to build dicts, lists, strings, numbers and calls of what a dialect allows.
BASIC = {*_NEWER.split(), *_OTHERS.split(), *CONSTANTS}
FULL = BASIC | PUSHED | {'DICT', 'LIST', 'PUT', 'GET'}
SIZES = {'BINSTRING': '<i', 'SHORT_BINSTRING': '<B', 'BINBYTES': '<I', 'SHORT_BINBYTES': '<B'}
SIZES |= {'BINBYTES8': '<Q', 'BYTEARRAY8': '<Q'}
LONG = 4096  # bytes from which a string is a view of the file
MOST = 4_000_000  # operations: each may take a hundred times the memory of its one byte
# Bytes that calls may allocate: they can copy one long value again and again.
FREE = 4_000_000  # in any pickle
TIMES, SMALL = 100, 10_000_000  # for each of its first bytes
LATER = 4  # for each of the others
KEY, ARGS = 4096, 16  # bytes of a key, arguments of a call or a state: more are slow to compare or copy


def whole_numbers(value: Any, most: int = 64) -> bool:
  """Whether it is a tuple of at most `most` whole numbers in [0, 2^62)."""
  return type(value) is tuple and len(value) <= most and all(type(n) is int and 0 <= n < 2**62 for n in value)


class Allowed(NamedTuple):
  """An allowed name of a pickle: an immutable function that returns data."""

  name: str
  make: Callable
  dtype: Any = None


class Dialect(NamedTuple):
  """What a kind of pickle may contain.

  Attributes:
    names: (module, name) -> its replacement; no other name is allowed.
    opcodes: the names of the allowed opcodes.
    thing: what the pickle should hold, for messages.
    instead: what to do about a pickle that holds more, for messages.
    persistent: (persistent id) -> value.
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
      escaped = f'{module[:200]}.{name[:200]}'.encode('unicode_escape').decode()
      raise KdjaxError(
        f'it asks for {escaped}, which is no {self.thing}, and no code is run from {self.instead}'
      )
    return self.names[module, name]


class Unbuilt:
  """A placeholder, which the state that follows in the pickle completes: `build(state) -> value`."""

  def __init__(self):
    self.places = []  # in the memo


def cannot(path: Path, e: Exception) -> KdjaxError:
  """The one line that says why a file cannot be loaded."""
  reason = ' '.join(str(getattr(e, 'strerror', None) or e).split())[:300]
  reason = reason if isinstance(e, KdjaxError | OSError) else f'it is damaged ({type(e).__name__}: {reason})'
  return KdjaxError(f'cannot load {path}: {reason.rstrip(".")}.')


def _read_string(file, form):
  """A string whose size is checked against the file; a long one is a view of the file."""
  (n,) = struct.unpack(form, file.read(struct.calcsize(form)))
  start, mapped = file.tell(), isinstance(file, mmap.mmap)
  remaining = (len(file) if mapped else file.getbuffer().nbytes) - start
  if not 0 <= n <= remaining:
    raise ValueError(f'{n} bytes are announced and {remaining} are left')
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
      arg = _read_string(file, SIZES[opcode.name])
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
  """Adds alternating keys and values to a dict; keys are short strings, bytes and whole numbers."""
  if not isinstance(target, dict) or len(items) % 2:
    raise ValueError('entries of what is no dict')
  for key, value in zip(items[::2], items[1::2], strict=True):
    if type(key) not in (str, bytes) and not (type(key) is int and abs(key) < 2**61 - 1):
      raise ValueError(f'a {type(key).__name__} as the key of a dict')
    if isinstance(key, str | bytes) and len(key) > KEY:
      raise ValueError(f'a key of {len(key):,} characters')
    target[key] = value


def _size(value) -> int:
  """Bytes of the result of a call; those of an array count, though it may be a view."""
  return sys.getsizeof(value) + getattr(value, 'nbytes', 0)


def load(file: Any, dialect: Dialect) -> Any:
  """The value of the next pickle of an `mmap` or a `BytesIO`, whose position is then behind the pickle.

  Only the replacements of the dialect's names are called, and every size is checked against the file. An
  operation takes about a hundred bytes in memory, and there are at most `MOST`; what calls allocate is
  bounded by `FREE`, `TIMES` and `LATER`. No value is put into a message: its text can be endless.

  Raises:
    KdjaxError: if it has what the dialect does not allow, or exceeds these bounds.
    Exception: of many types, if it is damaged.
  """
  stack, marks, memo, start, allocated = [], [], {}, file.tell(), 0

  def pop(n):
    items = stack[len(stack) - n :] if 0 < n <= len(stack) else []
    del stack[len(stack) - len(items) :]
    if len(items) != n:
      raise ValueError('more is taken from the stack than lies on it')
    return items

  def pop_to_mark():
    return pop(n) if (n := len(stack) - marks.pop()) else []

  def checked(value):
    nonlocal allocated
    allocated += _size(value)
    size = file.tell() - start
    if allocated > FREE + TIMES * min(size, SMALL) + LATER * size:
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
    elif name in CONSTANTS:
      stack.append(CONSTANTS[name]())
    elif name == 'STOP':
      return pop(1)[0]
    elif name == 'MARK':
      marks.append(len(stack))
    elif name == 'TUPLE':
      stack.append(tuple(pop_to_mark()))
    elif name in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      stack.append(tuple(pop(int(name[-1]))))
    elif name == 'LIST':
      stack.append(pop_to_mark())
    elif name == 'DICT':
      items, target = pop_to_mark(), {}
      put(target, items)
      stack.append(target)
    elif name in ('SETITEM', 'SETITEMS'):
      items = pop(2) if name == 'SETITEM' else pop_to_mark()
      put(stack[-1], items)
    elif name in ('APPEND', 'APPENDS'):
      items = pop(1) if name == 'APPEND' else pop_to_mark()
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
      module, attribute = pop(2)
      stack.append(dialect.find(module, attribute))
    elif name == 'REDUCE':
      function, args = pop(2)
      if type(function) is not Allowed or type(args) is not tuple or len(args) > ARGS:
        raise ValueError('a call of what is no name')
      stack.append(checked(function.make(*args)))
    elif name == 'BUILD':
      instance, state = pop(2)
      build = getattr(type(instance), 'build', None)  # plain data have none
      if build is None or (type(state) is tuple and len(state) > ARGS):
        raise ValueError(f'a state of a {type(instance).__name__}')
      stack.append(checked(build(instance, state)))
      while isinstance(instance, Unbuilt) and instance.places:  # once: it may be built again
        memo[instance.places.pop()] = stack[-1]
    elif name == 'BINPERSID' and dialect.persistent:
      (pid,) = pop(1)
      if type(pid) is not tuple or len(pid) > ARGS:
        raise ValueError('a persistent id that is none')
      stack.append(dialect.persistent(pid))
