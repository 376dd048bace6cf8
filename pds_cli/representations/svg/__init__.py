"""SVG drawings: reading, rasterising with gradients, and writing."""
