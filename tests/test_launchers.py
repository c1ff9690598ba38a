"""What each launcher's environment says, and which GPUs a process takes."""

import io
import socket

import pytest

from kdjax.errors import KdjaxError
from kdjax.runtime import distributed, fatal_lines, launchers

SLURM = {
  'SLURM_JOB_ID': '4242',
  'SLURM_STEP_NUM_TASKS': '4',
  'SLURM_STEP_NODELIST': 'gpu[007-008,12],other',
  'SLURM_STEP_TASKS_PER_NODE': '1(x4)',
  'SLURM_PROCID': '2',
  'SLURM_NODEID': '2',
  'SLURM_LOCALID': '0',
  'SLURM_GPUS_ON_NODE': '8',
}
OPEN_MPI = {
  'OMPI_COMM_WORLD_SIZE': '4',
  'OMPI_COMM_WORLD_RANK': '3',
  'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
  'OMPI_COMM_WORLD_LOCAL_RANK': '1',
  'OMPI_MCA_orte_hnp_uri': '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911',
}
HYDRA = {'PMI_SIZE': '2', 'PMI_RANK': '1', 'MPI_LOCALNRANKS': '2', 'MPI_LOCALRANKID': '1'}
GKE = {'JAX_COORDINATOR_ADDRESS': 'run-workers-0-0.run', 'NNODES': '4', 'JOB_COMPLETION_INDEX': '1'}


@pytest.mark.parametrize(
  'env, launch',
  [
    (SLURM, ('SLURM', 4, 2, f'gpu007:{61440 + 4242 % 4096}', 1, 0)),
    (OPEN_MPI, ('Open MPI', 4, 3, f'10.96.0.1:{61440 + 1531576320 % 4096}', 2, 1)),
    (HYDRA, ('MPICH', 2, 1, '127.0.0.1:61440', 2, 1)),
    (GKE, ('the environment', 4, 1, 'run-workers-0-0.run:61440', 1, 0)),
    (
      {'JAX_COORDINATOR_IP': 'a', 'JAX_COORDINATOR_PORT': '12', 'NNODES': '2', 'NODE_RANK': '0'},
      ('the environment', 2, 0, 'a:12', 1, 0),
    ),
    ({'PMI_SIZE': '2', 'PMI_RANK': '0'}, ('PMI', 2, 0, '', 1, 0)),
    ({'TPU_WORKER_HOSTNAMES': 't-0,t-1'}, ('the TPU environment', None, None, '', 1, 0)),
    ({'TPU_PROCESS_ADDRESSES': 't-0:8476,t-1:8476'}, ('the TPU environment', None, None, '', 1, 0)),
    (
      {'TPU_WORKER_HOSTNAMES': 't-0', 'MEGASCALE_NUM_SLICES': '2'},
      ('the TPU environment', None, None, '', 1, 0),
    ),
    # mpirun within a SLURM job starts its own processes; those of srun are its daemons.
    (SLURM | OPEN_MPI, ('Open MPI', 4, 3, f'10.96.0.1:{61440 + 1531576320 % 4096}', 2, 1)),
  ],
)
def test_what_a_launcher_says(env, launch):
  assert launchers.find(env) == launchers.Launch(*launch)


@pytest.mark.parametrize(
  'env',
  [
    {},
    {'SLURM_JOB_ID': '1', 'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'},  # the script of sbatch
    SLURM | {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'},
    {'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'},
    {'TPU_WORKER_HOSTNAMES': 'localhost'},
  ],
)
def test_a_process_on_its_own(env):
  launch = launchers.find(env)
  assert launch is None or launch.processes == 1


@pytest.mark.parametrize(
  'env, words',
  [
    ({'JAX_COORDINATOR_ADDRESS': 'a:1'}, 'set NNODES and NODE_RANK'),
    (GKE | {'JOB_COMPLETION_INDEX': '4'}, 'process 4 of 4'),
    (HYDRA | {'PMI_RANK': 'x'}, "PMI_RANK is 'x'"),
  ],
)
def test_an_environment_that_cannot_be(env, words):
  with pytest.raises(KdjaxError, match=words):
    launchers.find(env)


def test_the_hosts_and_counts_of_slurm():
  assert [launchers.first_host(x) for x in ('a', 'a,b', 'n[01-3],b', 'n[07,9]', 'n-1')] == [
    'a',
    'a',
    'n01',
    'n07',
    'n-1',
  ]
  assert launchers.each('2(x3),1') == [2, 2, 2, 1] and launchers.each('8') == [8] and launchers.each('') == []


def several(n, i):
  return launchers.Launch('SLURM', 2 * n, i, 'a:1', n, i)


@pytest.mark.parametrize(
  'launch, env, on_host, takes',
  [
    (several(1, 0), {}, 8, None),  # one process a host: all of its GPUs
    (several(1, 0), {'SLURM_GPUS_ON_NODE': '8', 'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'}, 8, None),
    (several(8, 3), {}, 8, [3]),
    (several(2, 1), {}, 8, [4, 5, 6, 7]),
    (several(4, 1), {'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, 4, [1]),
    # --gpus-per-task: each process already sees its own alone.
    (several(2, 1), {'SLURM_GPUS_ON_NODE': '8', 'CUDA_VISIBLE_DEVICES': '0,1,2,3'}, 8, None),
    (several(2, 1), {'JAX_LOCAL_DEVICE_IDS': '0'}, 8, None),  # the user says it
    (several(4, 1), {}, 0, None),  # no GPU at all
  ],
)
def test_which_gpus_a_process_takes(launch, env, on_host, takes):
  assert launchers.own_gpus(launch, env, on_host) == takes


def test_gpus_that_cannot_be_shared():
  with pytest.raises(KdjaxError, match='3 processes on this host, which has 8 GPUs'):
    launchers.own_gpus(several(3, 0), {}, 8)


def test_addresses():
  assert distributed.parse_address('node-1.x:80') == ('node-1.x', 80)
  assert distributed.parse_address('[fe80::1]:80') == ('fe80::1', 80)
  for wrong in ('nonsense', 'a:', ':80', 'a:0', 'a:65536', 'fe80::1:80', 'http://a:80', 'a:80:90'):
    with pytest.raises(KdjaxError, match='it is HOST:PORT'):
      distributed.parse_address(wrong)


def test_a_port_in_use_and_nobody_there():
  with socket.socket() as taken:
    taken.bind(('', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(KdjaxError, match=f'cannot listen on port {port}'):
      distributed.check_free(port)
    distributed.wait_for('127.0.0.1', port, 1)
  distributed.check_free(port)
  with pytest.raises(KdjaxError, match=r'waited 0 s .* nobody answers \(Connection refused\)'):
    distributed.wait_for('127.0.0.1', port, 0.3)
  with pytest.raises(KdjaxError, match="there is no host 'no.such.host.invalid'"):
    distributed.wait_for('no.such.host.invalid', port, 0.3)


DIED = b"""\
a line of ours
E1127 18:41:53.176489   19223 coordination_service.cc:1549] [33] Use error polling to propagate: UNAVAILABLE:
1
The tasks have crashed. Check the task logs for an earlier error
F1127 18:41:53.177146   19234 client.h:80] Terminating process because the JAX distributed service \
detected fatal errors. This most likely indicates that another task died

RPC: /xla.coordination.CoordinationService/PollForError
*** Check failure stack trace: ***
    @     0x7f6363640634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
Fatal Python error: Aborted
  File "run.py", line 3 in main
"""


def test_a_trace_of_the_coordination_service_is_one_line():
  lines = fatal_lines.Lines('not all came', 'one has ended')

  def shown(text):
    return b''.join(fatal_lines.filtered(io.BytesIO(text), lines)).decode()

  assert shown(DIED) == 'a line of ours\nerror: one has ended\n'
  assert shown(DIED.replace(b'PollForError', b'RegisterTask')).endswith('error: not all came\n')
  other = b'F1127 18:41:53.177146   19234 gpu.cc:80] Check failed: x\n*** Check failure stack trace: ***\n'
  python = b'Traceback (most recent call last):\n  File "a.py", line 1\n\nValueError: 12\n'
  assert shown(other + python) == (other + python).decode()  # whatever else goes wrong is shown as it is
