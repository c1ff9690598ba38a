"""Distillation methods: one file each, `methods/<family>/<name>.py`, found by name.

A method file holds a function of the file's own name that returns a `Method`, and `WEIGHT`, the
weight that its paper or the named repository gives it for the reduction used here.

From Python, `kdjax.methods.kd(temperature=4.0)` is a `Method`: call it with logits or taps for a loss.
"""


def __getattr__(name: str):
  from kdjax import registry  # which lists this package

  if name in registry.names('methods'):
    return registry.entry('methods', name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  from kdjax import registry

  return sorted(registry.names('methods'))
