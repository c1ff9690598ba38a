"""Methods that choose a temperature or a weight for each example or step."""
