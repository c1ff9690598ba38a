#!/bin/bash
# On the GPUs of several nodes: one process a node, which takes all GPUs of its node.
#
#   sbatch --nodes=4 --gpus-per-node=8 --time=24:00:00 launch/slurm.sh --config=RECIPE --workdir=/shared/runs/NAME
#
# Two minutes before the time limit all processes save, and the job is queued again to go on; a node that fails
# queues it again too. The workdir has to be on a file system that all nodes share.
#SBATCH --job-name=kdjax
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

# No --kill-on-bad-exit: all processes end by themselves where one fails, and it would cut off the last save.
status=0
srun kdjax "$@" || status=$?
if [ "$status" = 143 ]; then # saved on SIGTERM
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
