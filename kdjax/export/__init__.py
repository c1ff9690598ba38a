"""A trained model in the formats of other runtimes, and those formats run, measured and compared."""
