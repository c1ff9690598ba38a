"""What two trainings that are the same have alike in their logs."""

MEASURED = ('time/', 'speed/', 'memory/')


def untimed(record):
  """A record of metrics.jsonl without what depends on the machine."""
  return {k: v for k, v in record.items() if not k.startswith(MEASURED)}
