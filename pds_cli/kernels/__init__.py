"""Numba CPU kernels with hand-written adjoints; nothing else in the package knows Numba."""
