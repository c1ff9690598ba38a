"""Accelerators that are not here: what a device has and does, and how they are joined.

The figures are the makers': Google Cloud's pages of TPU v4, v5e, v5p and v6e, NVIDIA's data sheets of A100,
H100, H200 and B200 (SXM), L4 and T4. Speeds are of dense bfloat16 (T4: float16), in one direction of a link.
"""

import re
from typing import NamedTuple

from kdjax.errors import KdjaxError

GB, T = 1e9, 1e12


class Device(NamedTuple):
  """One kind of accelerator.

  Attributes:
    name: as its maker writes it.
    memory: bytes.
    flops: operations a second.
    link: bytes a second that a device sends to those of its node, or on a TPU of its slice, by all its links.
    network: bytes a second that a device sends to other nodes; 0 on a TPU, whose slice is one network.
    node: devices of a node, or of a TPU host.
    cores: of a chip, as the maker counts them in the names of slices; 0 for a GPU.
  """

  name: str
  memory: float
  flops: float
  link: float
  network: float
  node: int
  cores: int = 0


DEVICES = {
  'v4': Device('TPU v4', 32 * GB, 275 * T, 300 * GB, 0, 4, 2),
  'v5e': Device('TPU v5e', 16 * GB, 197 * T, 200 * GB, 0, 4, 1),
  'v5p': Device('TPU v5p', 95 * GB, 459 * T, 600 * GB, 0, 4, 2),
  'v6e': Device('TPU v6e', 32 * GB, 918 * T, 400 * GB, 0, 4, 1),
  'a100': Device('A100', 80 * GB, 312 * T, 300 * GB, 25 * GB, 8),
  'h100': Device('H100', 80 * GB, 989 * T, 450 * GB, 50 * GB, 8),
  'h200': Device('H200', 141 * GB, 989 * T, 450 * GB, 50 * GB, 8),
  'b200': Device('B200', 180 * GB, 2250 * T, 900 * GB, 50 * GB, 8),
  'l4': Device('L4', 24 * GB, 121 * T, 32 * GB, 3 * GB, 8),
  't4': Device('T4', 16 * GB, 65 * T, 16 * GB, 3 * GB, 4),
}
# Chips -> how libtpu lays them out, of the chips whose slices have two axes.
FLAT = {1: '1x1', 4: '2x2', 8: '2x4', 16: '4x4', 32: '4x8', 64: '8x8', 128: '8x16', 256: '16x16'}
# The beginning of `device_kind`, as JAX has it, of a TPU whose name says something else.
KINDS = {'TPU v5 lite': 'v5e', 'TPU v5': 'v5p', 'TPU v6 lite': 'v6e'}
EXAMPLES = "'v5e-256' (a slice of Google Cloud), '8xh100' (a node, of at most 8), '4x8xh100' (four nodes)"


def kind(device_kind: str) -> Device | None:
  """The device of JAX's `device_kind`, such as 'NVIDIA H100 80GB HBM3' or 'TPU v5 lite'; None if unknown."""
  words = re.split(r'[ -]', KINDS.get(device_kind, device_kind).lower())
  return next((device for name, device in DEVICES.items() if name in words), None)


class Topology(NamedTuple):
  """Devices of one kind: `nodes` × `per_node`."""

  device: Device
  nodes: int
  per_node: int

  @property
  def count(self) -> int:
    return self.nodes * self.per_node

  @property
  def libtpu(self) -> str:
    """Its name for `jax.experimental.topologies`, '' where that has none."""
    kind = self.device.name.removeprefix('TPU ')
    if kind in ('v5e', 'v6e') and self.count in FLAT:
      return f'{kind}:{FLAT[self.count]}'
    if kind == 'v5p' and (sides := cube(self.count)):
      return f'{kind}:{"x".join(map(str, sides))}'
    return ''

  def launch(self, program: str, arguments: str) -> str:
    """The line that starts a command on it, see docs/pods.md."""
    if self.device.cores:
      return f'launch/tpu_vm.sh NAME ZONE {arguments}'
    if self.nodes == 1:
      return f'{program} {arguments}'
    return f'sbatch --nodes={self.nodes} --gpus-per-node={self.per_node} launch/slurm.sh {arguments}'

  def describe(self) -> str:
    """'256 TPU v5e' or '4 nodes of 8 H100'."""
    one = f'{self.per_node} {self.device.name}'
    if self.device.cores:
      return f'{self.count} {self.device.name}'
    return one if self.nodes == 1 else f'{self.nodes} nodes of {one}'


def cube(chips: int) -> tuple[int, int, int] | None:
  """The three sides of a slice of v4 or v5p with so many chips, as Google Cloud lists them; None for none."""
  if chips == 4:
    return 2, 2, 1
  sides = [n for n in range(2, chips + 1) if chips % n == 0 and (n == 2 or n % 4 == 0)]
  shapes = [(a, b, chips // a // b) for a in sides for b in sides if a * b <= chips]
  shapes = [s for s in shapes if s[0] * s[1] * s[2] == chips and s[2] in sides and s[0] <= s[1] <= s[2]]
  return min(shapes, key=lambda s: s[2] - s[0], default=None)


def parse(text: str) -> Topology:
  """The topology of 'v5e-256', '8xh100' or '4x8xh100'.

  Raises:
    KdjaxError: for anything else.
  """
  name = text.strip().lower().replace('v5litepod', 'v5e')
  if (match := re.fullmatch(r'(v\d\w?)-(\d{1,6})', name)) and (device := DEVICES.get(match[1])):
    count, extra = divmod(int(match[2]), device.cores)
    per_node = min(device.node, count)
    exists = count in FLAT if device.cores == 1 else cube(count)
    if exists and not extra:
      return Topology(device, count // per_node, per_node)
  elif match := re.fullmatch(r'(?:(\d{1,5})x)??(\d{1,3})x([a-z]\w*)', name):
    kind, nodes, per_node = match[3], int(match[1] or 1), int(match[2])
    device = DEVICES.get(kind)
    if device and not device.cores and nodes and 0 < per_node <= device.node:
      return Topology(device, nodes, per_node)
  raise KdjaxError(f'--topology is {text!r}: it is {EXAMPLES}; the devices are {", ".join(DEVICES)}.')
