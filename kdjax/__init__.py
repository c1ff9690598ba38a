"""kdjax: distil large multimodal teachers into small students, in JAX and Flax."""

__version__ = '0.1.0'
