"""The table of language models against what was read from its authors' scripts and from issue threads."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs.tables import gpt2_distillm
from kdjax import registry
from test_paper_tables import count, table

PUBLISHED = Path(__file__).parents[2] / 'shared' / 'paper_tables'
NAMES = {'0.1B': 'base', '0.3B': 'medium', '0.7B': 'large'}
FOLDERS = {
  'SFT': 'sft/sft',
  'KD': 'kd/kd',
  'SeqKD': 'seqkd/seqkd',
  'ImitKD': 'imitkd/imitkd',
  'GKD': 'gkd/gkd',
}
LOSSES = {'kd': 'forward_kl', 'fkl': 'forward_kl', 'jsd': 'js'}
LOSSES |= {'sfkl': 'skewed_forward_kl', 'srkl': 'skewed_reverse_kl'}
PARAMETERS = {'0.1B': 124_439_808, '0.3B': 354_823_168, '0.7B': 774_030_080, '1.5B': 1_557_611_200}


def published(name):
  path = PUBLISHED / f'{name}.json'
  if not path.exists():
    pytest.skip('needs the published numbers')
  return json.loads(path.read_text())


def script(size, row):
  scripts = published('lm_distillation_recipes_distillm_gpt2')['scripts']
  if row.startswith('DistiLLM'):
    return scripts[f'scripts/gpt2/distillm/train_{size}_1.5B.sh']
  return scripts[f'scripts/gpt2/{FOLDERS[row]}_{NAMES[size]}.sh']


def cell(size, row):
  (panel,) = table('gpt2_distillm').panels.values()
  return panel[row][size], table('gpt2_distillm').experiments[panel[row][size].experiments[0]]


def agrees(train, message):
  """The training of a stage with a script's."""
  batch = int(message['BATCH_SIZE']) * int(message['GRAD_ACC']) * gpt2_distillm.GPUS
  assert train.batch_size == batch and train.accumulate == int(message['GRAD_ACC'])
  assert train.steps == int(message['epochs']) * (gpt2_distillm.EXAMPLES // batch)
  own = train.optimiser
  assert own.lr == float(message['LR']) and own.weight_decay == float(message['weight-decay'])
  assert (own.name, own.schedule, own.clip) == (
    'adamw',
    message['lr-decay-style'],
    float(message['clip-grad']),
  )
  assert own.warmup == float(message['warmup-iters']) == 0


@pytest.mark.parametrize('size', NAMES)
@pytest.mark.parametrize('row', ['SFT', *gpt2_distillm.ROWS])
def test_the_recipe_is_that_of_the_scripts(size, row):
  message, (requests, config) = script(size, row), cell(size, row)
  agrees(config.student.train, message)
  assert config.data.text_length == int(message['MAX_LENGTH'])
  assert config.data.prompt_length == int(message['max-prompt-length'])
  assert config.generation.length == config.data.text_length - config.data.prompt_length
  assert config.generation.temperature == config.on_policy.temperature == float(message['temperature'])
  assert (message['top-k'], message['top-p']) == ('0', '1.0')  # all of the vocabulary is drawn from
  if row == 'SFT':
    assert requests.stage == 'baseline' and message['type'] == 'lm'
    return
  assert config.task_weight == 1 - float(message['kd-ratio'])
  ((method, options),) = config.cohort[row].methods.to_dict().items()
  kind, share = message['type'].split('-')[-1], config.cohort[row].on_policy.share
  if row.startswith('DistiLLM'):
    assert message['type'].startswith('adaptive') and options['skew'] == 0.1
    kind = row.split('-')[-1].lower()
  else:
    assert share == (1.0 if row == 'SeqKD' else float(message.get('mixed-alpha', 0)))
  assert method == LOSSES[kind] and options['weight'] == 1 and options['mask'] == 'text/target'


def test_each_size_of_distillm_has_a_row_of_its_loss():
  for size in NAMES:
    kind = script(size, 'DistiLLM')['type'].removeprefix('adaptive-').upper()
    assert f'DistiLLM-{kind}' in gpt2_distillm.ROWS


def test_the_teacher():
  message = published('lm_distillation_recipes_distillm_gpt2')['scripts']['scripts/gpt2/sft/sft_xlarge.sh']
  for config in table('gpt2_distillm').experiments.values():
    agrees(config.teacher.train, message)
    assert config.teacher.model.init == 'hf:openai-community/gpt2-xl'


@pytest.mark.parametrize('size', gpt2_distillm.SIZES)
def test_models_have_the_size_of_gpt2(size):
  inputs = gpt2_distillm.gpt2(size)
  net = registry.make('models', inputs.pop('model'), {k: v for k, v in inputs.items() if k != 'init'})
  batch = {'text': jax.ShapeDtypeStruct((1, 8), jnp.int32)}
  assert count(jax.eval_shape(net.init, jax.random.key(0), batch)) == PARAMETERS[size]


def test_published_numbers_are_those_of_the_threads():
  rows = published('lm_rougeL_from_author_comments')['rows']
  (panel,) = table('gpt2_distillm').panels.values()
  printed = {(row, size): c.published for row, cells in panel.items() for size, c in cells.items()}
  quoted = next(r for r in rows if 'paper value' in r['model'])
  assert {k: v for k, v in printed.items() if v is not None} == {('MiniLLM', '0.1B'): quoted['values'][0]}
  assert not panel['MiniLLM']['0.1B'].experiments and 'MiniLLM' in ' '.join(gpt2_distillm.NOTES)


def test_what_the_notes_say_of_trl():
  theirs = published('gkd_trl_defaults')['config']
  message = ' '.join(gpt2_distillm.NOTES)
  for text in (f'β = {theirs["beta"]}', f'λ = {theirs["lmbda"]}', f'temperature of {theirs["temperature"]}'):
    assert text in message
  assert f'{theirs["max_new_tokens"]} new tokens' in message


def test_evaluation_is_that_of_the_papers():
  for config in table('gpt2_distillm').experiments.values():
    assert config.generation.seeds == (10, 20, 30, 40, 50) and config.generation.examples == 0
