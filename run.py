"""Distil a large teacher into a small student: train both, and say whether it helped.

python run.py --config=configs/quickstart.py     the same as `kdjax`, which pip installs
python run.py --help                             all commands; they are in kdjax/cli/
"""

if __name__ == '__main__':  # before anything that takes time
  try:
    from kdjax.cli import start
  except KeyboardInterrupt:
    raise SystemExit(130) from None
  start.start()
