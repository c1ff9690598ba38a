"""Models that compose encoders of several modalities."""
