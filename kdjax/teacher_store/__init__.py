"""The teacher's outputs on disk: computed once, used by any number of students.

A folder with `manifest.json` (which teacher, which data, which format) and numbered shards, each an
ArrayRecord file of `store.shard` examples with all their views, and a JSON with its checksum and ids.
"""

from kdjax.teacher_store.build import build
from kdjax.teacher_store.manifest import finished, folder
from kdjax.teacher_store.record import DTYPES
from kdjax.teacher_store.use import open_reader, use_store
from kdjax.teacher_store.verify import info, verify

__all__ = ['DTYPES', 'build', 'finished', 'folder', 'info', 'open_reader', 'use_store', 'verify']
