"""CLIP-KD and TinyCLIP: towers of the published sizes, numbers, weights and recipes of their repositories."""

import re

import jax
import numpy as np
import pytest

from configs.tables import clip_kd, tinyclip
from kdjax.experiment import build
from kdjax.paper_tables.results import one
from kdjax.pretrained.inherit import inherit
from kdjax.pretrained.initialize import parts
from test_paper_tables import table
from test_published_tables import published

VOCABULARY = 49_408
KD = 'ViT-B/16 → ViT-T/16'
KEYS = {'clip_crd': 'CRD', 'clip_fd': 'FD', 'clip_gd': 'GD', 'clip_icl': 'ICL'}


def made_of(config):
  """Shapes of the taps and parameters of a CLIP for one image of 224 pixels."""
  batch = {
    'image': jax.ShapeDtypeStruct((1, 224, 224, 3), np.uint8),
    'text': jax.ShapeDtypeStruct((1, 77), np.int32),
  }
  net = build.module(config, {'vocab_size': VOCABULARY})
  return jax.eval_shape(net.init_with_output, jax.random.key(0), batch)


def size(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def towers(params):
  """Parameters of the image and of the text tower, without its words."""
  image = size(params['image']) + size(params['project_image'])
  text = size(params['text']) + size(params['project_text']) - size(params['text']['words'])
  return image, text


def by_hand(width, depth, others):
  """A Transformer's parameters: 12 w² + 13 w a block, two norms of 2 w, and what is named."""
  return depth * (12 * width**2 + 13 * width) + others


def test_the_towers_of_clip_kd():
  config = table('clip_kd').experiments[KD]
  (taps, teacher), (_, student) = (made_of(config[s].model.to_dict()) for s in ('teacher', 'student'))
  assert size(teacher['params']) == 149_620_737  # CLIP ViT-B/16, as OpenAI and open_clip have it
  assert taps['image/embed'].shape == taps['text/embed'].shape == (1, 512)
  image, text = towers(student['params'])
  grid = 14 * 14 + 1
  assert image == by_hand(192, 12, 16 * 16 * 3 * 192 + (grid + 1 + 4) * 192 + 192 * 512)
  assert text == by_hand(384, 12, (77 + 2) * 384 + 384 * 512)
  message = published('clipkd_strategies')['recipe']['student_vit_t16']
  own = config.student.model
  assert message == (
    f'vision {own.image.depth} layers width {own.image.width} patch {own.image.patch}; text '
    f'{own.text.depth} layers width {own.text.width} heads {own.text.heads}; embed {own.width}'
  )
  assert (own.image.heads, own.image.mlp, own.text.mlp) == (3, 4 * 192, 4 * 384)


def test_the_masked_look_costs_no_weights():
  config = table('clip_kd').experiments[KD].student.model.to_dict()
  taps, masked = made_of(config)
  config['image'].pop('masked')
  assert made_of(config)[1] == masked and taps['image/masked_embed'].shape == (1, 512)


def test_numbers_of_clip_kd():
  (panel,) = table('clip_kd').panels.values()
  shown = {row: cells['ViT-T/16'].published for row, cells in panel.items()}
  rows = published('clipkd_strategies')['rows']
  record = {r['method'].lstrip('+'): r['imagenet_zero_shot_top1'] for r in rows}
  record |= {'teacher': record.pop('-'), 'student': record.pop('Baseline')}
  for r in published('clipkd_teacher_vit_b16_cc3m12m')['rows']:
    if (r['network'], r['method']) == ('ViT-T/16', 'CLIP-KD'):
      record['CLIP-KD'] = r['imagenet_zero_shot_top1']
  assert shown == record
  other = dict(published('clipkd_task_loss_ablation')['rows'])
  (note,) = (n for n in clip_kd.NOTES if 'without the task loss' in n)
  assert all(str(v) in note for k, v in other.items() if 'baseline' not in k)


def test_weights_of_clip_kd():
  message = published('clipkd_strategies')['loss_weights']
  cohort = table('clip_kd').experiments[KD].cohort.to_dict()
  for row, changes in cohort.items():
    assert changes.keys() == {'methods'}  # the labels' loss has weight 1 in all
    ((name, own),) = changes['methods'].items()
    if name in KEYS and row != 'MFD':
      assert own['weight'] == message[KEYS[name]] and 'student' not in own
  assert cohort['MFD']['methods']['clip_fd'] == {'weight': 2000, 'student': clip_kd.MASKED}
  assert message['MFD'] == f'2000 with mask_ratio {clip_kd.MASK} on student images'
  whole = cohort['CLIP-KD']['methods']['clip_kd']
  assert message['combined'] == f'CRD {whole["crd"]:g} + FD {whole["fd"]:g} + ICL {whole["icl"]:g}'
  assert 'unknown' in message['AFD'] and any('AFD is not known' in note for note in clip_kd.NOTES)
  released = {row for row, c in cohort.items() if any(m.get('released') for m in c['methods'].values())}
  assert released == {'GD', 'ICL', 'AFD', 'CLIP-KD'}


def test_the_recipe_of_clip_kd():
  message, config = published('clipkd_strategies')['recipe'], table('clip_kd').experiments[KD]
  millions = [float(x) for x in re.findall(r'([\d.]+)M images', message['data'])]
  assert round(1e6 * sum(millions)) == clip_kd.PAIRS
  for stage in ('teacher', 'student'):
    own, adam = config[stage].train, config[stage].train.optimiser
    assert own.batch_size == message['global_batch'] and own.augment == ('slight_crop',)
    assert own.steps == message['epochs'] * clip_kd.PAIRS // message['global_batch'] == 401_875
    assert (
      round(adam.warmup * own.steps) == message['warmup_steps'] and adam.schedule == message['schedule'][:6]
    )
    assert (adam.name, adam.lr, adam.clip) == ('adamw', message['lr'], message['grad_clip'] or 0)
    assert f'betas ({adam.b1:g},{adam.b2:g}) eps 1e-6' in message['optimizer'] and adam.eps == 1e-6
    assert message['weight_decay'].startswith(f'{adam.weight_decay:g} (') and 'decay_all' not in adam
  assert config.seeds == 1 and config.seed == message['seed']
  assert config.task.to_dict() == {'name': 'retrieval', 'metric': 'zero_shot'} and config.task_weight == 1


def test_numbers_of_tinyclip():
  main, alone = table('tinyclip').panels.values()
  record = {}
  for row in published('tinyclip_model_zoo')['rows']:
    name = row['model'].removeprefix('TinyCLIP ')
    record.setdefault(name, {})[row['data']] = row['imagenet_zero_shot_top1']
    cell = main[name][row['data']]
    ours = bool(cell.experiments)
    assert ours == (row['inheritance'] == 'manual' and name.startswith('ViT')), name
  assert {r: {c: cell.published for c, cell in cells.items()} for r, cells in main.items()} == record
  assert all(cell.published is None for cells in alone.values() for cell in cells.values())
  assert one(table('tinyclip'), main['ViT-45M/32 Text-18M']['LAION-400M'], {}) == {
    'status': 'not run: needs learned masks of what to inherit',
    'measure': 'zero_shot',
    'published': 61.4,
    'stage': 'student',
  }


@pytest.mark.parametrize('name', table('tinyclip').experiments)
def test_the_towers_of_tinyclip_are_those_of_their_names(name):
  config = table('tinyclip').experiments[name]
  millions = [int(x) for x in re.findall(r'(\d+)M', name)[:2]]
  (patch,) = re.findall(r'/(\d+)', name)
  student = config.student.model.to_dict()
  assert [round(x / 1e6) for x in towers(made_of(student)[1]['params'])] == millions
  assert student['image']['patch'] == config.teacher.model.image.patch == int(patch)
  assert size(made_of(config.teacher.model.to_dict())[1]['params']) == (
    149_620_737 if patch == '16' else 151_277_313
  )


def test_the_recipe_of_tinyclip():
  message = published('tinyclip_model_zoo')['recipe']
  batch = message['nodes'] * message['gpus_per_node'] * message['batch_per_gpu']
  for name, config in table('tinyclip').experiments.items():
    own, adam = config.student.train, config.student.train.optimiser
    assert own.batch_size == batch == 32_768
    assert own.steps == message['epochs_per_stage'] * message['train_num_samples_per_epoch'] // batch
    assert (adam.lr, adam.clip) == (message['lr'], message['norm_gradient_clip'])
    assert round(adam.warmup * own.steps) == message['warmup']['manual']
    assert (adam.b2, adam.eps) == ((0.999, 1e-8) if name.startswith('ViT-40M') else (0.98, 1e-6))
    assert config.task_weight == 1 - message['distillation_alpha'] == 0
    assert config.methods.to_dict() == {'tinyclip': {'weight': message['distillation_weight']}}
    assert config.student.model.scale_limit == config.teacher.model.scale_limit == message['logit_scale_init']
    assert config.seed == message['seed'] and config.teacher.init.startswith('hf:')


def kept_layers(theirs, mine):
  """Those that weight_inherit.py takes: every n-th, n rounded down."""
  return [i * (theirs // mine) for i in range(mine)]


def test_the_smallest_tinyclip_is_cut_out_of_its_teacher():
  """The layers and channels of the released code; a teacher whose weights tell where they come from."""
  config = table('tinyclip').experiments['ViT-8M/16 Text-3M, YFCC-15M']
  teacher, student = (config[s].model.to_dict() for s in ('teacher', 'student'))
  there, here = made_of(teacher)[1], made_of(student)[1]
  cuts = {'/'.join(p.path): p for p in parts(student)}
  assert cuts.keys() == {'', 'image', 'text'} and all(p.init['from'] == 'teacher' for p in cuts.values())
  for tower, (n, m, width) in {'image': (12, 10, 256), 'text': (12, 3, 256)}.items():
    variables = {'params': {k: shaped(v, k) for k, v in there['params'][tower].items()}}
    options = {k: v for k, v in cuts[tower].init.items() if k != 'from'}
    inputs = {'teacher': teacher[tower], 'student': student[tower]}
    inherited = inherit(variables, {'params': here['params'][tower]}, **options, **inputs)['params']
    blocks = [inherited[f'block{i}']['norm1']['scale'] for i in range(1, m + 1)]
    assert [int(b[0]) - 1 for b in blocks] == kept_layers(n, m) and len(blocks[0]) == width
    np.testing.assert_array_equal(inherited['norm']['scale'], np.arange(width))  # the first channels


def shaped(tree, name):
  """Arrays of a module; a block's hold its number, others along their last axis the channel."""
  number = re.fullmatch(r'block(\d+)', name)

  def fill(x):
    value = np.float32(number[1]) if number else np.arange(x.shape[-1], dtype=np.float32)
    return np.broadcast_to(value, x.shape)

  return jax.tree.map(fill, tree)


def test_what_is_cut_and_when():
  for (row, data), (_, image, text, layers, _) in tinyclip.MODELS.items():
    assert row in tinyclip.PUBLISHED[data]
    for (_, mine), name in zip((image, text), layers, strict=True):
      taken = [i * 12 // mine for i in range(mine)] if name == 'alternate' else list(range(mine))
      if row != 'ViT-40M/32 Text-19M':  # theirs is cut from 61M/32, whose text has 9 layers
        assert taken == kept_layers(12, mine), (row, name)
  assert kept_layers(9, 6) == list(range(6))
