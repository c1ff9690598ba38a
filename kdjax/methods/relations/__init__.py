"""Methods on the relations between the examples of a batch."""
