"""A folder with a folder of pictures for each class: python picture_folder.py [FOLDER]."""

import sys
from pathlib import Path

import sample_data
from nets import Net

import kdjax

folder = Path(sys.argv[1]) if sys.argv[1:] else sample_data.picture_folder(Path('runs/pictures'), 1500)
settings = {'labels': 0.1, 'steps': 300, 'seeds': 3, 'learning_rate': 1e-2}
config = {'data': {'image_size': 32}}
result = kdjax.distill(Net(64), Net(8), folder, workdir='runs/picture_folder', config=config, **settings)
print(result.report)
