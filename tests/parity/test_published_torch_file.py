"""Files of torch itself, in both formats."""

import pytest

from kdjax.errors import KdjaxError
from kdjax.pretrained import torch_file

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity
KINDS = ('float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool')


def tensors():
  torch.manual_seed(0)
  base = torch.randn(6, 5)
  values = {kind: (base * 9).to(getattr(torch, kind)) for kind in KINDS}
  views = {
    'row': base[2],
    'column': base[:, 1],
    'part': base[1:5:2, 1:4],
    'turned': base.T,
    'one': base[3, 3],
  }
  empty = {'empty': torch.zeros(0, 4), 'parameter': torch.nn.Parameter(base + 1)}
  return torch.nn.Linear(3, 2).state_dict() | values | views | empty


@pytest.mark.parametrize('new', [False, True])
@pytest.mark.parametrize('wrapped', [False, True])
def test_every_type_and_layout(tmp_path, new, wrapped):
  saved = tensors()
  path = tmp_path / 'a.pth'
  whole = {'epoch': 3, 'state_dict': saved, 'optimizer': {'state': {0: {'m': torch.ones(7)}}}}
  torch.save(whole if wrapped else saved, path, _use_new_zipfile_serialization=new)
  result = torch_file.read(path)
  assert result.keys() == saved.keys()
  for name, x in saved.items():
    x = x.detach()
    assert result[name].shape == tuple(x.shape)
    assert str(result[name].dtype) == str(x.dtype).removeprefix('torch.')
    assert (result[name].astype(float) == x.double().numpy()).all(), name


@pytest.mark.parametrize('new', [False, True])
def test_a_whole_module_is_refused(tmp_path, new):
  torch.save(torch.nn.Linear(2, 2), tmp_path / 'a.pth', _use_new_zipfile_serialization=new)
  with pytest.raises(KdjaxError, match='torch.nn.modules.linear.Linear|plain storage'):
    torch_file.read(tmp_path / 'a.pth')
