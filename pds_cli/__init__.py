"""Text-driven editing of parametric images with Posterior Distillation Sampling.

`edit` runs an edit, `load_run` reads a run folder; `docs/python.md` shows both.
"""

from typing import TYPE_CHECKING, Any

from pds_cli.version import __version__

if TYPE_CHECKING:
    from pds_cli.errors import UserError
    from pds_cli.python import Run, edit, load_run

__all__ = ["Run", "UserError", "__version__", "edit", "load_run"]

_HOMES = {
    "Run": "pds_cli.python",
    "UserError": "pds_cli.errors",
    "edit": "pds_cli.python",
    "load_run": "pds_cli.python",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for, so that `import pds_cli` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = found = getattr(import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
