"""Methods between models, or parts of one, that see different modalities."""
