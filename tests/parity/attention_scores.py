"""Attention scores of the libraries, which give probabilities at most: from their queries and keys."""


def watch(pairs, heads):
  """`scores() -> {'attention1': [B, heads, L, L], ...}` of (query, key) layers, after a forward."""
  collected = {}

  def keep(name):
    return lambda _, __, y: collected.__setitem__(name, y.unflatten(-1, (heads, -1)).transpose(1, 2))

  for i, pair in enumerate(pairs, 1):
    for layer, kind in zip(pair, 'qk', strict=True):
      layer.register_forward_hook(keep((i, kind)))

  def scores():
    both = {i: (collected[i, 'q'], collected[i, 'k']) for i in range(1, len(pairs) + 1)}
    return {f'attention{i}': q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 for i, (q, k) in both.items()}

  return scores
