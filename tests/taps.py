"""Made outputs of a student and a teacher, and a batch, for tests of any method.

B examples; the student is narrower than the teacher, and its maps differ in size at no stage.
"""

import numpy as np

B, C, L, V = 12, 5, 6, 11


def shapes(width):
  """Tap -> shape, for one model of a width."""
  maps = {f'image/stage{i}': (B, 16 >> i, 16 >> i, width << i) for i in (1, 2, 3)}
  tokens = {f'text/block{i}': (B, L, width) for i in (1, 2)}
  return {
    'logits': (B, C),
    'embed': (B, 2 * width),
    'image/embed': (B, 2 * width),
    'text/embed': (B, 2 * width),
    **maps,
    **tokens,
    'logit_scale': (),
    'logit_bias': (),
    'text/logits': (B, L, V),
    **{f'text/attention{i}': (B, 2, L, L) for i in (1, 2)},
    **{f'view{i}/embed': (B, 2 * width) for i in (1, 2, 3)},
    **{f'{modality}/class_logits': (B, C) for modality in ('image', 'text')},
  }


def outputs(seed, width):
  rng = np.random.default_rng(seed)
  return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes(width).items()}


def example():
  """(student, teacher, batch)."""
  rng = np.random.default_rng(0)
  batch = {
    'label': rng.integers(0, C, B).astype(np.int32),
    'text/mask': np.arange(L)[None] < rng.integers(2, L + 1, B)[:, None],
    'mask': np.ones(B, np.float32),
    'id': np.arange(B, dtype=np.int32),
    'epoch': np.zeros(B, np.int32),
  }
  batch['text/target'] = np.where(batch['text/mask'], rng.integers(0, V, (B, L)), -100).astype(np.int32)
  return outputs(1, 4), outputs(2, 6), batch


def rows(tree, indices):
  return {k: v if np.ndim(v) == 0 else v[indices] for k, v in tree.items()}
