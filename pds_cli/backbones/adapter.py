"""Adapters: what is trained beside the frozen UNet of another backbone, its base.

An adapter is a LoRA on chosen layers, and the weights of input channels that the base has not. Its
folder holds no parts: `model_index.json` names the base, with a hash of what the base predicts
with, and `adapter.safetensors` holds the factors A and B of each layer and the new channels. When
it is loaded they are merged into the base's UNet, so that a prediction costs what it always does.

Source: Hu et al., LoRA, ICLR 2022, arXiv 2106.09685.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pds_cli.backbones.lora import ATTENTION, adapter_parameters, add_lora
from pds_cli.options.pretraining import ADAPTED
from pds_cli.runs.checkpoint import check_state

FILE = "adapter.safetensors"
_NAME = "adapter"  # what peft calls it
_INPUT = "conv_in"
_MORE = f"{_INPUT}.more"


@dataclass(frozen=True)
class Adapter:
    """What `model_index.json` says of an adapter.

    base: a backbone by its name, or as a folder, absolute or seen from the adapter's own.
    sha256: of the base, see `weights_hash`.
    rank, layers: of the LoRA, see `layers_of`.
    in_channels: of the UNet with the adapter.
    """

    base: str
    sha256: str
    rank: int
    layers: tuple[str, ...]
    in_channels: int

    def index(self) -> dict[str, Any]:
        """As an entry of `model_index.json`; the inverse of `of`."""
        return {**vars(self), "layers": list(self.layers)}

    @classmethod
    def of(cls, entry: Any) -> Adapter:
        """Reads what `index` gave.

        Raises:
            ValueError, TypeError, KeyError: it is no such entry.
        """
        found = cls(**{**entry, "layers": tuple(entry["layers"])})
        for text in (found.base, found.sha256, *found.layers):
            if not isinstance(text, str) or not text.isprintable():
                raise ValueError(f"its adapter says {text!r:.40} where a text should be")
        if not set(found.layers) <= set(ADAPTED):
            raise ValueError(f"its adapter is not of layers among {', '.join(ADAPTED)}")
        for number in (found.rank, found.in_channels):
            if type(number) is not int or not 1 <= number <= 4096:
                raise ValueError(f"its adapter says {number!r:.40} where a size should be")
        return found


def layers_of(unet: Any, kinds: Sequence[str]) -> list[str]:
    """The names of a UNet's layers of these kinds, but for its input.

    kinds: of `attention` (the matrices of queries, keys, values and outputs), `linear` (the other
    matrices) and `convolution`.
    """
    return [name for name, kind in _kinds(unet) if kind in kinds and name != _INPUT]


def _kinds(unet: Any) -> Iterator[tuple[str, str]]:
    attention = tuple(f".{end}" for end in ATTENTION)
    for name, module in unet.named_modules():
        if isinstance(module, nn.Conv2d):
            yield name, "convolution"
        elif isinstance(module, nn.Linear):
            yield name, "attention" if name.endswith(attention) else "linear"


class WidenedConv(nn.Module):
    """A convolution that sees further channels, with weights of their own that begin at zero."""

    def __init__(self, conv: nn.Conv2d, more: int) -> None:
        super().__init__()
        self.conv = conv
        self.more = nn.Parameter(conv.weight.new_zeros(len(conv.weight), more, *conv.kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        """[B,C+more,h,w] → [B,out,h,w]."""
        weight = torch.cat([self.conv.weight, self.more], 1)
        return F.conv2d(x, weight, self.conv.bias, padding=self.conv.padding)


def attach(unet: Any, rank: int, kinds: Sequence[str], in_channels: int) -> None:
    """Freezes a UNet and gives it an adapter to train, which changes nothing yet.

    Args:
        kinds: see `layers_of`.
        in_channels: that the input shall have; those beyond the UNet's own are not yet looked at.

    Raises:
        UserError: a rank above the width of the layers.
    """
    unet.requires_grad_(False)
    add_lora(unet, _NAME, rank, layers=layers_of(unet, kinds))
    more = in_channels - unet.config.in_channels
    if more > 0:
        unet.conv_in = WidenedConv(unet.conv_in, more)
        unet.register_to_config(in_channels=in_channels)


def adapter_tensors(unet: Any) -> dict[str, Tensor]:
    """What `attach` added, by the names that it has in the file: see `_wanted`."""
    found = {
        name.removesuffix(f".{_NAME}.weight"): parameter.detach()
        for name, parameter in adapter_parameters(unet, _NAME).items()
    }
    more = isinstance(unet.conv_in, WidenedConv)
    return found | ({_MORE: unet.conv_in.more.detach()} if more else {})


def _wanted(unet: Any, adapter: Adapter) -> dict[str, Tensor]:
    """The names and shapes of an adapter's tensors for its base's UNet, of no weight.

    `<layer>.lora_A` [R,in] or [R,in,k,k], `<layer>.lora_B` [out,R] or [out,R,1,1], and
    `conv_in.more` [out,more,k,k].
    """
    shapes: dict[str, Sequence[int]] = {}
    for layer in layers_of(unet, adapter.layers):
        out, *inside = unet.get_submodule(layer).weight.shape
        shapes[f"{layer}.lora_A"] = (adapter.rank, *inside)
        shapes[f"{layer}.lora_B"] = (out, adapter.rank, *[1] * (len(inside) - 1))
    out, own, *kernel = unet.conv_in.weight.shape
    if adapter.in_channels > own:
        shapes[_MORE] = (out, adapter.in_channels - own, *kernel)
    return {name: torch.zeros(()).expand(*shape) for name, shape in shapes.items()}


@torch.no_grad()
def merge(unet: Any, tensors: Mapping[str, Tensor], adapter: Adapter) -> None:
    """Adds an adapter to its base's UNet: W ← W + B A for each layer, and the new channels.

    Raises:
        ValueError: tensors are missing or too many, of other shapes, or hold infinity; or the base
            sees more than the adapter.
    """
    if adapter.in_channels < unet.config.in_channels:
        raise ValueError(f"its adapter sees less than the {unet.config.in_channels} of its base")
    wanted = _wanted(unet, adapter)
    check_state(tensors, wanted)
    if len(tensors) != len(wanted):
        raise ValueError(f"its {min(tensors.keys() - wanted.keys())} belongs to no layer")
    for layer in layers_of(unet, adapter.layers):
        down, up = (tensors[f"{layer}.lora_{factor}"] for factor in "AB")
        weight = unet.get_submodule(layer).weight
        weight += (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    if _MORE in wanted:
        conv = unet.conv_in
        conv.weight = nn.Parameter(torch.cat([conv.weight, tensors[_MORE]], 1))
        conv.in_channels = adapter.in_channels
        unet.register_to_config(in_channels=adapter.in_channels)


def weights_hash(unet: Any, text_encoder: Any, vae: Any) -> str:
    """SHA-256 of the numbers that a backbone predicts with, however they are stored.

    That is the UNet without an adapter beside it, the text encoder, the matrix that makes the
    latents and their spreads. The decoder is none of it: it may be trained further without harm
    to adapters.
    """
    found = hashlib.sha256()
    latents = {"encoder": vae.encoder, "mean": vae.mean}
    latents |= {} if vae.spread is None else {"spread": vae.spread}
    for state in (_without(unet), text_encoder.state_dict(), latents):
        for name, tensor in sorted(state.items()):
            found.update(f"{name} {list(tensor.shape)}\n".encode())
            found.update(tensor.detach().cpu().float().contiguous().numpy())
    return found.hexdigest()


def _without(unet: Any) -> dict[str, Tensor]:
    """The weights of a UNet by their own names, without those that `attach` put beside them."""
    return {
        name.replace(".base_layer.", ".").replace(f"{_INPUT}.conv.", f"{_INPUT}."): tensor
        for name, tensor in unet.state_dict().items()
        if f".{_NAME}." not in name and name != _MORE
    }


def base_name(base: Path, folder: Path, packaged: Path) -> str:
    """How the adapter in `folder` names its base: by name where it ships, else seen from there."""
    if base.parent == packaged:
        return base.name
    try:
        return os.path.relpath(base.resolve(), folder.resolve())
    except ValueError:  # another drive
        return str(base.resolve())


def base_folder(adapter: Adapter, folder: Path, packaged: Path) -> Path:
    """The folder of the base of the adapter in `folder`; the inverse of `base_name`."""
    ships = Path(adapter.base).name == adapter.base and os.path.isdir(packaged / adapter.base)
    seen = packaged if ships else folder.resolve()
    return Path(os.path.normpath(seen / adapter.base))
