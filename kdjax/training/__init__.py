"""One training: the step, its optimiser, devices, loop, checkpoints and evaluation."""
