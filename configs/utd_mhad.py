"""Actions from a wristband or a video, taught by a skeleton: cross-modal distillation on UTD-MHAD.

  python run.py --config=configs/utd_mhad.py --config.data.path=UTD-MHAD/
  python run.py --config=configs/utd_mhad.py:student=video --config.data.path=UTD-MHAD/

The teacher sees skeleton and wrist sensor; student and baseline have one of them, or the depth video, and 2
labelled clips a class. People 1, 3, 5 and 7 train, the others are the test. data.path is the folder of the
authors' .mat files or a .npz of arrays. 2 busy cores: 4 min, 30 min for the video. Expect teacher 91 %, and
for the wristband baseline 56 %, student 75 %, with all labels 81 %; for the video 51 %, 71 %, 76 %; p <
0.05.
"""

from kdjax.recipes import base, finish, model, parse_arg, training


def get_config(arg=None):
  arg = parse_arg(arg, student='inertial', labels=0.125, seeds=5, scale='cpu')
  config = base(f'utd_mhad_{arg.student}')
  config.seeds, config.ceiling = arg.seeds, True
  config.data.update(name='utd_mhad', labels=arg.labels)
  large = {
    'skeleton': model('temporal_cnn', modality='skeleton', widths=(64, 128), dropout=0.3),
    'inertial': model('temporal_cnn', modality='inertial', widths=(32, 64, 128), dropout=0.3),
  }
  config.teacher.model = model('fusion', width=128, join='concat', dropout=0.3, encoders=large)
  config.teacher.inputs = {m: m for m in large}
  config.teacher.train = training(600, 32, 2e-3, weight_decay=0.1)
  config.student.inputs = {arg.student: arg.student}
  if arg.student == 'inertial':
    config.student.model = model('temporal_cnn', modality='inertial', widths=(12, 16, 24), kernel=3)
    config.student.train = training(600, 32, 0.1, weight_decay=0.5)
  else:
    config.student.model = model('r2plus1d', widths=(12, 24, 48), difference=True)
    config.student.train = training(600, 32, 0.02, weight_decay=0.5)
    config.student.train.augment = ('video_crop', 'video_speed')
  config.methods = {'kd': {'weight': 4.0, 'temperature': 8.0}}
  config.run.update(eval_every=300, save_every=300)
  return finish(config, arg, longer=1, larger=1)
