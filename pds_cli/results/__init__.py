"""What a finished run shows: renders and their likeness, camera paths, meshes and points."""
