"""Splats as PLY files, in the layout that 3DGS writes and everyone reads.

One element `vertex` with x y z, f_dc_0…2, f_rest_0… (channel after channel), opacity (a logit),
scale_0…2 (logarithms) and rot_0…3 (w, x, y, z). Numbers are taken as they stand, so what is not
edited goes back bit for bit; other properties, other elements and comments are kept.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError, first_line
from pds_cli.files import atomic_path

PARTS = {
    "means": ("x", "y", "z"),
    "sh0": ("f_dc_0", "f_dc_1", "f_dc_2"),
    "opacities": ("opacity",),
    "scales": ("scale_0", "scale_1", "scale_2"),
    "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
}
_COEFFICIENTS = {0: 0, 9: 1, 24: 2, 45: 3}  # numbers in f_rest → degree
_LONGEST_HEADER = 1 << 16
_HELD = 12  # bytes a number while a file is read: as it stands, and twice as float32


@dataclass(frozen=True)
class SplatFile:
    """Gaussians as a file has them.

    Attributes:
        tensors: `means`, `scales`, `sh0` [N,3], `quats` [N,4], `opacities` [N], and `shN`
            [N,(degree+1)²−1,3]; float32, scales as logarithms, opacities as logits.
        source: what `write_ply` copies all else from; None: nothing.
    """

    tensors: dict[str, Tensor]
    source: Any = None

    @property
    def degree(self) -> int:
        """Of the harmonics, 0 to 3."""
        return round((self.tensors["shN"].shape[1] + 1) ** 0.5) - 1

    def __len__(self) -> int:
        return len(self.tensors["means"])


def read_ply(path: Path | str) -> SplatFile:
    """The Gaussians of a PLY file, ascii or binary of either byte order.

    Raises:
        UserError: not there, no PLY, one of a mesh or a point cloud, cut short, of another number
            of coefficients than any degree has, or with numbers that are not finite.
    """
    from plyfile import PlyData, PlyParseError

    path = Path(path)
    _check_file(path)
    try:
        found = PlyData.read(str(path))
    except (PlyParseError, ValueError, OSError, MemoryError, IndexError) as error:
        raise UserError(
            f"{path} is a PLY file that cannot be read: {first_line(error)}; it may be cut short"
        ) from error
    if "vertex" not in found or not len(found["vertex"].data):
        raise UserError(f"{path} holds no points: splats stand in an element named vertex")
    rows = found["vertex"].data
    names = set(rows.dtype.names or ())
    missing = [n for part in PARTS.values() for n in part if n not in names]
    if missing:
        mesh = " (it is a mesh)" if "face" in found else ""
        raise UserError(
            f"{path} holds no splats{mesh}: its vertices have no {', '.join(missing[:4])}; give a "
            "file that a 3DGS trainer wrote"
        )
    rest = sum(name.startswith("f_rest_") for name in names)
    if rest not in _COEFFICIENTS or any(f"f_rest_{i}" not in names for i in range(rest)):
        raise UserError(
            f"{path} has {rest} properties f_rest_…: harmonics of degree 0, 1, 2 and 3 have 0, 9, "
            "24 and 45, numbered from 0"
        )
    tensors = {part: _columns(rows, columns, path) for part, columns in PARTS.items()}
    tensors["opacities"] = tensors["opacities"][:, 0]
    flat = _columns(rows, _rest(rest), path)
    tensors["shN"] = flat.view(len(rows), 3, rest // 3).transpose(1, 2).contiguous()
    return SplatFile(tensors, found)


def write_ply(path: Path | str, splats: SplatFile) -> Path:
    """Writes splats, over a copy of the file that they came from where there is one.

    Raises:
        UserError: no place to write.
    """
    from plyfile import PlyData, PlyElement

    tensors, source = splats.tensors, splats.source
    rest = 3 * tensors["shN"].shape[1]
    columns = dict(_named(tensors, rest))
    if source is None:
        normals = {name: np.zeros(len(splats), np.float32) for name in ("nx", "ny", "nz")}
        order = [*"xyz", *normals, *PARTS["sh0"], *_rest(rest), "opacity"]
        order += [*PARTS["scales"], *PARTS["quats"]]
        rows = np.empty(len(splats), [(name, "<f4") for name in order])
        for name in order:
            rows[name] = columns.get(name, normals.get(name))
        data = PlyData([PlyElement.describe(rows, "vertex")], byte_order="<")
    else:
        rows = source["vertex"].data.copy()
        for name, values in columns.items():
            changed = rows[name].astype(np.float32) != values
            rows[name][changed] = values[changed]
        elements = []
        for element in source.elements:
            if element.name == "vertex":
                element = PlyElement.describe(rows, "vertex", comments=element.comments)
            elements.append(element)
        data = PlyData(
            elements,
            text=source.text,
            byte_order=source.byte_order,
            comments=source.comments,
            obj_info=source.obj_info,
        )
    with atomic_path(path) as temporary:
        data.write(str(temporary))
    return Path(path)


def _rest(count: int) -> tuple[str, ...]:
    return tuple(f"f_rest_{i}" for i in range(count))


def _named(tensors: dict[str, Tensor], rest: int) -> Any:
    """Pairs of a property's name and its float32 values [N]."""
    for part, names in PARTS.items():
        values = tensors[part].detach().cpu().float().reshape(-1, len(names)).numpy()
        yield from zip(names, values.T, strict=True)
    flat = tensors["shN"].detach().cpu().float().transpose(1, 2).flatten(1).numpy()
    yield from zip(_rest(rest), flat.T, strict=True)


def _columns(rows: Any, names: tuple[str, ...], path: Path) -> Tensor:
    """Properties [N,K] as float32.

    Raises:
        UserError: one is no number, or not finite.
    """
    found = np.empty((len(rows), len(names)), np.float32)
    for k, name in enumerate(names):
        if rows.dtype[name].kind not in "fiu":
            raise UserError(f"{path} is damaged: its {name} is a list, not a number")
        found[:, k] = rows[name]
        wrong = ~np.isfinite(found[:, k])
        if wrong.any():
            raise UserError(
                f"{path} is damaged: {name} of {int(wrong.sum()):,} of its {len(rows):,} splats "
                "is not finite; remove those (most viewers' editors can)"
            )
    return torch.from_numpy(found)


def check_is_file(path: Path) -> int:
    """The size in bytes of a file that is to be read.

    Raises:
        UserError: it is not there, or no ordinary file.
    """
    try:
        facts = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise UserError(f"{path} is no file: give the splat file itself")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: you have no permission to")
    return facts.st_size


def _check_file(path: Path) -> None:
    """Whether a PLY file can hold as many rows as it says, before memory is asked for.

    Raises:
        UserError: it is no ordinary file, no PLY, too short, or more than memory holds.
    """
    size = check_is_file(path)
    with path.open("rb") as file:
        head = file.read(_LONGEST_HEADER)
    if not head.startswith((b"ply\n", b"ply\r")):
        raise UserError(f"{path} is no PLY file: those begin with the word ply")
    lines = head.partition(b"end_header")[0].decode("ascii", "replace").split("\n")
    least = numbers = 0
    count, text = 0, any("format ascii" in line for line in lines)
    for line in lines:
        words = line.split()
        if words[:1] == ["element"] and len(words) == 3:
            count = int(words[2]) if words[2].isdigit() else 0
        elif words[:1] == ["property"]:
            least += count * (2 if text else 1)
            numbers += count
    if least > size:
        raise UserError(
            f"{path} is cut short: its header names more numbers than its {size:,} bytes can hold"
        )
    check_memory(path, _HELD * numbers)


def check_memory(path: Path, needed: int) -> None:
    """Refuses a file that needs more bytes than this machine has.

    Raises:
        UserError: with both numbers.
    """
    there = memory()
    if there is not None and needed > there:
        raise UserError(
            f"{path} needs {needed / 2**30:.1f} GiB of memory, and this machine has "
            f"{there / 2**30:.1f}: give a file of fewer splats, or of a lower degree"
        )


def memory() -> int | None:
    """Bytes of memory that this machine has; None where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
