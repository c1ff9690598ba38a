"""Distillation methods: one file each, `methods/<family>/<name>.py`, found by name.

A method file holds a function of the file's own name that returns a `Method`, and `WEIGHT`, the
weight that its paper or the named repository gives it for the reduction used here.
"""
