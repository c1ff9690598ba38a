"""The losses of a recipe as one method: each with its weight and the schedule of its weight."""

from collections.abc import Callable, Mapping

import jax

from kdjax.types import Method


def related(method: Method, params: Mapping, stats: Mapping) -> bool:
  """Whether the loss relates the examples of a batch, with the (params, stats) of `init` or their shapes."""
  return method.relational(params, stats) if callable(method.relational) else method.relational


def combine(methods: Mapping[str, tuple[float, Method, Callable]]) -> Method:
  """Adds up any number of methods, each with its weight and schedule.

  Args:
    methods: name -> (weight, method, schedule), where `schedule(step)` multiplies the weight.

  Returns:
    A Method whose params, stats and loss terms are dicts with one entry a name.
  """
  names = sorted(methods)

  def init(rng, s, t, batch):
    initial = {n: methods[n][1].init(jax.random.fold_in(rng, i), s, t, batch) for i, n in enumerate(names)}
    return {n: p for n, (p, _) in initial.items()}, {n: q for n, (_, q) in initial.items()}

  def loss(params, stats, s, t, batch, *, step, rng):
    terms, new_stats = {}, {}
    for i, n in enumerate(names):
      weight, method, schedule = methods[n]
      (total, count), new_stats[n] = method.loss(
        params[n], stats[n], s, t, batch, step=step, rng=jax.random.fold_in(rng, i)
      )
      terms[n] = (weight * schedule(step) * total, count)
    return terms, new_stats

  def relational(params, stats):
    return any(related(methods[n][1], params[n], stats[n]) for n in names)

  def gains(stats):
    product = {}
    for n, of_method in scaling.items():
      for name, gain in of_method(stats[n]).items():
        product[name] = product.get(name, 1) * gain
    return product

  scaling = {n: g for n in names if (g := methods[n][1].gains)}
  each = [m.relational for _, m, _ in methods.values()]
  related_ = relational if any(map(callable, each)) else any(each)
  return Method(init, loss, related_, gains if scaling else None)
