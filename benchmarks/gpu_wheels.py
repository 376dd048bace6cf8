"""Downloads the wheels that a bare GPU machine lacks, for `benchmarks/gpu_check.py`.

    python benchmarks/gpu_wheels.py [into=outputs/wheels] [python=3.12]

Such a machine has torch, transformers and the usual scientific packages, but no network. What it
lacks is in `LACKING`; versions are those of constraints.txt. Packages that only some verbs use
(pyvista, imageio-ffmpeg, pycolmap, trimesh) are left out: the device's tests do without them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from _words import options, refuse

ROOT = Path(__file__).resolve().parent.parent
LACKING = (
    *("diffusers", "importlib_metadata"),
    *("hydra-core", "omegaconf", "antlr4-python3-runtime", "hydra-joblib-launcher"),
    *("cssselect2", "tinycss2", "webencodings", "picosvg", "skia-pathops"),
)
SOURCES = ("antlr4-python3-runtime",)  # published as source alone; its wheel is built here
# pip takes a platform literally: each is a different promise about the C library.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
MOST = 10 * 2**20  # bytes; what travels beside the repository should be little


def pinned(names: tuple[str, ...]) -> list[str]:
    """`name==version` of each, by constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = {line.partition("==")[0].lower(): line for line in lines if "==" in line}
    return [found[name.lower()] for name in names]


def main(argv: list[str]) -> None:
    """Fills the folder anew, and says how large it is."""
    found = options(argv, {"into": "outputs/wheels", "python": "3.12"})
    into = Path(found["into"])
    if into.exists() and any(file.suffix != ".whl" for file in into.iterdir()):
        refuse(f"{into} holds other files than wheels: give another folder, into=…")
    shutil.rmtree(into, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"]
    platforms = [f"--platform={name}_x86_64" for name in PLATFORMS]
    wheels = tuple(name for name in LACKING if name not in SOURCES)
    for command in (
        [
            *(*pip, "download", "-q", "--no-deps", "--only-binary=:all:", *platforms),
            *(f"--python-version={found['python']}", "--implementation=cp", f"--dest={into}"),
            *pinned(wheels),
        ],
        [*pip, "wheel", "-q", "--no-deps", f"--wheel-dir={into}", *pinned(SOURCES)],
    ):
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)
    size = sum(file.stat().st_size for file in into.iterdir())
    print(f"{into}: {len(list(into.iterdir()))} wheels, {size / 2**20:.1f} MiB")
    if size > MOST:
        refuse(f"that is more than {MOST / 2**20:.0f} MiB: leave something out of LACKING")


if __name__ == "__main__":
    main(sys.argv[1:])
