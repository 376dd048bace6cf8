"""SVG drawings: reading, outlines, paints, rasterising with gradients, and writing."""
