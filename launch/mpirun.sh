#!/bin/bash
# On several hosts with Open MPI or MPICH: one process a host, which takes all GPUs of its host. Run it on the
# first of the hosts, and let them share the workdir:
#
#   launch/mpirun.sh host1,host2 --config=RECIPE --workdir=/shared/runs/NAME
#
# PORT is the port of the first process, 29400 by default.
set -eu

hosts=$1
shift
n=$(($(tr -cd , <<<"$hosts" | wc -c) + 1))
first=${hosts%%,*}
if mpirun --version | grep -q 'Open MPI'; then
  per_host=(--map-by ppr:1:node)
else
  per_host=(-ppn 1)
fi
exec mpirun -np "$n" --host "$hosts" "${per_host[@]}" kdjax --coordinator="$first:${PORT:-29400}" "$@"
