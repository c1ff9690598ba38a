"""Audio-visual digits: MNIST and speech in noise, few labels, test speakers unseen in training.

  python run.py --config=configs/av_digits.py --data_dir=~/tensorflow_datasets
  python run.py --config=configs/av_digits.py:drop=0.4         # modality dropout, tested on every subset
  python run.py --config=configs/av_digits.py:student=audio    # audio alone, for the student

The teacher is trained on 12,000 labelled pairs of four speakers; student and baseline have 2 % of the labels.
Validation and test have two other speakers. 2 cores: 1 min 34 s. Expect on the test pairs: teacher
95 %, baseline 50 %, student 94 %, p < 0.05 over 3 seeds.
"""

from kdjax.recipes import base, finish, model, parse_arg, training


def get_config(arg=None):
  arg = parse_arg(arg, student='image+audio', labels=0.02, seeds=5, drop=0.0, scale='cpu')
  modalities = arg.student.split('+')
  name = 'av_digits' if len(modalities) > 1 else f'{arg.student}_digits'
  config = base(f'{name}_drop' if arg.drop else name)
  config.seeds = arg.seeds
  config.data.update(name='av_digits', labels=arg.labels)
  config.data.options = {'image_noise': 0.5, 'sound_noise': 10.0}
  config.teacher.model = model(
    'fusion',
    width=128,
    join='concat',
    encoders={
      'image': model('resnet', widths=(32, 64), blocks=(1, 1), patch=4),
      'audio': model('mel_cnn', widths=(32, 64, 128), blocks=(1, 1, 1), patch=(4, 4)),
    },
  )
  config.teacher.train = training(600, 128, 2e-3)
  small = {
    'image': model('resnet', widths=(12, 16), blocks=(0, 1), patch=4),
    'audio': model('mel_cnn', widths=(12, 16), blocks=(0, 1), patch=(4, 4)),
  }
  config.student.model = model('fusion', width=32, join='concat', encoders={m: small[m] for m in modalities})
  config.student.inputs = {m: m for m in modalities}
  config.teacher.drop = {'image': 0.4, 'audio': 0.4}
  config.student.train = training(600, 128, 0.02, weight_decay=0.1)
  config.methods = {'kd': {'weight': 1.0, 'temperature': 4.0}}
  if arg.drop:
    config.student.drop = {m: arg.drop for m in modalities}
    config.modality_robustness.update(subsets=True, noise=(0.0, 0.25, 0.5, 0.75, 1.0))
  config.run.update(eval_every=300, save_every=300)
  return finish(config, arg, longer=10, larger=4)
