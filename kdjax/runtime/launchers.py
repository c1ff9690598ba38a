"""What a launcher tells its processes: how many there are, which this is, where the first one is.

`find` reads the environment alone, so that every launcher can be tried without it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from kdjax.errors import KdjaxError

PORTS = 61440, 4096  # the first port for a coordinator, and how many there are
TPU_DEVICES = '/dev/accel0', '/dev/vfio/0'
METADATA = 'http://{}/computeMetadata/v1/instance/attributes/worker-network-endpoints'


class Launch(NamedTuple):
  """The processes of a launcher, as one of them sees it.

  Attributes:
    launcher: its name, for messages.
    processes, process: how many there are, and which this is; None where JAX finds that out, on TPUs.
    coordinator: 'host:port' of the first process, '' where the launcher does not say.
    local_processes, local_process: the same on this host.
  """

  launcher: str
  processes: int | None = None
  process: int | None = None
  coordinator: str = ''
  local_processes: int = 1
  local_process: int = 0


def find(env: Mapping[str, str]) -> Launch | None:
  """The launch of these environment variables, also of one process; None without a launcher.

  Raises:
    KdjaxError: where they contradict each other.
  """
  for one in (_open_mpi, _hydra, _slurm, _coordinator_variables, _pmi, _tpu):
    if launch := one(env):
      if launch.processes is None:
        return launch
      assert launch.process is not None
      if not 0 <= launch.process < launch.processes:
        raise KdjaxError(
          f'{launch.launcher} says that this is process {launch.process} of {launch.processes}.'
        )
      return launch
  return None


def _number(env: Mapping[str, str], key: str, default: int | None = None) -> int:
  value = env.get(key, '')
  if not value.strip().isdigit():
    if default is not None:
      return default
    raise KdjaxError(f'the environment variable {key} is {value!r}; it has to be a whole number.')
  return int(value)


def _port(job: str) -> int:
  """A port that the processes of a job agree on, and other jobs on the same host rarely have."""
  digits = re.sub(r'\D', '', job)
  return PORTS[0] + int(digits or 0) % PORTS[1]


def _open_mpi(env):
  if 'OMPI_COMM_WORLD_SIZE' not in env:
    return None
  size, local = _number(env, 'OMPI_COMM_WORLD_SIZE'), _number(env, 'OMPI_COMM_WORLD_LOCAL_SIZE', 1)
  uri, coordinator = env.get('OMPI_MCA_orte_hnp_uri', ''), ''  # of mpirun, up to version 4
  port = _port(env.get('PMIX_NAMESPACE', '') or uri.split('.')[0])
  if local == size:
    coordinator = f'127.0.0.1:{port}'
  elif match := re.search(r'tcp://([^,:]+)|tcp6://\[([^,\]]+)', uri):
    host = match[1] or f'[{match[2]}]'
    coordinator = f'{host}:{port}'
  ranks = (
    _number(env, 'OMPI_COMM_WORLD_RANK'),
    coordinator,
    local,
    _number(env, 'OMPI_COMM_WORLD_LOCAL_RANK', 0),
  )
  return Launch('Open MPI', size, *ranks)


def _hydra(env):
  """MPICH, Intel MPI and others with Hydra."""
  if 'PMI_SIZE' not in env or 'MPI_LOCALNRANKS' not in env:
    return None
  size, local = _number(env, 'PMI_SIZE'), _number(env, 'MPI_LOCALNRANKS')
  coordinator = f'127.0.0.1:{_port(env.get("HYDRA_JOBID", ""))}' if local == size else ''
  return Launch(
    'MPICH', size, _number(env, 'PMI_RANK'), coordinator, local, _number(env, 'MPI_LOCALRANKID', 0)
  )


def _slurm(env):
  """The tasks of `srun`; the script of `sbatch` itself has no step."""
  if 'SLURM_STEP_NUM_TASKS' not in env:
    return None
  nodes = env.get('SLURM_STEP_NODELIST', '')
  coordinator = f'{first_host(nodes)}:{_port(env.get("SLURM_JOB_ID", ""))}' if nodes else ''
  node, tasks = _number(env, 'SLURM_NODEID', 0), each(env.get('SLURM_STEP_TASKS_PER_NODE', ''))
  local = tasks[node] if node < len(tasks) else 1
  ranks = _number(env, 'SLURM_PROCID'), coordinator, local, _number(env, 'SLURM_LOCALID', 0)
  return Launch('SLURM', _number(env, 'SLURM_STEP_NUM_TASKS'), *ranks)


def _coordinator_variables(env):
  """The variables of JAX, of MaxText and xpk, and of an indexed Job of Kubernetes."""
  address = env.get('JAX_COORDINATOR_ADDRESS') or env.get('JAX_COORDINATOR_IP')
  if not address:
    return None
  if not re.search(r':\d+$', address):
    address = f'{address}:{env.get("JAX_COORDINATOR_PORT") or PORTS[0]}'
  size = next((k for k in ('JAX_NUM_PROCESSES', 'NNODES') if k in env), None)
  rank = next((k for k in ('JAX_PROCESS_ID', 'NODE_RANK', 'JOB_COMPLETION_INDEX') if k in env), None)
  if not size or not rank:
    raise KdjaxError(
      f'the environment names a coordinator, {address}, and not which process this is: set NNODES and '
      'NODE_RANK.'
    )
  return Launch('the environment', _number(env, size), _number(env, rank), address)


def _pmi(env):
  """Another launcher that speaks PMI."""
  if 'PMI_SIZE' not in env or 'PMI_RANK' not in env:
    return None
  return Launch('PMI', _number(env, 'PMI_SIZE'), _number(env, 'PMI_RANK'))


def _tpu(env):
  hosts = env.get('TPU_PROCESS_ADDRESSES') or env.get('TPU_WORKER_HOSTNAMES', '')
  if ',' in hosts or _number(env, 'MEGASCALE_NUM_SLICES', 1) > 1:
    return Launch('the TPU environment')
  on_tpu = 'tpu' in env.get('JAX_PLATFORMS', 'tpu') and any(Path(d).exists() for d in TPU_DEVICES)
  if on_tpu and not hosts and 'TPU_SKIP_MDS_QUERY' not in env and workers_of_tpu_vm(env) > 1:
    return Launch('the metadata of the TPU VM')
  return None


def workers_of_tpu_vm(env: Mapping[str, str]) -> int:
  """How many hosts the TPU slice of this VM has, by its metadata server; 1 where none answers."""
  import requests  # only on a TPU VM

  url = METADATA.format(env.get('GCE_METADATA_IP', 'metadata.google.internal'))
  try:
    answer = requests.get(url, headers={'Metadata-Flavor': 'Google'}, timeout=5)
  except requests.RequestException:
    return 1
  return len(answer.text.split(',')) if answer.ok else 1


def first_host(nodes: str) -> str:
  """'node[007-010,12],other' -> 'node007'."""
  match = re.match(r'([^,\[]+)(?:\[([^,\-\]]+))?', nodes)
  return (match[1] + (match[2] or '')) if match else nodes


def each(counts: str) -> list[int]:
  """'2(x3),1' -> [2, 2, 2, 1], of SLURM."""
  found = re.findall(r'(\d+)(?:\(x(\d+)\))?', counts)
  return [int(n) for n, times in found for _ in range(int(times or 1))]


def own_gpus(launch: Launch, env: Mapping[str, str], on_host: int) -> list[int] | None:
  """Which of the GPUs that this process can see it takes; None for all.

  One process a host takes all. Several share them evenly, unless the launcher has already given each its own.

  Args:
    launch: of this process.
    env: the environment variables.
    on_host: how many GPUs the host has.

  Raises:
    KdjaxError: where the processes of a host cannot share its GPUs evenly.
  """
  n, own = launch.local_processes, env.get('CUDA_VISIBLE_DEVICES', env.get('ROCR_VISIBLE_DEVICES'))
  visible = on_host if own is None else len([x for x in own.split(',') if x.strip()])
  allotted = _number(env, 'SLURM_GPUS_ON_NODE', on_host)
  if n == 1 or not visible or 'JAX_LOCAL_DEVICE_IDS' in env or visible < allotted:
    return None
  if visible % n:
    raise KdjaxError(
      f'{launch.launcher} started {n} processes on this host, which has {visible} GPUs: start one process a '
      f'host, or a number that divides {visible}.'
    )
  share = visible // n
  return [launch.local_process * share + i for i in range(share)]


def gpus_on_host() -> int:
  """How many GPUs of NVIDIA or AMD this host has."""
  nvidia = [p for p in Path('/dev').glob('nvidia[0-9]*') if p.name.removeprefix('nvidia').isdigit()]
  return len(nvidia) or len(list(Path('/dev/dri').glob('renderD*')) if Path('/dev/kfd').exists() else [])
