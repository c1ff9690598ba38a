# kdjax on NVIDIA GPUs; CUDA's libraries come with jax[cuda12], the driver with the host.
#
#   docker build -f launch/gpu.Dockerfile -t kdjax-gpu .
#   docker run --gpus=all --shm-size=8g -v /data:/data -v /runs:/runs kdjax-gpu \
#     kdjax --config=quickstart --workdir=/runs/quickstart --data_dir=/data
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /kdjax
COPY requirements.txt requirements-cpu.txt pyproject.toml setup.py README.md LICENSE ./
RUN pip install -r requirements.txt
COPY kdjax kdjax
COPY configs configs
RUN pip install --no-deps .

WORKDIR /runs
CMD ["kdjax", "--help"]
