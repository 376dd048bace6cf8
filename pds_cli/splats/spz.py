"""Splats as SPZ files: a header, and one array a kind of number.

Versions 2 and 3 are gzip over all of it; in 4 each array is a stream of Zstandard, and a table says
how long they are. Written is version 3, which the most viewers take. Numbers stand as in a PLY
file: the format speaks of a world with y up, but what writes it from such files turns nothing.
Source: the format of https://github.com/nianticlabs/spz.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.splats.dotsplat import as_bytes, opacity_logit
from pds_cli.splats.ply import SplatFile, check_is_file, check_memory

MAGIC = b"NGSP"
_HEADER = struct.Struct("<4sIIBBBB")  # magic, version, count, degree, fractional bits, flags, more
_TABLE = struct.Struct("<QQ")  # bytes of a stream, and of what it unpacks to
_EXTENDED = 0x2  # flag: further records stand before the numbers
_COLOR = 0.15  # of a coefficient: colours beyond what can be shown have room
_DENSEST = 1 << 15  # bytes that are made of one, at most: runs of zeros in Zstandard
_FINEST = 20  # fractional bits


@dataclass(frozen=True)
class _Header:
    version: int
    count: int
    degree: int
    bits: int
    streams: int

    @property
    def bands(self) -> int:
        return (self.degree + 1) ** 2 - 1

    @property
    def widths(self) -> list[int]:
        """Bytes a splat of places, opacities, colours, scales, quaternions and harmonics."""
        found = [9, 1, 3, 3, 3 if self.version == 2 else 4, 3 * self.bands]
        return found if self.bands else found[:-1]


def read_spz(path: Path | str) -> SplatFile:
    """The Gaussians of an SPZ file of version 2, 3 or 4.

    Raises:
        UserError: not there, no SPZ file, one of another version or with extensions, or cut short.
    """
    path = Path(path)
    size = check_is_file(path)
    try:
        with path.open("rb") as file:
            plain = file.read(len(MAGIC)) == MAGIC
        header, parts = _later(path, size) if plain else _zipped(path, size)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no whole SPZ file: {error}") from error
    count = header.count
    levels = [torch.from_numpy(part.astype(np.float32)) for part in parts]
    harmonics = levels[5] if header.bands else torch.zeros(count, 0)
    return SplatFile(
        {
            "means": _fixed(parts[0], header.bits),
            "scales": levels[3] / 16 - 10,
            "quats": (_first_three if header.version == 2 else _smallest_three)(parts[4]),
            "opacities": opacity_logit(levels[1][:, 0]),
            "sh0": (levels[2] / 255 - 0.5) / _COLOR,
            "shN": ((harmonics - 128) / 128).view(count, header.bands, 3),
        }
    )


def _zipped(path: Path, size: int) -> tuple[_Header, list[np.ndarray]]:
    """Header and arrays [N,width] of bytes, of versions 2 and 3."""
    with gzip.open(path) as file:
        header = _checked(file.read(_HEADER.size), size, path, (2, 3))
        body = file.read(header.count * sum(header.widths))
    if len(body) < header.count * sum(header.widths):
        raise UserError(
            f"{path} is cut short: its header names {header.count:,} splats of degree "
            f"{header.degree}, and {len(body):,} of their bytes are there"
        )
    every, parts, at = np.frombuffer(body, np.uint8), [], 0
    for width in header.widths:
        parts.append(every[at : at + header.count * width].reshape(header.count, width))
        at += header.count * width
    return header, parts


def _later(path: Path, size: int) -> tuple[_Header, list[np.ndarray]]:
    """Header and arrays [N,width] of bytes, of version 4."""
    from zstandard import ZstdDecompressor, ZstdError

    data = path.read_bytes()
    header = _checked(data[: _HEADER.size], size, path, (4,))
    wanted = [header.count * width for width in header.widths]
    broken = UserError(f"{path} is no whole SPZ file: its table does not fit what follows")
    try:
        (table,) = struct.unpack_from("<I", data, _HEADER.size)
        if header.streams != len(wanted):
            raise broken
        rows = [_TABLE.unpack_from(data, table + i * _TABLE.size) for i in range(len(wanted))]
    except struct.error as error:
        raise broken from error
    at, parts = table + len(rows) * _TABLE.size, []
    for (packed, plain), length, width in zip(rows, wanted, header.widths, strict=True):
        if plain != length or at + packed > size:
            raise broken
        try:
            found = ZstdDecompressor().decompress(data[at : at + packed], max_output_size=length)
        except ZstdError as error:
            raise UserError(f"{path} is no whole SPZ file: {error}") from error
        if len(found) != length:
            raise broken
        parts.append(np.frombuffer(found, np.uint8).reshape(header.count, width))
        at += packed
    return header, parts


def write_spz(path: Path | str, splats: SplatFile) -> Path:
    """Writes splats. Places take the finest step that leaves room for the farthest of them.

    Raises:
        UserError: one lies farther off than the format can say, or no place to write.
    """
    held = {name: value.detach().cpu().float() for name, value in splats.tensors.items()}
    farthest = max(float(held["means"].abs().max()), 1e-9)
    bits = min(_FINEST, math.floor(math.log2((2**23 - 1) / farthest)))
    if bits < 0:
        raise UserError(
            f"{path} cannot be written: a splat lies {farthest:.3g} units off, and SPZ files reach "
            f"{2**23 - 1:,}; write format=splats"
        )
    fixed = (held["means"] * 2**bits).round().int().numpy().astype("<i4")
    turns = torch.nn.functional.normalize(held["quats"])
    step = torch.tensor([8] * 3 + [16] * 12)[: held["shN"].shape[1], None]  # 5 and 4 bits
    levels = ((128 + 128 * held["shN"]).round() + step // 2).div(step, rounding_mode="floor") * step
    parts = [
        fixed.view(np.uint8).reshape(len(splats), 3, 4)[:, :, :3],
        as_bytes(255 * torch.sigmoid(held["opacities"])),
        as_bytes(255 * (held["sh0"] * _COLOR + 0.5)),
        as_bytes(16 * (held["scales"] + 10)),
        _packed_turns(turns),
        as_bytes(levels),
    ]
    header = _HEADER.pack(MAGIC, 3, len(splats), splats.degree, bits, 0, 0)
    body = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(gzip.compress(header + body, mtime=0))
    return Path(path)


def _checked(found: bytes, size: int, path: Path, versions: tuple[int, ...]) -> _Header:
    """The header, if the file can be one of these versions and hold what it says."""
    if len(found) < _HEADER.size or not found.startswith(MAGIC):
        raise UserError(f"{path} is no SPZ file: what gzip holds does not begin as one")
    _, version, count, degree, bits, flags, streams = _HEADER.unpack(found)
    if version not in versions:
        raise UserError(f"{path} is an SPZ file of version {version}; 2, 3 and 4 can be read")
    if degree > 3 or bits > 23:
        raise UserError(f"{path} is damaged: harmonics of degree {degree}, {bits} fractional bits")
    if flags & _EXTENDED:
        raise UserError(f"{path} has extensions of the format, which are not read: save it as PLY")
    if not count:
        raise UserError(f"{path} holds no splats")
    if count * 19 > size * _DENSEST:
        raise UserError(
            f"{path} is cut short: its header names {count:,} splats, more than its {size:,} bytes "
            "can hold"
        )
    check_memory(path, count * (14 + 3 * ((degree + 1) ** 2 - 1)) * 12)
    return _Header(version, count, degree, bits, streams)


def _fixed(part: np.ndarray, bits: int) -> Tensor:
    """Numbers [N,3] of 24 bits with a sign, of which `bits` are behind the point."""
    whole = np.zeros((len(part), 3, 4), np.uint8)
    whole[:, :, 1:] = part.reshape(-1, 3, 3)  # times 256, so that the sign comes along
    found = whole.view("<i4")[:, :, 0].astype(np.float64) / 2 ** (8 + bits)
    return torch.from_numpy(found).float()


def _first_three(part: np.ndarray) -> Tensor:
    """Quaternions [N,4] (w,x,y,z) of version 2: x, y and z; w is not negative."""
    found = torch.from_numpy(part.astype(np.float32)) / 127.5 - 1
    real = (1 - found.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    return torch.nn.functional.normalize(torch.cat([real, found], 1))


def _smallest_three(part: np.ndarray) -> Tensor:
    """Quaternions [N,4] (w,x,y,z) of version 3.

    Two bits say which of (x,y,z,w) is the largest; the others follow with a sign and nine bits,
    in units of √½/511, the last in the lowest bits.
    """
    word = np.ascontiguousarray(part).view("<u4")[:, 0].astype(np.int64)
    largest, found = word >> 30, np.zeros((len(word), 4))
    for i in (3, 2, 1, 0):
        here = largest != i
        value = (word & 511) / 511 * math.sqrt(0.5) * np.where(word & 512, -1, 1)
        found[here, i] = value[here]
        word = np.where(here, word >> 10, word)
    rows = np.arange(len(word))
    found[rows, largest] = np.sqrt(np.clip(1 - np.square(found).sum(1), 0, 1))
    return torch.nn.functional.normalize(torch.from_numpy(found[:, [3, 0, 1, 2]]).float())


def _packed_turns(turns: Tensor) -> np.ndarray:
    """Four bytes [N,4] of each quaternion (w,x,y,z), as `_smallest_three` reads them."""
    found = turns[:, [1, 2, 3, 0]].double().numpy()
    largest = np.abs(found).argmax(1)
    found = found * np.where(found[np.arange(len(found)), largest] < 0, -1, 1)[:, None]
    word = largest.astype(np.int64)
    for i in range(4):
        level = np.floor(511 * np.abs(found[:, i]) / math.sqrt(0.5) + 0.5).astype(np.int64)
        piece = np.where(found[:, i] < 0, 512, 0) | np.minimum(level, 511)
        word = np.where(largest == i, word, (word << 10) | piece)
    return word.astype("<u4").view(np.uint8).reshape(-1, 4)
