"""SVG drawings as a representation: what of a drawing moves, and what holds it together."""
