"""The exports of a model in its report: a row each, beside the float model."""

from collections.abc import Mapping

from kdjax.report import words

TIMES = {'latency_ms_one_thread': 'ms, one thread', 'latency_ms': 'ms', 'throughput_per_s': '/s'}
BYTES = ('B', 'KB', 'MB', 'GB', 'TB')


def rows(exports: Mapping[str, Mapping]) -> list[dict[str, str]]:
  """A row an export, each {column: cell}; the first is the float model where its cost was measured."""
  if not exports:
    return []
  each = list(exports.values())
  metric = each[0]['metric']
  digits = words.common_digits(metric, [one['value'] for one in each]) + words.is_share(metric)
  measured = {'float, in JAX': each[0]['float'] | {'value': each[0]['float_value']}, **exports}
  times = {k: words.column([one.get(k) for one in measured.values()]) for k in TIMES}
  return [
    {
      'export': name,
      f'{metric}, seed {each[0]["seed"]}': words.score(one['value'], metric, digits),
      'agreement': words.score(one.get('agreement'), 'agreement', 2),
      'largest difference': words.plain(one.get('difference')),
      'size': words.scaled(one.get('bytes'), BYTES),
      **{column: times[key][i] for key, column in TIMES.items()},
      'memory': words.scaled(one.get('peak_bytes'), BYTES),
      'cold start (s)': words.plain(one.get('cold_start_s')),
    }
    for i, (name, one) in enumerate(measured.items())
  ]
