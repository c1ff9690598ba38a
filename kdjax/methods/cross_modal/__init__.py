"""Methods between models, or parts of one, with different modalities as inputs."""
