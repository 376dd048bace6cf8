"""Neural radiance fields: a hash-grid field, volume rendering, and the representation."""
