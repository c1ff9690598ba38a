"""The teacher's outputs on disk: computed once, used by any number of students.

A folder with `manifest.json` (which teacher, which data, which format) and numbered shards, each an
ArrayRecord file of `store.shard` examples with all their views, and a JSON with its checksum and ids.
"""

from kdjax.store.build import build
from kdjax.store.check import info, verify
from kdjax.store.hear import open, use
from kdjax.store.layout import DTYPES
from kdjax.store.manifest import finished, folder

__all__ = ['DTYPES', 'build', 'finished', 'folder', 'info', 'open', 'use', 'verify']
