"""GPT-2 on instructions: GKD (2306.13649), MiniLLM (2306.08543), DistiLLM (Ko et al., ICML 2024, 2402.03898).

  python run.py table configs/tables/gpt2_distillm.py --scale=paper --workdir=runs/gpt2

It has not been run. Bring Dolly as `dolly.jsonl` in the working folder: docs/language.md says how. Recipes:
the scripts of jongwooko/distillm at d47e77f. The tables of the papers could not be read.
"""

from kdjax.paper_tables import MEASURES, Cell, Table
from kdjax.recipes import base, model, smoke, training

EXAMPLES, GPUS = 11_435, 4  # 12,435 less 1,000 for validation; the hardware that the README names
HUB = 'hf:openai-community/gpt2'
SIZES = {  # of the repository's name, width, depth, heads
  '0.1B': ('', 768, 12, 12),
  '0.3B': ('-medium', 1024, 24, 16),
  '0.7B': ('-large', 1280, 36, 20),
  '1.5B': ('-xl', 1600, 48, 25),
}
KL, SKEWED = ('KD', 'SeqKD', 'GKD'), ('DistiLLM-SFKL', 'DistiLLM-SRKL')
RECIPES = {  # size -> rows -> batch of a GPU, rate, epochs
  '0.1B': {('SFT', 'ImitKD', *SKEWED): (8, 5e-4, 20), KL: (2, 5e-4, 20)},
  '0.3B': {(*KL, 'ImitKD', *SKEWED): (8, 5e-4, 20), ('SFT',): (8, 1e-4, 20)},
  '0.7B': {KL: (8, 5e-4, 10), ('ImitKD',): (4, 5e-4, 10), SKEWED: (4, 1e-4, 10), ('SFT',): (8, 1e-4, 10)},
}
TAPS = {'mask': 'text/target', 'student': 'logits', 'teacher': 'logits'}
ROWS = {  # method, its options, share of batches with written responses, who writes them
  'KD': ('forward_kl', {}, 0.0, 'student'),
  'SeqKD': ('forward_kl', {}, 1.0, 'teacher'),
  'ImitKD': ('forward_kl', {}, 1.0, 'student'),
  'GKD': ('js', {'share': 0.9}, 0.5, 'student'),
  'DistiLLM-SFKL': ('skewed_forward_kl', {'skew': 0.1}, 0.5, 'student'),
  'DistiLLM-SRKL': ('skewed_reverse_kl', {'skew': 0.1}, 0.5, 'student'),
}
MISSING = 'a student fine-tuned before, samples of teacher and student mixed, PPO epochs over a buffer'
NOTES = (
  'DistiLLM has no replay buffer here, and no share of samples that grows as validation gets worse: half of '
  "the batches are the student's own. This is the largest deviation. ImitKD and GKD draw from a buffer too.",
  'SeqKD: the teacher writes anew in every step, and once to a file there; the loss is forward KL in both. '
  'No loss on a pre-training corpus is added. MiniLLM is not run, and its 24.6 is as issue 329 quotes it.',
  'GKD is their mixed-jsd: 0.9 of the mixture is the student, and half of the batches are its own. TRL has '
  'β = 0.5, λ = 0.5, a temperature of 0.9 and 128 new tokens.',
  'A batch is that of a script times 4 GPUs; the scripts are made for 16. Epochs are whole batches of 11,435 '
  'examples. Weights are those of the last step; the papers take the best ROUGE-L on validation.',
  'A cell is one student, the mean over 5 seeds of its sampling, as in the papers: nothing is tested. It is '
  'measured on the 500 test examples of Dolly, not on SelfInst, Vicuna, S-NI and UnNI.',
  "Reruns of MiniLLM 0.1B by DistiLLM's author gave 23.5 to 24.2, a user's teacher 27.0 (its issue 5). "
  'Computed in bfloat16, weights in float32, of the teacher in bfloat16; no attention weight is dropped.',
)


def gpt2(size):
  of, width, depth, heads = SIZES[size]
  own = {'init': HUB + of, 'dropout': 0.1, 'vocab_size': 50_257}
  return model('gpt2', width=width, depth=depth, heads=heads, mlp=4 * width, **own)


def trained(batch, rate, epochs):
  batch *= GPUS
  return training(epochs * (EXAMPLES // batch), batch, rate, warmup=0.0, weight_decay=1e-2)


def recipe(size, row):
  settings = next(settings for rows, settings in RECIPES[size].items() if row in rows)
  return settings, '{}, {} a GPU, rate {:g}'.format(size, *settings)


def member(row):
  method, options, share, writer = ROWS[row]
  config = {'on_policy': {'share': share, 'writer': writer}}
  return config | {'methods': {method: {'weight': 1.0, **options, **TAPS}}}


def experiment(size, row, scale):
  settings, name = recipe(size, row)
  config = base(name)
  config.update(task={'name': 'language_modelling'}, task_weight=0.0, seeds=1)
  config.data.update(name='manifest', path='dolly.jsonl', text_length=512, prompt_length=256, tokenizer=HUB)
  config.teacher.model, config.student.model = gpt2('1.5B'), gpt2(size)
  config.teacher.train, config.student.train = trained(2, 5e-5, 10), trained(*settings)
  config.teacher.dtype = config.student.dtype = config.teacher.weights = 'bfloat16'
  config.on_policy.length = config.generation.length = 256
  config.generation.seeds = (10, 20, 30, 40, 50)
  config.cohort = {r: member(r) for r in ROWS if recipe(size, r)[1] == name}
  config.run.update(eval_every=1000, save_every=500, eval_batch=32, members_per_program=1)
  if scale != 'smoke':
    return config
  config.data.update(name='number_words', path='', tokenizer='', text_length=14, prompt_length=7)
  config.on_policy.length, small = 0, {'heads': 2, 'mlp': 32, 'positions': 14}
  config.teacher.model = model('gpt2', width=32, depth=2, **small)
  config.student.model = model('gpt2', width=16, depth=1, **small)
  config.generation.update(seeds=(10,), length=0, examples=8)
  return smoke(config)


def get_table(scale):
  every = [(size, row) for size, groups in RECIPES.items() for rows in groups for row in rows]
  experiments = {recipe(*one)[1]: experiment(*one, scale) for one in every}
  first, *others = experiments
  cells = {row: {} for row in ('teacher', 'SFT', *ROWS, 'MiniLLM')}
  for size in RECIPES:
    cells['teacher'][size] = Cell((first,), 'teacher')
    sft = recipe(size, 'SFT')[1]
    cells['SFT'][size] = Cell((sft,), 'baseline', next(iter(experiments[sft].cohort), 'student'))
    for row in ROWS:
      cells[row][size] = Cell((recipe(size, row)[1],), member=row)
    cells['MiniLLM'][size] = Cell((), needs=MISSING, published=24.6 if size == '0.1B' else None)
  return Table(
    name='gpt2_distillm',
    title='GPT-2 of DistiLLM' + (': smoke' if scale == 'smoke' else ''),
    paper='Ko et al., ICML 2024, arXiv 2402.03898',
    source='scripts of jongwooko/distillm at d47e77f; issue 329 of microsoft/LMOps',
    experiments=experiments,
    panels={'ROUGE-L on the test split of Dolly': cells},
    measures={'rouge_l': MEASURES['rouge_l']},
    teachers=dict.fromkeys(others, first),
    selection='last step; published: the best ROUGE-L on validation',
    notes=NOTES,
  )
