"""Which files of a folder are a checkpoint's, and whether all that is in them is used."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from kdjax import pretrained
from kdjax.errors import KdjaxError
from kdjax.experiment import build
from kdjax.pretrained import tensors
from kdjax.pretrained.find import files
from kdjax.pretrained.rename import rename
from torch_files import state, tensor, zipped

MODEL = {'model': 'gpt2', 'vocab_size': 9, 'width': 4, 'depth': 1, 'heads': 2, 'mlp': 6, 'positions': 5}


def gpt2_tensors():
  rng, shapes = np.random.default_rng(0), {'wte.weight': (9, 4), 'wpe.weight': (5, 4)}
  for name in ('h.0.ln_1', 'h.0.ln_2', 'ln_f'):
    shapes |= {f'{name}.weight': (4,), f'{name}.bias': (4,)}
  for name, (i, o) in {'attn.c_attn': (4, 12), 'attn.c_proj': (4, 4), 'mlp.c_fc': (4, 6)}.items():
    shapes |= {f'h.0.{name}.weight': (i, o), f'h.0.{name}.bias': (o,)}
  shapes |= {'h.0.mlp.c_proj.weight': (6, 4), 'h.0.mlp.c_proj.bias': (4,)}
  return {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}


def like():
  net = build.module(MODEL, {})
  return jax.eval_shape(net.init, jax.random.key(0), {'text': np.ones((1, 5), np.int32)})


def load(path):
  return pretrained.load(str(path), MODEL, like())


def refused(call, *parts):
  with pytest.raises(KdjaxError) as caught:
    call()
  message = str(caught.value)
  assert '\n' not in message and all(p in message for p in parts), message


def same(a, b):
  return all(jax.tree.leaves(jax.tree.map(lambda x, y: (x == y).all(), a, b)))


def save(path, inputs):
  path.parent.mkdir(parents=True, exist_ok=True)
  save_file(inputs, path)


def torch_file(path, inputs):
  def entry(key, x):
    strides = tuple(n // x.itemsize for n in x.strides)
    return tensor(key, 'FloatStorage', x.size, 0, x.shape, strides)

  return zipped(path, state(**{k: entry(k, x) for k, x in inputs.items()}), inputs)


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'model.', 'module._orig_mod.model.'])
def test_what_all_names_begin_with(tmp_path, prefix):
  save(tmp_path / 'a.safetensors', gpt2_tensors())
  wrapped = {prefix + k: x for k, x in gpt2_tensors().items()}
  save(tmp_path / 'b.safetensors', wrapped | {'n_averaged': np.array(3)})
  assert same(load(tmp_path / 'a.safetensors'), load(tmp_path / 'b.safetensors'))
  save(tmp_path / 'b.safetensors', wrapped | {'other': np.ones(2, np.float32)})
  refused(lambda: load(tmp_path / 'b.safetensors'), 'is not of this architecture')


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers(tmp_path, bad):
  inputs = gpt2_tensors()
  inputs['h.0.mlp.c_fc.weight'][1, 2] = bad
  save(tmp_path / 'model.safetensors', inputs)
  refused(lambda: load(tmp_path), str(tmp_path), "NaN or infinity in 'h.0.mlp.c_fc.weight'")
  good = gpt2_tensors() | {'h.0.attn.masked_bias': np.array(-np.inf, np.float32)}
  save(tmp_path / 'model.safetensors', good)  # what is not read may be so
  load(tmp_path)


def test_shards_of_either_format(tmp_path):
  inputs = gpt2_tensors()
  save(tmp_path / 'one' / 'model.safetensors', inputs)
  expected, folder = load(tmp_path / 'one'), tmp_path / 'bin'
  folder.mkdir()
  where = {k: f'pytorch_model-0000{1 + i % 2}-of-00002.bin' for i, k in enumerate(inputs)}
  for name in set(where.values()):
    torch_file(folder / name, {k: x for k, x in inputs.items() if where[k] == name})
  assert same(load(folder), expected)  # told by their names
  index = folder / 'pytorch_model.bin.index.json'
  index.write_text(json.dumps({'metadata': {}, 'weight_map': where}))
  assert same(load(folder), expected) and same(load(index), expected)
  for name in ('optimizer.pt', 'scheduler.pt', 'training_args.bin', 'rng_state_0.pth'):
    (folder / name).write_text('')
  assert len(files(str(folder)).weights) == 2
  (folder / sorted(set(where.values()))[0]).unlink()
  refused(lambda: load(folder), 'names 2 files, and pytorch_model-00001-of-00002.bin is not there')
  for damaged in ('[]', '{', '{"weight_map": []}', '{"weight_map": {"a": 3}}', '[' * 100_000):
    index.write_text(damaged)
    refused(lambda: load(folder), str(index))


def test_several_checkpoints(tmp_path):
  for step in (200, 400):
    save(tmp_path / f'checkpoint-{step}' / 'model.safetensors', gpt2_tensors())
  refused(lambda: files(str(tmp_path)), 'holds 2 checkpoints (checkpoint-200, checkpoint-400): give the path')
  assert files(str(tmp_path / 'checkpoint-200')).weights[0].parent.name == 'checkpoint-200'
  save(tmp_path / 'model.safetensors', gpt2_tensors())  # the one at the end of the training
  assert files(str(tmp_path)).weights == (tmp_path / 'model.safetensors',)
  save(tmp_path / 'deep' / 'a' / 'b' / 'model.safetensors', gpt2_tensors())
  assert files(str(tmp_path)).weights == (tmp_path / 'model.safetensors',)
  (tmp_path / 'model.safetensors').unlink()
  refused(lambda: files(str(tmp_path)), 'holds 3 checkpoints (checkpoint-200, checkpoint-400, deep/a/b)')


def test_one_tensor_under_two_names(tmp_path):
  save(tmp_path / 'model-00001-of-00002.safetensors', gpt2_tensors())
  save(tmp_path / 'model-00002-of-00002.safetensors', {'wte.weight': np.ones((9, 4), np.float32)})
  refused(lambda: load(tmp_path), "both hold 'wte.weight'")
  two = {'a.weight': np.ones(2), 'b.weight': np.ones(2)}
  refused(lambda: rename(two, {'a|b': 'c'}), "'a.weight' and 'b.weight', two tensors for one layer")


def test_what_is_left_out_is_said(tmp_path, capsys):
  save(tmp_path / 'model.safetensors', gpt2_tensors() | {'h.0.attn.bias': np.ones((1, 1, 5, 5), np.float32)})
  load(tmp_path)
  assert 'left out, as the model has no such layer: h.#.attn.bias' in capsys.readouterr().out
  x = tensors.traced({'a': np.arange(12.0).reshape(3, 4)})
  parts = {str(i): y for i, y in enumerate(np.split(x['a'].T.swapaxes(0, 1)[None], 3, 1))}
  assert tensors.unread(x, parts) == [] and tensors.unread(x, {'b': np.ones(3)}) == ['a']
