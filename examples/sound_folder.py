"""A folder with a folder of WAV files for each class: python sound_folder.py [FOLDER]."""

import sys
from pathlib import Path

import sample_data

import kdjax

folder = Path(sys.argv[1]) if sys.argv[1:] else sample_data.tone_folder(Path('runs/tones'), 600)
teacher = {'model': 'mel_cnn', 'widths': (16, 32), 'blocks': (1, 1), 'mel': {'rate': 8000}}
student = {'model': 'mel_cnn', 'widths': (4, 8), 'blocks': (0, 1), 'mel': {'rate': 8000}}
settings = {'labels': 0.1, 'steps': 100, 'batch_size': 32, 'seeds': 3}
kdjax.distill(teacher, student, folder, workdir='runs/sound_folder', **settings)
