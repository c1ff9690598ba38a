"""What a log says while something takes time."""

from kdjax.runtime import progress


def test_a_log_has_plain_lines(capsys, monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  with progress.bar('training', 100) as shown:
    now[0] += 60
    shown.restart()  # the first step was compiled for a minute
    shown.update(1)
    now[0] += 10
    shown.update(21, 'loss 0.5')
    now[0] += 1
    shown.update(23)
    now[0] += 39
    shown.update(100)
  lines = capsys.readouterr().out.splitlines()
  assert lines == [
    'training: 21/100 steps, 2/s, 40 s left, loss 0.5',
    'training: 100/100 steps, 1.98/s, 0 s left, loss 0.5',
    'training: 100 steps in 50 s, loss 0.5',
  ]


def test_durations_are_said_as_people_do():
  assert [progress.duration(s) for s in (44.6, 200, 7500)] == ['45 s', '3 min 20 s', '2 h 05 min']
