"""Methods on the class scores."""
