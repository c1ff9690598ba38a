"""Losses of the image generators of data-free distillation, one file each, found by name.

A file holds a keyword-only function of its own name that returns a `types.GeneratorLoss`.
"""
