"""An experiment: a recipe, a folder, and the four stages."""
