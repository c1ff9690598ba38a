"""Models of sequences of vectors: sensors, skeletons, features."""
