"""Methods without a trained teacher: models that learn together, or from themselves."""
