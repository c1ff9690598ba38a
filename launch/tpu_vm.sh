#!/bin/bash
# On all hosts of a TPU slice (Cloud TPU VMs), where kdjax is installed with jax[tpu]:
#
#   launch/tpu_vm.sh TPU_NAME ZONE --config=RECIPE --workdir=/mnt/shared/NAME
#
# The processes find each other by the metadata of the VMs. The workdir has to be on a file system that all hosts
# share, such as Filestore, mounted at the same place.
set -eu

name=$1 zone=$2
shift 2
printf -v command ' %q' kdjax "$@"
exec gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
