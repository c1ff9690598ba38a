"""Which method should I use? Every applicable one on one task, one budget, one teacher, ranked.

  python run.py --config=configs/method_zoo.py

The quickstart's pair on easy-vqa with 2 % of the labels: each method alone beside the labels' loss, at the
weight that its paper or repository gives, as a cohort that shares the teacher forward. Nothing is tuned
for this task but the baseline. Expect the table of docs/method_zoo.md; 2 cores: 43 min.
"""

from kdjax.recipes import parse_arg, smoke

from . import quickstart


def taps(*names):
  return {'student': names if len(names) > 1 else names[0], 'teacher': names if len(names) > 1 else names[0]}


MAPS, LAST = taps('image/stage1', 'image/stage2'), taps('image/stage2')
BEFORE = taps('image/stage2_before')
EMBED = taps('image/embed')
LOGITS = ('kd', 'logit_mse', 'hard_label', 'dkd', 'nkd', 'dist', 'mlkd', 'wsld', 'soft_cross_entropy')
LOGITS += ('euclidean', 'multi_label', 'skd', 'ctkd', 'flsw', 'cwsm', 'dtkd', 'confidence', 'difficulty')
ON_EMBED = ('rkd', 'sp', 'pkt', 'cc_rd', 'cckd', 'cc_taylor', 'crd', 'crd_in_batch', 'fitnet')
ON_MAPS = ('at_mean', 'at_sum', 'afd')
ON_LAST = ('nst', 'vid', 'mgd', 'cwd', 'pkd_pearson', 'ickd', 'afd_attention', 'ft')


def get_config(arg=None):
  arg = parse_arg(arg, seeds=5, steps=300)
  config = quickstart.get_config()
  config.name, config.seeds = 'method_zoo', arg.seeds
  config.student.train.steps = arg.steps
  config.run.update(eval_every=arg.steps, save_every=100)
  small = config.student.model.to_dict()
  zoo = {name: {name: {}} for name in LOGITS}
  zoo |= {'kd_standardised': {'kd': {'standardise': True, 'temperature': 2.0, 'weight': 9.0}}}
  for names, where in ((ON_EMBED, EMBED), (ON_MAPS, MAPS), (ON_LAST, LAST), (('ab', 'ofd'), BEFORE)):
    zoo |= {name: {name: dict(where)} for name in names}
  zoo |= {'reviewkd': {'reviewkd': taps('image/stage1', 'image/stage2', 'image/embed')}}
  zoo |= {'srd': {'srd': {}}, 'pooled_feature': {'pooled_feature': {}}}
  zoo |= {'dml': {'dml': {'peer': small}}, 'kdcl': {'kdcl': {'peers': {'a': small}}}}
  zoo |= {'one': {'one': {'trunk': 'joint'}}, 'byot': {'byot': {'student': ('image/embed', 'joint')}}}
  zoo |= {'label_smoothing_teacher': {'label_smoothing_teacher': {}}}
  zoo |= {'quickstart': config.methods.to_dict()}
  config.methods = {}
  members = {name: {'methods': methods} for name, methods in zoo.items()}
  members |= {'ps_kd': {'teacher': {'source': 'previous_epoch'}, 'methods': {'ps_kd': {'warmup': 1.0}}}}
  average = {'teacher': {'source': 'ema'}, 'student': {'train': {'ema': 0.99}}}
  members |= {'mean_teacher': average | {'methods': {'kd': {'temperature': 1.0, 'weight': 1.0}}}}
  if arg.smoke:
    members, config = {k: members[k] for k in ('dml', 'ps_kd')}, smoke(config)
  config.cohort = members
  return config
