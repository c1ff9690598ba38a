"""Methods for models with an image and a text tower, as CLIP has."""
