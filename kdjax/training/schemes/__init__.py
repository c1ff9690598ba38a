"""Training schemes other than `training.step`: forks of it, one file each."""
