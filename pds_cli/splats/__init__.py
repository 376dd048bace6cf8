"""Gaussian splats as such: drawing them, turning them, and their files."""
