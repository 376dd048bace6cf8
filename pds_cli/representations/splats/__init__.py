"""Gaussian splats as parameters: where they begin, density control, and the representation."""
