"""Splat files of any kind: read by what they hold, written by the name of a format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pds_cli.errors import UserError
from pds_cli.splats.dotsplat import read_splat, write_splat
from pds_cli.splats.ply import SplatFile, check_is_file, read_ply, write_ply
from pds_cli.splats.spz import MAGIC, read_spz, write_spz

Write = Callable[[Path, SplatFile], Path]
WRITERS: dict[str, tuple[str, Write]] = {
    "splats": ("splats.ply", write_ply),
    "splat": ("splats.splat", write_splat),
    "spz": ("splats.spz", write_spz),
}
"""Format of `pds export` → name of the file, and what writes it."""


def read_splats(path: Path | str) -> SplatFile:
    """The Gaussians of a PLY, SPZ or `.splat` file; the last is known by its name alone.

    Raises:
        UserError: not there, of no kind that is known, or damaged.
    """
    path = Path(path)
    check_is_file(path)
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(b"ply"):
        return read_ply(path)
    if head.startswith(b"\x1f\x8b") or head == MAGIC:
        return read_spz(path)
    if path.suffix.lower() == ".splat":
        return read_splat(path)
    raise UserError(
        f"{path} is no splat file: those are PLY (they begin with the word ply), SPZ, and .splat"
    )
