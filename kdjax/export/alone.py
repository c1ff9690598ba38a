"""Runs an exported model without kdjax: the folder's model, and its answers about files.

  python predict.py --image=FILE --text=WORDS --audio=FILE.wav

Needs NumPy and the runtime of the format: onnxruntime, ai-edge-litert, or for StableHLO jax and flatbuffers;
pillow for images, tokenizers for texts. Sounds are WAV of the model's rate, 16 bits, one channel.
"""

import argparse
import gzip
import importlib.util
import json
import os
import wave
from pathlib import Path
from typing import Any

import numpy as np

PRESENT = '/present'


def plain(key):
  """The name of an input or output in a file."""
  return key.replace('/', '_')


def packed(path):
  """The bytes of a file that lies there with gzip alone, None for one that lies there as it is."""
  return None if path.exists() else gzip.decompress(path.with_name(f'{path.name}.gz').read_bytes())


def load_onnx(path, threads):
  """`run(inputs) -> outputs`, dicts by plain names."""
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.intra_op_num_threads = threads
  session = onnxruntime.InferenceSession(
    packed(path) or str(path), options, providers=['CPUExecutionProvider']
  )
  gives = [x.name for x in session.get_outputs()]
  whole = {x.name for x in session.get_inputs() if x.type == 'tensor(int32)'}  # also what is true or false

  def run(inputs):
    arrays = {k: v.astype(np.int32) if k in whole else v for k, v in inputs.items()}
    return dict(zip(gives, session.run(gives, arrays), strict=True))

  return run


def joined(parts):
  """The outputs of several batches as those of one; what has no rows, such as a temperature, is the same."""
  return {k: np.concatenate([p[k] for p in parts]) if v.ndim else v for k, v in parts[0].items()}


def load_litert(path, threads):
  """`run(inputs) -> outputs`, dicts by plain names, an example at a time."""
  from ai_edge_litert.interpreter import Interpreter

  content = packed(path)
  source = {'model_content': content} if content else {'model_path': str(path)}
  runner = Interpreter(**source, num_threads=threads or os.cpu_count()).get_signature_runner()
  takes, gives = runner.get_input_details(), runner.get_output_details()

  def stored(x, details):
    scale, zero = details['quantization']
    if x.dtype == details['dtype'] or not scale:
      return x
    limits = np.iinfo(details['dtype'])
    return np.clip(np.round(x / scale) + zero, limits.min, limits.max).astype(details['dtype'])

  def real(x, details):
    scale, zero = details['quantization']
    return (x.astype(np.float32) - zero) * np.float32(scale) if scale else x

  def run(inputs):
    rows, inputs = len(next(iter(inputs.values()))), {k: stored(v, takes[k]) for k, v in inputs.items()}
    each = [runner(**{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(rows)]
    return {k: real(v, gives[k]) for k, v in joined(each).items()}

  return run


def load_stablehlo(path, threads):
  """`run(inputs) -> outputs`, dicts by plain names; XLA takes the threads of the process."""
  import jax
  from jax import export

  exported = export.deserialize(bytearray(packed(path) or path.read_bytes()))
  (inputs,), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
  keys = {plain(k): k for k in inputs}
  call = jax.jit(exported.call)

  def run(arrays):
    outputs = jax.device_get(call({key: arrays[name] for name, key in keys.items()}))
    return {plain(k): v for k, v in outputs.items()}

  return run


def load_python(folder, threads):
  """`run(inputs) -> outputs`, dicts by plain names: the folder's model.py."""
  spec = importlib.util.spec_from_file_location('model', folder / 'model.py')
  assert spec is not None and spec.loader is not None  # it is a file of Python
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  weights = dict(np.load(folder / 'weights.npz', allow_pickle=False))
  about = json.loads((folder / 'export.json').read_text(encoding='utf-8'))
  keys = {plain(k): k for k in about['inputs']}

  def run(arrays):
    outputs = module.apply(weights, {key: arrays[name] for name, key in keys.items()})
    return {plain(k): v for k, v in outputs.items()}

  return run


FORMATS = {
  'python': ('.', load_python),
  'onnx': ('model.onnx', load_onnx),
  'web': ('model.onnx', load_onnx),
  'litert': ('model.tflite', load_litert),
  'stablehlo': ('model.stablehlo', load_stablehlo),
}


class Model:
  """An exported model.

  Attributes:
    about: the content of export.json.
    inputs: key -> (shape, dtype) of one example; '<modality>/present' is 0 for an example without it.
  """

  def __init__(self, folder, threads=0):
    """Opens the model of a folder; `threads` are those of the runtime, 0 for all cores."""
    folder = Path(folder)
    self.about = json.loads((folder / 'export.json').read_text(encoding='utf-8'))
    self.inputs, self.interface = self.about['inputs'], self.about['interface']
    file, load = FORMATS[self.about['format']]
    self._run = load(folder / file, threads)
    tokenizer = folder / 'tokenizer.json'
    self.tokenizer: Any = None
    if tokenizer.exists():
      from tokenizers import Tokenizer

      self.tokenizer = Tokenizer.from_file(str(tokenizer))

  def run(self, arrays):
    """The outputs [B, ...] by name for inputs [B, ...] by key."""
    given = {plain(k): np.ascontiguousarray(arrays[k], dtype) for k, (_, dtype) in self.inputs.items()}
    # ONNX takes the range of activations over a whole batch: an example's answer would depend on the others.
    apart = self.about['format'] in ('onnx', 'web') and self.about.get('quantised') == 'int8'
    count = len(next(iter(given.values()))) if apart else 1
    parts = [{k: v[i : i + 1] if apart else v for k, v in given.items()} for i in range(count)]
    outputs = joined([self._run(part) for part in parts])
    return {k: outputs[plain(k)] for k in self.about['outputs']}

  def arrays(self, image=None, text=None, audio=None):
    """The inputs [1, ...] of one example: an image u8 [H, W, 3] or file, words, a sound f32 [N] or file."""
    arrays = {}
    for key, (shape, dtype) in self.inputs.items():
      name = key.partition('/')[0]
      value = {'image': image, 'text': text, 'audio': audio}.get(name)
      if key == 'image' and image is not None:
        arrays[key] = self._image(image, shape, dtype)
      elif key == 'text' and text is not None:
        arrays[key] = np.array(self.tokenizer.encode(text).ids)
      elif key == 'text/mask' and text is not None:
        arrays[key] = np.array(self.tokenizer.encode(text).attention_mask)
      elif key == 'audio' and audio is not None:
        sound = read_sound(audio, self.interface['rate']) if isinstance(audio, (str, Path)) else audio
        arrays[key] = np.pad(sound[: shape[0]], (0, max(shape[0] - len(sound), 0)))
      else:
        present = key.endswith(PRESENT) and value is not None
        arrays[key] = np.full(shape, present, dtype)
    return {k: v[None] for k, v in arrays.items()}

  def _image(self, image, shape, dtype):
    from PIL import Image

    image = read_image(image) if isinstance(image, (str, Path)) else np.asarray(image)
    size = shape[1], shape[0]
    planes = [np.asarray(Image.fromarray(plane).resize(size, 3)) for plane in np.moveaxis(image, -1, 0)]
    image = image if image.shape[:2] == tuple(shape[:2]) else np.stack(planes, -1)
    image = image.mean(-1, keepdims=True).astype(np.uint8) if shape[-1] == 1 else image
    if dtype == 'uint8':
      return image
    return image / np.float32(127.5) - 1 if self.interface['ranges'].get('image') else image.astype(dtype)

  def __call__(self, image=None, text=None, audio=None):
    """[(answer, score), ...] for one example, the best first."""
    if 'text/response' in self.interface['example']:
      raise SystemExit('the model writes texts, a token at a time: `kdjax predict --runtime` runs it.')
    outputs = {k: v[0] for k, v in self.run(self.arrays(image, text, audio)).items()}
    task, classes = self.interface['task']['name'], self.interface['classes']
    if task == 'retrieval':
      a, b = (outputs[k] / np.linalg.norm(outputs[k]) for k in ('image/embed', 'text/embed'))
      return [('cosine of image and text', float(a @ b))]
    logits = outputs['logits'].astype(np.float64)
    if task == 'classification':
      scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    elif task == 'multilabel':
      scores = 1 / (1 + np.exp(-logits))
    else:
      return [(f'{task}: {logits[0]:.4g}', float(logits[0]))]
    return [(classes[i], float(scores[i])) for i in np.argsort(-scores)]


def read_image(path):
  """u8 [H, W, 3] of a file, upright, transparency over white."""
  from PIL import Image, ImageOps

  image = ImageOps.exif_transpose(Image.open(path))
  if image.mode in ('LA', 'PA', 'RGBA') or 'transparency' in image.info:
    image = image.convert('RGBA')
    image = Image.alpha_composite(Image.new('RGBA', image.size, (255, 255, 255, 255)), image)
  return np.asarray(image.convert('RGB'))


def read_sound(path, rate):
  """f32 [N] of a WAV file of 16 bits and one channel."""
  with wave.open(str(path)) as file:
    if file.getsampwidth() != 2 or file.getnchannels() != 1 or (rate and file.getframerate() != rate):
      raise SystemExit(f'{path}: give a WAV file of 16 bits, one channel and {rate} samples a second.')
    return np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768


def main():
  """Prints the answers."""
  parser = argparse.ArgumentParser(description='Answers of an exported model.')
  for name in ('image', 'text', 'audio'):
    parser.add_argument(f'--{name}')
  parser.add_argument('--top', type=int, default=5, help='how many answers are printed')
  given = vars(parser.parse_args())
  top = given.pop('top')
  for name, score in Model(Path(__file__).resolve().parent)(**given)[:top]:
    print(f'{score:8.4f}  {name}')


if __name__ == '__main__':
  main()
