"""Layers, losses and functions over taps that models, methods and tasks share."""
