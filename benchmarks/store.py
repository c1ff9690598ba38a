"""How large a teacher store is and how fast it is read: one JSON object on standard output.

  python -m benchmarks.store
  taskset -c 0 python -m benchmarks.store --examples=65536 --folder=/tmp     # one core

It writes a store of random logits and embeddings, as `run.py store build` writes it but without a teacher,
and reads it through `Reader.take`, the way training does, in batches of 256, in order and shuffled: from
the files, as a large store is read, and from memory, as one below 1 GB is.

  bytes_per_example   1000 classes: the 16 largest logits, the mass of the others, an embedding of 512
  read_per_s          100 classes, all logits: examples a second, on as many cores as it may use
  write_per_s         examples a second, checksums included
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from kdjax.runtime import files, progress
from kdjax.teacher_store import live_teacher, manifest, read, record, write

BATCH = 256


def build(folder, shapes, top_k, args):
  """Writes a store of random taps: (its reader, seconds)."""
  rng = np.random.default_rng(0)
  t = {name: jnp.asarray(rng.normal(0, 3, (BATCH, *shape)), jnp.float32) for name, shape in shapes.items()}
  taps = record.plan(t, BATCH, args.dtype, top_k)
  arrays = jax.device_get(jax.jit(lambda t: record.encode(taps, t)[0])(t))
  identity = {'data.examples': args.examples, 'store.views': 1, 'store.shard': args.shard}
  identity |= {f'taps.{tap.name}': tap[1:] for tap in taps}
  identity = json.loads(json.dumps(identity))
  spec = manifest.Spec(folder, identity, taps, frozenset(shapes), args.shard, 1)
  folder.mkdir()
  teacher = live_teacher.Teacher(
    BATCH, None, lambda batch, view: (record.pack(taps, batch['id'], view, arrays), t)
  )
  began = time.perf_counter()
  shards = range(-(-args.examples // args.shard))
  write.shards(spec, shards, 0, lambda rows: {'id': rows}, teacher, args.examples)
  seconds = time.perf_counter() - began
  metadata = write.manifest_of(spec, complete=True)
  files.write_json(folder / manifest.NAME, metadata)
  with mock.patch.object(read, 'HELD', 0):
    return read.Reader(folder, metadata), seconds


def rate(reader, order):
  """Examples a second, of the best of three passes."""
  best = 0.0
  views = np.zeros(BATCH, np.int64)
  for _ in range(3):
    began = time.perf_counter()
    for at in range(0, len(order) - BATCH + 1, BATCH):
      reader.take(order[at : at + BATCH], views)
    best = max(best, len(order) // BATCH * BATCH / (time.perf_counter() - began))
  return best


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--examples', type=int, default=32768, help='how many of each store (32768)')
  parser.add_argument('--shard', type=int, default=4096, help='examples a file, as store.shard (4096)')
  parser.add_argument('--dtype', choices=record.DTYPES, default='float16', help='as store.dtype')
  parser.add_argument('--folder', default=None, help='where; a temporary folder is made and deleted in it')
  args = parser.parse_args()
  progress.silence()
  with tempfile.TemporaryDirectory(dir=args.folder) as folder:
    large, large_s = build(Path(folder) / 'large', {'logits': (1000,), 'embed': (512,)}, 16, args)
    small, small_s = build(Path(folder) / 'small', {'logits': (100,)}, 0, args)
    held = read.Reader(small.folder, manifest.load(small.folder))
    each = np.arange(0, args.examples, args.shard)
    held.take(each, 0 * each)  # loads every shard
    ordered = np.arange(args.examples)
    shuffled = np.random.default_rng(1).permutation(args.examples)
    print(
      json.dumps(
        {
          'examples': args.examples,
          'dtype': args.dtype,
          'cores': len(os.sched_getaffinity(0)),
          'bytes_per_example': round(large.bytes / args.examples, 1),
          'bytes_per_record': large.record.itemsize,
          'bytes_per_example_100_classes': round(small.bytes / args.examples, 1),
          'read_per_s_in_order': round(rate(small, ordered)),
          'read_per_s_shuffled': round(rate(small, shuffled)),
          'read_per_s_shuffled_1000_classes': round(rate(large, shuffled)),
          'memory_read_per_s_shuffled': round(rate(held, shuffled)),
          'write_per_s': round(args.examples / small_s),
          'write_per_s_1000_classes': round(args.examples / large_s),
        },
        indent=2,
      )
    )


if __name__ == '__main__':
  main()
