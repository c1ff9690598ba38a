"""What a generator of images is trained for where there are no data, one file each, found by name.

A file holds a keyword-only function of its own name that returns a `types.GeneratorLoss`.
"""
