"""PyTorch's side of `benchmarks.conv`: one training step of the same ResNet for each line that it reads.

It runs in a Python that has torch and need not have JAX.
"""

import sys

import torch
from torch import nn


class Block(nn.Module):
  def __init__(self, i, o, stride):
    super().__init__()
    self.body = nn.Sequential(*conv(i, o, 3, stride), nn.ReLU(), *conv(o, o, 3, 1))
    self.short = nn.Sequential(*conv(i, o, 1, stride)) if i != o else nn.Identity()

  def forward(self, x):
    return (self.body(x) + self.short(x)).relu()


def conv(i, o, kernel, stride):
  return nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(o)


def main():
  head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100)
  blocks = Block(64, 64, 1), Block(64, 128, 2), Block(128, 256, 2)
  net = nn.Sequential(*conv(3, 64, 3, 1), nn.ReLU(), *blocks, *head).to(memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(net.parameters(), 0.1, 0.9)
  x = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last)
  for _ in sys.stdin:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), torch.arange(64)).backward()
    optimizer.step()
    print(flush=True)


if __name__ == '__main__':
  main()
