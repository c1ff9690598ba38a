"""Tiny checkpoints under the names of transformers and timm, made up from shapes."""

import json

import jax
import numpy as np
from safetensors.numpy import save_file

from kdjax import pretrained
from kdjax.experiment import build


def dense(*names, into=8, out=8, bias=True):
  shapes = {f'{n}.weight': (out, into) for n in names}
  return shapes | ({f'{n}.bias': (out,) for n in names} if bias else {})


def norms(*names, width=8):
  return {f'{n}.{leaf}': (width,) for n in names for leaf in ('weight', 'bias')}


def bert(prefix, head, types=2, width=8):
  """One layer of BERT, as all of its kind name it."""
  at = f'{prefix}.encoder.layer.0.'
  tensors = dense(*(f'{at}attention.self.{k}' for k in ('query', 'key', 'value')))
  tensors |= dense(f'{at}attention.output.dense') | dense(f'{at}intermediate.dense', out=12)
  tensors |= dense(f'{at}output.dense', into=12)
  tensors |= norms(f'{at}attention.output.LayerNorm', f'{at}output.LayerNorm')
  rows = {'word': 20, 'position': 9, 'token_type': types}
  tensors |= {f'{prefix}.embeddings.{k}_embeddings.weight': (n, width) for k, n in rows.items()}
  return tensors | norms(f'{prefix}.embeddings.LayerNorm', width=width) | head


def dinov2(prefix, registers=0, gated=False):
  """One layer of DINOv2 for images of 16×16 in patches of 8×8, and its classifier."""
  at = f'{prefix}.encoder.layer.0.'
  tensors = dense(*(f'{at}attention.attention.{k}' for k in ('query', 'key', 'value')))
  tensors |= dense(f'{at}attention.output.dense') | norms(f'{at}norm1', f'{at}norm2', f'{prefix}.layernorm')
  if gated:
    tensors |= dense(f'{at}mlp.weights_in', out=48) | dense(f'{at}mlp.weights_out', into=24)
  else:
    tensors |= dense(f'{at}mlp.fc1', out=32) | dense(f'{at}mlp.fc2', into=32)
  tensors |= {f'{at}layer_scale{i}.lambda1': (8,) for i in (1, 2)}
  e = f'{prefix}.embeddings.'
  tensors |= {f'{e}cls_token': (1, 1, 8), f'{e}mask_token': (1, 8), f'{e}position_embeddings': (1, 5, 8)}
  tensors |= {f'{e}register_tokens': (1, registers, 8)} if registers else {}
  patch = {
    f'{e}patch_embeddings.projection.weight': (8, 3, 8, 8),
    f'{e}patch_embeddings.projection.bias': (8,),
  }
  return tensors | patch | dense('classifier', into=16, out=3)


def eva02():
  """One layer of EVA-02-CLIP for images of 16×16 in patches of 8×8, and three classes."""
  at = 'blocks.0.'
  tensors = dense(*(f'{at}attn.{k}_proj' for k in 'qv'), f'{at}attn.proj') | {
    f'{at}attn.k_proj.weight': (8, 8)
  }
  tensors |= norms(f'{at}norm1', f'{at}norm2', f'{at}attn.norm', 'norm') | norms(f'{at}mlp.norm', width=21)
  tensors |= dense(f'{at}mlp.fc1_g', f'{at}mlp.fc1_x', out=21) | dense(f'{at}mlp.fc2', into=21)
  tensors |= {'cls_token': (1, 1, 8), 'pos_embed': (1, 5, 8)}
  patch = {'patch_embed.proj.weight': (8, 3, 8, 8), 'patch_embed.proj.bias': (8,)}
  return tensors | patch | dense('head', out=3)


def convnext(second=False):
  """Two stages, 8 and 16 wide, of one block each."""
  tensors = {'convnext.embeddings.patch_embeddings.weight': (8, 3, 4, 4)}
  tensors |= {'convnext.embeddings.patch_embeddings.bias': (8,)} | norms('convnext.embeddings.layernorm')
  down = 'convnext.encoder.stages.1.downsampling_layer.'
  tensors |= norms(f'{down}0') | {f'{down}1.weight': (16, 8, 2, 2), f'{down}1.bias': (16,)}
  for i, n in enumerate((8, 16)):
    at = f'convnext.encoder.stages.{i}.layers.0.'
    tensors |= {f'{at}dwconv.weight': (n, 1, 7, 7), f'{at}dwconv.bias': (n,)} | norms(
      f'{at}layernorm', width=n
    )
    tensors |= dense(f'{at}pwconv1', into=n, out=4 * n) | dense(f'{at}pwconv2', into=4 * n, out=n)
    grn = {f'{at}grn.{leaf}': (1, 1, 1, 4 * n) for leaf in ('weight', 'bias')}
    tensors |= grn if second else {f'{at}layer_scale_parameter': (n,)}
  tensors = tensors | norms('convnext.layernorm', width=16)
  tensors = {k.replace('convnext', 'convnextv2') if second else k: shape for k, shape in tensors.items()}
  return tensors | dense('classifier', into=16, out=3)


def llama(bias=(), norms_of='', tied=False, sandwich=False, head=4):
  """One layer of two heads, one of keys and values, 8 wide."""
  at = 'model.layers.0.'
  outs = {'q': 2 * head, 'k': head, 'v': head}
  tensors = {f'{at}self_attn.{k}_proj.weight': (n, 8) for k, n in outs.items()}
  tensors |= {f'{at}self_attn.{k}_proj.bias': (outs[k],) for k in bias}
  tensors |= {f'{at}self_attn.{k}_norm.weight': (head,) for k in norms_of}
  tensors[f'{at}self_attn.o_proj.weight'] = (8, 2 * head)
  tensors |= {f'{at}mlp.{k}_proj.weight': (12, 8) for k in ('gate', 'up')}
  tensors[f'{at}mlp.down_proj.weight'] = (8, 12)
  places = ['input_layernorm', 'post_attention_layernorm']
  places += ['pre_feedforward_layernorm', 'post_feedforward_layernorm'] if sandwich else []
  tensors |= {f'{at}{k}.weight': (8,) for k in places} | {'model.norm.weight': (8,)}
  tensors['model.embed_tokens.weight'] = (20, 8)
  return tensors | ({} if tied else {'lm_head.weight': (20, 8)})


def wav2vec2(prefix, buckets=0, weighted=False):
  """Two convolutions, one layer of two heads, 8 wide, and a classifier."""
  at, f = f'{prefix}.encoder.layers.0.', f'{prefix}.feature_extractor.conv_layers.'
  tensors = {f'{f}0.conv.weight': (6, 1, 10), f'{f}1.conv.weight': (6, 6, 3)}
  tensors |= norms(f'{f}0.layer_norm', f'{prefix}.feature_projection.layer_norm', width=6)
  tensors |= dense(f'{prefix}.feature_projection.projection', into=6)
  e = f'{prefix}.encoder.pos_conv_embed.conv.'
  tensors |= {f'{e}bias': (8,), f'{e}weight_g': (1, 1, 4), f'{e}weight_v': (8, 4, 4)}
  tensors |= norms(f'{prefix}.encoder.layer_norm', f'{at}layer_norm', f'{at}final_layer_norm')
  tensors |= dense(*(f'{at}attention.{k}_proj' for k in ('q', 'k', 'v', 'out')))
  tensors |= dense(f'{at}feed_forward.intermediate_dense', out=12)
  tensors |= dense(f'{at}feed_forward.output_dense', into=12)
  if buckets:
    tensors[f'{at}attention.rel_attn_embed.weight'] = (buckets, 2)
    tensors[f'{at}attention.gru_rel_pos_const'] = (1, 2, 1, 1)
    tensors |= dense(f'{at}attention.gru_rel_pos_linear', into=4)
  tensors |= {'layer_weights': (2,)} if weighted else {}
  return (
    tensors
    | {f'{prefix}.masked_spec_embed': (8,)}
    | dense('projector', out=5)
    | dense('classifier', into=5, out=3)
  )


def modernbert():
  """Two layers of two heads, 8 wide, and a classifier."""
  shapes = {'model.embeddings.tok_embeddings.weight': (20, 8), 'head.dense.weight': (8, 8)}
  for i in range(2):
    at = f'model.layers.{i}.'
    shapes |= {f'{at}attn.Wqkv.weight': (24, 8), f'{at}attn.Wo.weight': (8, 8)}
    shapes |= {f'{at}mlp.Wi.weight': (24, 8), f'{at}mlp.Wo.weight': (8, 12), f'{at}mlp_norm.weight': (8,)}
  names = ('model.embeddings.norm', 'model.final_norm', 'head.norm', 'model.layers.1.attn_norm')
  return shapes | {f'{name}.weight': (8,) for name in names} | dense('classifier', out=3)


def swin():
  """Two stages of one and two blocks, 8 and 16 wide, in windows of 3×3."""
  shapes = {'swin.embeddings.patch_embeddings.projection.weight': (8, 3, 4, 4)}
  shapes |= {
    'swin.embeddings.patch_embeddings.projection.bias': (8,),
    'swin.embeddings.mask_token': (1, 1, 8),
  }
  shapes |= (
    norms('swin.embeddings.norm') | norms('swin.layernorm', width=16) | dense('classifier', into=16, out=3)
  )
  down = 'swin.encoder.layers.0.downsample.'
  shapes |= norms(f'{down}norm', width=32) | {f'{down}reduction.weight': (16, 32)}
  for stage, block, n in ((0, 0, 8), (1, 0, 16), (1, 1, 16)):
    at = f'swin.encoder.layers.{stage}.blocks.{block}.'
    names = [f'{at}attention.self.{k}' for k in ('query', 'key', 'value')]
    shapes |= dense(*names, f'{at}attention.output.dense', into=n, out=n)
    shapes |= norms(f'{at}layernorm_before', f'{at}layernorm_after', width=n)
    shapes |= dense(f'{at}intermediate.dense', into=n, out=4 * n) | dense(
      f'{at}output.dense', into=4 * n, out=n
    )
    shapes[f'{at}attention.self.relative_position_bias_table'] = (25, 2)
  return shapes


def write(folder, shapes, config_json, files=()):
  """Random weights of these shapes, as a folder; the tensors."""
  rng = np.random.default_rng(0)
  tensors = {k: rng.normal(size=shape).astype(np.float32) for k, shape in shapes.items()}
  tensors |= {k: x / np.float32(np.sqrt(x[0].size)) for k, x in tensors.items() if x.ndim == 4}
  tensors |= {k: 1 + np.abs(x) for k, x in tensors.items() if k.endswith('running_var')}
  folder.mkdir(exist_ok=True)
  save_file(tensors, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps(config_json))
  for name, content in dict(files).items():
    (folder / name).write_text(json.dumps(content))
  return tensors


def shapes(model, batch):
  """The variables of a model, as shapes."""
  return jax.eval_shape(build.module(model, {}).init, jax.random.key(0), batch)


def load(folder, batch, classes=None):
  """(model, module, variables) of a folder, as a stage of an experiment makes them."""
  config = pretrained.complete(str(folder), pretrained.architecture(str(folder)))
  net = build.module(config, {'num_classes': classes} if classes else {})
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  return config, net, pretrained.load(str(folder), config, like)
