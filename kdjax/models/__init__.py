"""Linen modules: one file each, `models/<modality>/<name>.py`, found by name.

A model file holds a Linen module of the file's own name (case and underscores aside) that maps
`(inputs, train)` to a flat dict of taps. `inputs` has the keys of a Batch.
"""
