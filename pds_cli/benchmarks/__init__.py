"""What `pds compare benchmark=` runs: the toybox, NeRFs, icons, and the paper with real models."""
