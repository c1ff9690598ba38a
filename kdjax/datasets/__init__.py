"""Data sets: one file each, a function of the file's own name that returns a `DataSet`."""
