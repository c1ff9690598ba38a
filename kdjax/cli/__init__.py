"""The command line, `kdjax` or `python run.py`: flags, help, and what each command does."""
