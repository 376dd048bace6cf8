"""Mixed precision of training: where bfloat16 is quicker than single precision, and how it is used.

Weights, their moments and their average stay in single precision; convolutions and matrix products
run in bfloat16 (Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, arXiv 1905.12322).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from pds_cli.errors import check_choice
from pds_cli.options.verbs import PRECISIONS


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """`float32` or `bfloat16`; `auto` takes what the device multiplies quicker.

    That is bfloat16 on CUDA and on processors with instructions for it (AMX, AVX-512 BF16). Others
    emulate it, several times slower than single precision.

    Raises:
        UserError: another name.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision != "auto":
        return precision
    cuda = torch.device(device).type == "cuda"
    return "bfloat16" if cuda or _multiplies_bfloat16() else "float32"


def _multiplies_bfloat16() -> bool:
    """Whether this processor has instructions for products in bfloat16."""
    # PyTorch has no public name for these; one that is gone means: not known to have them.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)


def mixed(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context that a forward pass runs in; `precision` as `resolve_precision` gives it."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def prepare(precision: str, device: torch.device, modules: Iterable[Any]) -> None:
    """Lets attention be plain matrix products where its fused form is slow to train.

    On a CPU the backward pass of PyTorch's fused attention takes half of a training step in
    bfloat16 (docs/performance.md); as two products and a softmax it is quick. The result is the
    same but for rounding.

    Args:
        modules: networks of diffusers or transformers; others are left as they are.
    """
    if precision == "float32" or device.type != "cpu":
        return
    from diffusers.models.attention_processor import AttnProcessor

    for module in modules:
        if hasattr(module, "set_attn_processor"):
            module.set_attn_processor(AttnProcessor())
        elif hasattr(module, "set_attn_implementation"):
            module.set_attn_implementation("eager")
        for norm in module.modules():
            if isinstance(norm, nn.GroupNorm):
                _normalise_in_single(norm)


def _normalise_in_single(norm: nn.GroupNorm) -> None:
    """On channels-last pictures its backward pass takes two to four times as long in bfloat16."""
    inner = norm.forward
    norm.forward = lambda input: inner(input.float()).to(input.dtype)  # type: ignore[method-assign]
