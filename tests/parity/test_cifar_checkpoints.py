"""The models for images of 32×32 against torch modules with the names of the authors' checkpoints."""

import jax
import numpy as np
import pytest

from kdjax import pretrained
from kdjax.experiment import build

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity
nn, relu = torch.nn, torch.relu
MEAN, STD = (torch.tensor(x)[:, None, None] for x in ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)))


def conv(i, o, side=1, stride=1, groups=1, bias=False):
  return nn.Conv2d(i, o, side, stride, side // 2, groups=groups, bias=bias)


def shuffle(x, groups):
  return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def pooled(x):
  return x.mean((2, 3))


class Numbered(nn.Module):
  """Convolutions and norms `conv1`, `bn1`, ... of rows of channels, side, stride and groups."""

  def __init__(self, *rows):
    super().__init__()
    for k, row in enumerate(rows, 1):
      self.add_module(f'conv{k}', conv(*row))
      self.add_module(f'bn{k}', nn.BatchNorm2d(row[1]))

  def layer(self, x, k):
    return getattr(self, f'bn{k}')(getattr(self, f'conv{k}')(x))


class Residual(Numbered):
  def __init__(self, i, width, stride, bottleneck):
    o = 4 * width if bottleneck else width
    rows = [(i, width, 3, stride), (width, width, 3)]
    rows = [(i, width), (width, width, 3, stride), (width, o)] if bottleneck else rows
    super().__init__(*rows)
    self.depth, self.name = len(rows), 'shortcut' if bottleneck else 'downsample'
    if stride > 1 or i != o:
      self.add_module(self.name, nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)))

  def forward(self, x):
    y = x
    for k in range(1, self.depth + 1):
      y = self.layer(y if k == 1 else relu(y), k)
    return y + getattr(self, self.name, nn.Identity())(x)


class Resnet(Numbered):
  def __init__(self, stem, widths, blocks, bottleneck=False):
    super().__init__((3, stem, 3))
    self.stages, at, self.last = len(widths), stem, 'linear' if bottleneck else 'fc'
    for i, (width, n) in enumerate(zip(widths, blocks, strict=True), 1):
      row = []
      for j in range(n):
        row.append(Residual(at, width, 2 if i > 1 and not j else 1, bottleneck))
        at = 4 * width if bottleneck else width
      self.add_module(f'layer{i}', nn.Sequential(*row))
    self.add_module(self.last, nn.Linear(at, 7))

  def forward(self, x):
    taps = {'stem': (x := relu(self.layer(x, 1)))}
    for i in range(1, self.stages + 1):
      for block in getattr(self, f'layer{i}'):
        before = block(x)
        x = relu(before)
      taps |= {f'stage{i}_before': before, f'stage{i}': x}
    return taps | {'embed': pooled(x), 'logits': getattr(self, self.last)(pooled(x))}


class PreActivation(nn.Module):
  def __init__(self, i, o, stride):
    super().__init__()
    self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3, stride)
    self.bn2, self.conv2 = nn.BatchNorm2d(o), conv(o, o, 3)
    self.convShortcut = conv(i, o, 1, stride) if i != o else None

  def forward(self, x):
    y = relu(self.bn1(x))
    shortcut = self.convShortcut(y) if self.convShortcut else x
    return shortcut + self.conv2(relu(self.bn2(self.conv1(y))))


class Wrn(nn.Module):
  def __init__(self, n, widen):
    super().__init__()
    self.conv1, at = conv(3, 16, 3), 16
    for i in (1, 2, 3):
      width = 8 * 2**i * widen
      row = [PreActivation(width if j else at, width, 2 if i > 1 and not j else 1) for j in range(n)]
      self.add_module(f'block{i}', nn.ModuleDict({'layer': nn.Sequential(*row)}))
      at = width
    self.bn1, self.fc = nn.BatchNorm2d(at), nn.Linear(at, 7)

  def forward(self, x):
    taps = {'stem': (x := self.conv1(x))}
    layers = [getattr(self, f'block{i}')['layer'] for i in (1, 2, 3)]
    norms = [layers[1][0].bn1, layers[2][0].bn1, self.bn1]
    for i, (row, norm) in enumerate(zip(layers, norms, strict=True), 1):
      x = row(x)
      taps |= {f'stage{i}': x, f'stage{i}_before': norm(x)}
    embed = pooled(relu(taps['stage3_before']))
    return taps | {'embed': embed, 'logits': self.fc(embed)}


class Vgg(nn.Module):
  def __init__(self, *blocks):
    super().__init__()
    at = 3
    for i, (n, width) in enumerate(zip(blocks, (64, 128, 256, 512, 512), strict=True)):
      row = []
      for _ in range(n):
        row += [conv(at, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU()]
        at = width
      self.add_module(f'block{i}', nn.Sequential(*row[:-1]))
    self.classifier = nn.Linear(512, 7)

  def forward(self, x):
    side, taps = x.shape[-1], {}
    for i in range(5):
      if i in (1, 2, 3) or (i == 4 and side == 64):
        x = nn.functional.max_pool2d(x, 2)
      before = getattr(self, f'block{i}')(x)
      x = relu(before)
      taps |= {f'stage{i}_before': before, f'stage{i}': x} if i else {'stem': x}
    return taps | {'embed': pooled(x), 'logits': self.classifier(pooled(x))}


def activated(i, o, side=1, stride=1, groups=1):
  return conv(i, o, side, stride, groups), nn.BatchNorm2d(o), nn.ReLU()


class Inverted(nn.Module):
  def __init__(self, i, o, stride, expansion):
    super().__init__()
    inner, self.added = i * expansion, stride == 1 and i == o
    row = *activated(i, inner), *activated(inner, inner, 3, stride, inner), conv(inner, o), nn.BatchNorm2d(o)
    self.conv = nn.Sequential(*row)

  def forward(self, x):
    return self.conv(x) + x if self.added else self.conv(x)


class Mobilenet(nn.Module):
  def __init__(self):
    super().__init__()
    self.conv1, self.blocks, at = nn.Sequential(*activated(3, 16, 3, 2)), nn.ModuleList(), 16
    rows = ((8, 1, 1), (12, 2, 1), (16, 3, 2), (32, 4, 2), (48, 3, 1), (80, 3, 2), (160, 1, 1))
    for k, (width, n, stride) in enumerate(rows):
      row = []
      for j in range(n):
        row.append(Inverted(at, width, 1 if j else stride, 6 if k else 1))
        at = width
      self.blocks.append(nn.Sequential(*row))
    self.conv2 = nn.Sequential(*activated(at, 1280))
    self.classifier = nn.Sequential(nn.Linear(1280, 7))

  def forward(self, x):
    taps = {'stem': (x := self.conv1(x))}
    for i, block in enumerate(self.blocks):
      x = block(x)
      if i in (1, 2, 4, 6):
        at = f'stage{(1, 2, 4, 6).index(i) + 1}'
        taps |= {at: x, f'{at}_before': x}
    embed = nn.functional.avg_pool2d(self.conv2(x), 2).flatten(1)
    return taps | {'embed': embed, 'logits': self.classifier(embed)}


class Unit1(Numbered):
  def __init__(self, i, o, stride):
    o = o - i if stride == 2 else o
    inner, self.stride, self.groups = o // 4, stride, 1 if i == 24 else 3
    super().__init__((i, inner, 1, 1, self.groups), (inner, inner, 3, stride, inner), (inner, o, 1, 1, 3))

  def forward(self, x):
    y = shuffle(relu(self.layer(x, 1)), self.groups)
    y = self.layer(relu(self.layer(y, 2)), 3)
    return torch.cat([y, nn.AvgPool2d(3, 2, 1)(x)], 1) if self.stride == 2 else x + y, None


class Unit2(Numbered):
  def __init__(self, i, o, stride):
    half, self.stride = o // 2, stride
    at = half if stride == 1 else i
    rows = (at, half), (half, half, 3, stride, half), (half, half)
    left = ((at, at, 3, 2, at), (at, half)) if stride == 2 else ()
    super().__init__(*left, *rows)

  def forward(self, x):
    k = 3 if self.stride == 2 else 1
    left, right = (relu(self.layer(self.layer(x, 1), 2)), x) if k == 3 else x.chunk(2, 1)
    right = self.layer(self.layer(relu(self.layer(right, k)), k + 1), k + 2)
    return torch.cat([left, right], 1), shuffle(torch.cat([left, relu(right)], 1), 2)


class Shufflenet(Numbered):
  def __init__(self, unit, widths, last=None):
    super().__init__((3, 24), *([(widths[-1], last)] if last else []))
    at, self.last = 24, last
    for i, (width, n) in enumerate(zip(widths, (4, 8, 4), strict=True), 1):
      row = [unit(width if j else at, width, 1 if j else 2) for j in range(n)]
      self.add_module(f'layer{i}', nn.Sequential(*row))
      at = width
    self.linear = nn.Linear(last or at, 7)

  def forward(self, x):
    taps = {'stem': (x := relu(self.layer(x, 1)))}
    for i in (1, 2, 3):
      for unit in getattr(self, f'layer{i}'):
        before, after = unit(x)
        x = relu(before) if after is None else after
      taps |= {f'stage{i}_before': before, f'stage{i}': x}
    embed = pooled(relu(self.layer(x, 2)) if self.last else x)
    return taps | {'embed': embed, 'logits': self.linear(embed)}


CASES = {
  'resnet20': ('cifar_resnet', {'depth': 20}, lambda: Resnet(16, (16, 32, 64), (3, 3, 3))),
  'resnet8x4': ('cifar_resnet', {'depth': 8, 'widen': 4}, lambda: Resnet(32, (64, 128, 256), (1, 1, 1))),
  'ResNet50': (
    'cifar_resnet_bottleneck',
    {},
    lambda: Resnet(64, (64, 128, 256, 512), (3, 4, 6, 3), True),
  ),
  'wrn_16_1': ('cifar_wrn', {'depth': 16, 'widen': 1}, lambda: Wrn(2, 1)),
  'wrn_40_2': ('cifar_wrn', {}, lambda: Wrn(6, 2)),
  'vgg8': ('cifar_vgg', {}, lambda: Vgg(1, 1, 1, 1, 1)),
  'vgg19': ('cifar_vgg', {'depth': 19}, lambda: Vgg(2, 2, 4, 4, 4)),
  'MobileNetV2': ('cifar_mobilenet_v2', {}, Mobilenet),
  'ShuffleV1': ('cifar_shufflenet_v1', {}, lambda: Shufflenet(Unit1, (240, 480, 960))),
  'ShuffleV2': ('cifar_shufflenet_v2', {}, lambda: Shufflenet(Unit2, (116, 232, 464), 1024)),
}


def images(side):
  """Two images for us and the same, standardised, for torch."""
  image = np.random.default_rng(0).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
  return {'image': image}, (torch.tensor(image.transpose(0, 3, 1, 2)) / 255 - MEAN) / STD


@pytest.mark.parametrize(('name', 'side'), [*((name, 32) for name in CASES), ('vgg8', 64)])
def test_every_tap(ours, agree, randomised, name, side):
  model, attributes, make = CASES[name]
  module, (batch, x) = randomised(make()), images(side)
  with torch.no_grad():
    theirs = module(x)
  agree(ours(model, attributes | {'num_classes': 7}, module.state_dict(), batch), theirs)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_file_of_the_authors(agree, randomised, tmp_path, zipped):
  """Their training scripts keep the weights under 'model', beside an optimizer's state and scores."""
  module, (batch, x) = Resnet(16, (16, 32, 64), (1, 1, 1)), images(32)
  optimizer = torch.optim.SGD(module.parameters(), 0.05, 0.9, weight_decay=5e-4)
  module(x)['logits'].sum().backward()
  optimizer.step()
  randomised(module)
  kept = {'epoch': 240, 'model': module.state_dict(), 'accuracy': torch.tensor([71.0])}
  path = tmp_path / 'ckpt_epoch_240.pth'
  whole = kept | {'optimizer': optimizer.state_dict()}
  torch.save(whole, path, _use_new_zipfile_serialization=zipped)
  model = {'model': 'cifar_resnet', 'depth': 8, 'num_classes': 7}
  net = build.module(model, {})
  like = jax.eval_shape(net.init, jax.random.key(0), batch)
  with torch.no_grad():
    theirs = module(x)
  agree(jax.jit(net.apply)(pretrained.load(str(path), model, like), batch), theirs)
