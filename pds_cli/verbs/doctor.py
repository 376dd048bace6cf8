"""pds doctor: versions, the device, and which optional parts work here; it never fails."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from pds_cli.errors import UserError

HELP = "versions, device, which optional parts are usable and how to get the others"
CONFIG = None

PACKAGES = [
    "pds",
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "hydra-core",
    "omegaconf",
    "numpy",
    "numba",
    "pillow",
]
# Part → (module, what it is for, how to get it).
PARTS = {
    "pyvista": ("pyvista", "renders the toybox world", "pip install pyvista"),
    "pycolmap": (
        "pycolmap",
        "pds import",
        "pip install pycolmap",
    ),
    "tensorboard": ("tensorboard", "logger=tensorboard", "pip install tensorboard"),
    "wandb": ("wandb", "logger=wandb", "pip install wandb"),
    "joblib": (
        "hydra_plugins.hydra_joblib_launcher",
        "parallel sweeps, hydra/launcher=joblib",
        "pip install hydra-joblib-launcher",
    ),
    "tinycudann": (
        "tinycudann",
        "hash grids of NeRFs on CUDA; without it they run in PyTorch",
        'pip install "git+https://github.com/NVlabs/tiny-cuda-nn#subdirectory=bindings/torch" '
        "(needs nvcc)",
    ),
    "gsplat": (
        "gsplat",
        "draws Gaussian splats on CUDA; without it plain PyTorch does, slowly",
        "pip install gsplat",
    ),
}


def main(argv: list[str]) -> int:
    """Prints what is here; always returns 0.

    Raises:
        UserError: words, of which it takes none.
    """
    if argv:
        raise UserError(f"doctor takes no words, and {argv[0]!r} is one: pds doctor alone.")
    from rich.console import Console
    from rich.text import Text

    # Long lines stay whole: commands in them are there to be copied.
    console = Console(highlight=False, soft_wrap=True)
    for name, value in report():
        console.print(Text.assemble((f"{name:<14}", "bold"), value))
    return 0


def report() -> list[tuple[str, str]]:
    """Rows of (part, state)."""
    rows = [("python", f"{platform.python_version()} at {sys.executable}")]
    rows += [(name, _version(name)) for name in PACKAGES]
    rows.append(("device", _guarded(_device)))
    for name in PARTS:
        rows.append((name, _guarded(partial(_part, name))))
    return rows


def _guarded(look: Callable[[], str]) -> str:
    try:
        return look()
    except Exception as error:
        return (
            f"broken ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
        )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        if name == "pds":
            from pds_cli.version import __version__

            return f"{__version__} (not installed, run from its folder)"
        return "missing"


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        build = "a CPU build" if torch.version.cuda is None else f"built for {torch.version.cuda}"
        return (
            f"CPU, {torch.get_num_threads()} threads; no CUDA (torch is {build}; "
            "https://pytorch.org/get-started/locally/ names the build for a GPU)"
        )
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}: {', '.join(names)}"


def _part(name: str) -> str:
    module, purpose, how = PARTS[name]
    try:
        there = find_spec(module) is not None
    except ModuleNotFoundError:
        there = False
    if not there:
        return f"missing: {purpose}; {how}"
    return f"{_probe(name)}: {purpose}"


def _probe(name: str) -> str:
    """CUDA-only packages may be installed and still not load."""
    if name in ("tinycudann", "gsplat"):
        import torch

        if not torch.cuda.is_available():
            return "installed, idle without CUDA"
        __import__(name)
    return "usable"
