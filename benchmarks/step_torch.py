"""PyTorch's side of `benchmarks.step`: the same models, and their steps for each line that it reads.

It runs in a Python that has torch, and torchdistill for the column of that name, and need not have JAX.
A line names a pair, a column and how many steps, 'cnn eager 3'; the answer is a JSON object: 'ms' of one of
them, or 'error' in words.
'student' is a step of the student alone; the others are steps of distillation with the teacher live:
'eager', 'compile' (torch.compile of both models), 'torchdistill' (its DistillationBox, as in its examples).
"""

import argparse
import json
import logging
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

TEMPERATURE = 4.0


def conv(i, o, kernel, stride=1):
  return nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o)


class Basic(nn.Module):
  """A residual block of two 3×3 convolutions, its shortcut projected where the shape changes."""

  def __init__(self, i, o, stride):
    super().__init__()
    self.body = nn.Sequential(*conv(i, o, 3, stride), nn.ReLU(), *conv(o, o, 3))
    self.short = nn.Sequential(*conv(i, o, 1, stride)) if i != o or stride > 1 else nn.Identity()

  def forward(self, x):
    return F.relu(self.body(x) + self.short(x))


def stages(stem, widths, blocks):
  """The residual stages after a stem of so many channels; each but the first halves the map."""
  layers, i = [], stem
  for n, (width, depth) in enumerate(zip(widths, blocks, strict=True)):
    for j in range(depth):
      layers.append(Basic(i, width, 2 if n and not j else 1))
      i = width
  return layers, i


class Cnn(nn.Module):
  """A ResNet for 32×32, as RepDistiller has it: a stem of 32, stages of 64, 128 and 256."""

  def __init__(self, depth, classes):
    super().__init__()
    layers, width = stages(32, (64, 128, 256), (depth,) * 3)
    self.body = nn.Sequential(*conv(3, 32, 3), nn.ReLU(), *layers)
    self.head = nn.Linear(width, classes)
    self.to(memory_format=torch.channels_last)

  def forward(self, batch):
    x = batch['image'].to(memory_format=torch.channels_last)
    return self.head(self.body(x).mean((2, 3)))


class Layer(nn.Module):
  def __init__(self, width, heads):
    super().__init__()
    self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
    self.qkv, self.out, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads
    self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

  def forward(self, x):
    b, length, width = x.shape
    qkv = self.qkv(self.norm1(x)).view(b, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(*qkv).transpose(1, 2).reshape(b, length, width)
    x = x + self.out(y)
    return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
  def __init__(self, width, depth, heads, classes):
    super().__init__()
    self.patch, self.position = nn.Linear(48, width), nn.Parameter(0.02 * torch.randn(1, 64, width))
    self.body = nn.Sequential(*(Layer(width, heads) for _ in range(depth)), nn.LayerNorm(width, 1e-6))
    self.head = nn.Linear(width, classes)

  def forward(self, batch):
    x = F.unfold(batch['image'], 4, stride=4).transpose(1, 2)
    return self.head(self.body(self.patch(x) + self.position).mean(1))


class Vqa(nn.Module):
  """The quickstart's: patches and residual stages, a bag of words, their product."""

  def __init__(self, width, widths, blocks, words, classes):
    super().__init__()
    self.stem, self.norm = nn.Conv2d(3, widths[0], 4, 4, bias=False), nn.BatchNorm2d(widths[0])
    layers, last = stages(widths[0], widths, blocks)
    self.body, self.words = nn.Sequential(*layers), nn.Embedding(64, words)
    self.hidden_words, self.text = nn.Linear(words, words), nn.Linear(words, width)
    self.image, self.hidden, self.head = (
      nn.Linear(last, width),
      nn.Linear(width, width),
      nn.Linear(width, classes),
    )
    self.to(memory_format=torch.channels_last)

  def forward(self, batch):
    x = batch['image'].to(memory_format=torch.channels_last)
    image = self.body(F.relu(self.norm(self.stem(x)))).amax((2, 3))
    mask = batch['text/mask'].float()
    text = (self.words(batch['text']) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(
      min=1
    ).sqrt()
    joint = self.image(image) * self.text(F.relu(self.hidden_words(text)))
    return self.head(F.relu(self.hidden(joint)))


PAIRS = {  # teacher, student, classes, side of the image, optimiser
  'cnn': (lambda c: Cnn(5, c), lambda c: Cnn(1, c), 100, 32, 'SGD'),
  'vit': (lambda c: Vit(192, 6, 3, c), lambda c: Vit(96, 4, 3, c), 100, 32, 'AdamW'),
  'vqa': (
    lambda c: Vqa(256, (32, 64, 128), (1, 1, 1), 128, c),
    lambda c: Vqa(64, (16, 24), (0, 1), 16, c),
    13,
    64,
    'AdamW',
  ),
}
OPTIONS = {
  'SGD': {'lr': 0.05, 'momentum': 0.9, 'weight_decay': 5e-4},
  'AdamW': {'lr': 1e-3, 'weight_decay': 1e-4},
}


def example(side, classes, size):
  image, label = torch.rand(size, 3, side, side) * 2 - 1, torch.arange(size) % classes
  words = torch.arange(size * 16).view(size, 16) % 64
  return {'image': image, 'text': words, 'text/mask': words > 8}, label


def step_of(student, teacher, name, batch, label):
  """One step; with a teacher, of the loss cross-entropy + T² KL."""
  optimizer = getattr(torch.optim, name)(student.parameters(), **OPTIONS[name])
  student.train()

  def step():
    optimizer.zero_grad()
    logits = student(batch)
    loss = F.cross_entropy(logits, label)
    if teacher is not None:
      with torch.no_grad():
        soft = F.softmax(teacher(batch) / TEMPERATURE, 1)
      log_q = F.log_softmax(logits / TEMPERATURE, 1)
      loss = loss + TEMPERATURE**2 * F.kl_div(log_q, soft, reduction='batchmean')
    loss.backward()
    optimizer.step()
    return loss.item()

  return step


def step_of_torchdistill(student, teacher, name, batch, label):
  """Its KDLoss at weight 1 beside the cross-entropy, through its box; the batch is the same each time."""
  from torchdistill.common.constant import def_logger
  from torchdistill.core.distillation import get_distillation_box

  def_logger.setLevel(logging.ERROR)
  kd = {'key': 'KDLoss', 'kwargs': {k: '.' for k in ('student_module_path', 'teacher_module_path')}}
  kd['kwargs'] |= {'student_module_io': 'output', 'teacher_module_io': 'output', 'temperature': TEMPERATURE}
  kd['kwargs'] |= {'alpha': 1.0, 'beta': 1.0, 'reduction': 'batchmean'}
  model = {'forward_proc': 'forward_batch_only'}
  config = {
    'num_epochs': 1,
    'teacher': {'requires_grad': False, **model},
    'student': model,
    'optimizer': {'key': name, 'kwargs': dict(OPTIONS[name])},
    'criterion': {
      'key': 'WeightedSumLoss',
      'kwargs': {'sub_terms': {'kd': {'criterion': kd, 'weight': 1.0}}},
    },
  }
  box = get_distillation_box(teacher, student, {}, config, torch.device('cpu'), None, False, 1)
  box.pre_epoch_process(epoch=0)

  def step():
    box.pre_forward_process()
    loss = box.forward_process(batch, label)
    box.post_forward_process(loss=loss)
    return loss.item()

  return step


def make(pair, column, size):
  torch.manual_seed(0)
  teacher, student, classes, side, name = PAIRS[pair]
  batch, label = example(side, classes, size)
  teacher, student = teacher(classes).eval(), student(classes)
  if column == 'torchdistill':
    return step_of_torchdistill(student, teacher, name, batch, label)
  if column == 'compile':
    teacher, student = torch.compile(teacher), torch.compile(student)
  return step_of(student, None if column == 'student' else teacher, name, batch, label)


def main():
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--batch', type=int, default=64)
  parser.add_argument('--threads', type=int, default=torch.get_num_threads())
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  steps_made = {}
  for line in sys.stdin:
    try:
      pair, column, steps = line.split()
      if (pair, column) not in steps_made:
        steps_made[pair, column] = make(pair, column, args.batch)
        for _ in range(2):
          steps_made[pair, column]()
      began = time.perf_counter()
      for _ in range(int(steps)):
        loss = steps_made[pair, column]()
      answer = {'ms': 1e3 * (time.perf_counter() - began) / int(steps), 'loss': loss}
    except Exception as e:  # a column that does not work here is no reason to lose the others
      answer = {'error': f'{type(e).__name__}: {str(e).strip().splitlines()[-1] if str(e).strip() else ""}'}
    print(json.dumps(answer | {'torch': torch.__version__}), flush=True)


if __name__ == '__main__':
  main()
