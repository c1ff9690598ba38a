"""Adds the recipes to the package, as kdjax.configs; pyproject.toml has everything else."""

from setuptools import find_packages, setup

setup(
  packages=[*find_packages(include=['kdjax*']), 'kdjax.configs', 'kdjax.configs.tables'],
  package_dir={'kdjax.configs': 'configs'},
)
