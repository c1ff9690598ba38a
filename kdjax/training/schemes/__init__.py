"""Other trainings: forks of `training.step`, one file each."""
