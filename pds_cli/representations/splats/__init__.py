"""Gaussian splats: how they are drawn, fitted, edited and kept."""
