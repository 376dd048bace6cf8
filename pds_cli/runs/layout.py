"""The names of a run folder's files, for those who write and those who read them."""

from pathlib import Path

EXPORTS = Path("exports")
RESULT_3D = EXPORTS / "result.safetensors"  # a 3D scene, whatever its representation
CAMERAS = EXPORTS / "cameras.json"
