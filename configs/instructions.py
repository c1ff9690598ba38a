"""Language modelling: GPT-2 into a smaller one, on your own JSONL of prompts and responses.

  python run.py --config=configs/instructions.py
  python run.py --config=configs/instructions.py:path=rows.jsonl,method=gkd,share=0.5
  python run.py --config=configs/instructions.py:path=rows.jsonl,scale=gpu

A row has the columns text (the prompt), response, and split if you like; without a `path` the data are
generated sums in words. `method` is one of kdjax/methods/sequence, or of NAMED below; `share` is the share of
batches whose responses the student samples in training. `scale=gpu` takes GPT-2 medium and DistilGPT2 from
the hub, with texts of 512 tokens, 256 of them for the prompt (not run yet); docs/language.md says more.
Nothing is tuned.
On sums expect a loss of 0.03 for the teacher, 0.620 ± 0.025 for the baseline and 0.632 ± 0.100 for the
student: no difference (p = 0.82). 2 cores: 9 min, other work beside it.
"""

from kdjax.recipes import base, full, model, parse_arg, smoke, training

TAPS = {'mask': 'text/target', 'student': 'logits', 'teacher': 'logits'}
NAMED = {  # name -> options of a method, and of `on_policy`
  # On-policy distillation with the teacher as the reward.
  'opd': ({'method': 'minillm', 'single_step': False, 'gamma': 0.0, 'length_norm': False}, {'share': 1.0}),
  # On-policy self-distillation (2601.18734): the teacher, the student before, is shown the data's response.
  'opsd': (
    {'method': 'gkd', 'beta': 0.5, 'temperature': 1.1},
    {'share': 1.0, 'shown': True, 'temperature': 1.1},
  ),
}
MEDIUM, SMALL = 'hf:openai-community/gpt2-medium', 'hf:distilbert/distilgpt2'


def gpt2(width, depth, length):
  return model('gpt2', width=width, depth=depth, heads=4, mlp=4 * width, positions=length, dropout=0.0)


def get_config(arg=None):
  arg = parse_arg(arg, path='', method='forward_kl', share=0.0, steps=1500, length=0, scale='cpu')
  large = full(arg)
  config = base('instructions')
  config.task = {'name': 'language_modelling'}
  config.task_weight = 0.0  # of the responses, beside the teacher
  config.data.update(name='manifest' if arg.path else 'number_words', path=arg.path)
  length = arg.length or (512 if large else 128 if arg.path else 14)
  config.data.update(text_length=length, prompt_length=length // 2, vocab_size=4000)
  if large:
    config.data.tokenizer = MEDIUM
    config.teacher.model, config.student.model = (model('gpt2', init=i, dropout=0.1) for i in (MEDIUM, SMALL))
  else:
    config.teacher.model, config.student.model = gpt2(128, 3, length), gpt2(32, 2, length)
  for stage, rate in (('teacher', 5e-5 if large else 2e-3), ('student', 5e-4 if full else 4e-3)):
    steps = 4000 if large else arg.steps * 10 // 3 if stage == 'teacher' else arg.steps
    config[stage].train = training(steps, 32 if large else 64, rate, weight_decay=0.01)
  options, on_policy = NAMED.get(arg.method, ({}, {'share': arg.share}))
  config.methods = {arg.method: {'weight': 1.0, **TAPS, **options}}
  config.on_policy.update(on_policy)
  config.run.update(eval_every=500, save_every=500)
  return smoke(config) if arg.smoke else config
