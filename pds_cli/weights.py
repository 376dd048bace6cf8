"""Weights that take little room: int8 with a scale for each output channel.

The one reader and writer of packed weights. A matrix or kernel W [C,…] is stored as
q = round(W / s) with s_c = max|W_c| / 127 for its channel c, so that W ≈ s·q with an error of at
most s/2 (symmetric quantisation a channel: Krishnamoorthi, arXiv 1806.08342, section 3.1).
Vectors, and tensors of less than 1,024 numbers, are stored in half precision. What is read is
float32.
`pds_cli.pretraining.packing` packs a whole backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.runs.checkpoint import load_checkpoint, save_checkpoint

PACKED = "weights.safetensors"  # in the folder of a part, in place of the libraries' own file
_SCALE = ".scale"
_SMALLEST = 1024  # numbers of a tensor that is worth a scale
_REINSTALL = "install the package again"


def write_weights(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes float tensors packed, and others as they are; see the module.

    Raises:
        UserError: where the file cannot be written.
        ValueError: a tensor holds what is no finite number.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            stored[name] = tensor
        elif tensor.ndim < 2 or tensor.numel() < _SMALLEST:
            stored[name] = _half(name, tensor)
        else:
            stored[name], stored[name + _SCALE] = quantised(name, tensor)
    save_checkpoint(path, stored, dict(meta))


def read_weights(path: Path, what: str = _REINSTALL) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_weights` wrote: tensors on the CPU, floats as float32, and the metadata.

    Also reads files that hold floats alone, as those of `save_checkpoint`.

    what: to do where that fails, for the sentence.

    Raises:
        UserError: the file is missing, damaged, or a scale does not fit its tensor.
    """
    stored, meta = load_checkpoint(path, what)
    found: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        scale = stored.get(name + _SCALE)
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in stored:
            continue
        if scale is None:
            found[name] = tensor.float() if tensor.is_floating_point() else tensor
        elif tensor.dtype != torch.int8 or tensor.shape[:1] != scale.shape:
            raise UserError(f"{path} is damaged (its {name} has no scale that fits); {what}")
        else:
            found[name] = tensor.float() * scale.view(-1, *[1] * (tensor.ndim - 1))
    return found, meta


def quantised(name: str, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The int8 numbers of a tensor [C,…], and the scale [C] of each channel, float32."""
    values = tensor.detach().float()
    if not bool(values.isfinite().all()):
        raise ValueError(f"{name} holds what is no finite number")
    scale = values.flatten(1).abs().amax(1) / 127
    safe = torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (values.ndim - 1))
    return (values / safe).round().clamp(-127, 127).to(torch.int8), scale


def _half(name: str, tensor: Tensor) -> Tensor:
    """A tensor in half precision, where it fits."""
    half = tensor.detach().half()
    if not bool(half.isfinite().all()):
        raise ValueError(f"{name} does not fit half precision")
    return half
