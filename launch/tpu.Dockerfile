# kdjax on Cloud TPU VMs and TPU pods of GKE.
#
#   docker build -f launch/tpu.Dockerfile -t kdjax-tpu .
#   docker run --privileged --net=host -v /data:/data -v /runs:/runs kdjax-tpu \
#     kdjax --config=quickstart --workdir=/runs/quickstart --data_dir=/data
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /kdjax
COPY requirements-cpu.txt pyproject.toml setup.py README.md LICENSE ./
RUN pip install -r requirements-cpu.txt "jax[tpu]>=0.8.1,<0.13"
COPY kdjax kdjax
COPY configs configs
RUN pip install --no-deps .

WORKDIR /runs
CMD ["kdjax", "--help"]
