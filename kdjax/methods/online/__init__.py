"""Methods without a teacher that was trained before: models that learn together, or from themselves."""
