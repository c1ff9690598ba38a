"""Methods for language models that read images, and for their image encoders."""
