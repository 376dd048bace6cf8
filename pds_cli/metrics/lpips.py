"""LPIPS v0.1 with the AlexNet trunk, in plain torch, with its published weights."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from pds_cli.errors import UserError
from pds_cli.weights import read_weights

WEIGHTS = Path(__file__).resolve().parent.parent / "data" / "lpips_alexnet_v0_1.safetensors"
MIN_SIDE = 31
"""Shortest side in pixels that leaves something after AlexNet's two poolings."""

_CHANNELS = (64, 192, 384, 256, 256)


class Lpips(nn.Module):
    """Learned perceptual distance between images; 0 is equal, larger is further.

    Source: Zhang, Isola, Efros, Shechtman, Wang, The Unreasonable Effectiveness of Deep Features
    as a Perceptual Metric, CVPR 2018, arXiv 1801.03924, eq. 1; version 0.1, linear heads on
    AlexNet. The weights are frozen; the distance is differentiable in the images.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(3, 64, 11, stride=4, padding=2),
                "3": nn.Conv2d(64, 192, 5, padding=2),
                "6": nn.Conv2d(192, 384, 3, padding=1),
                "8": nn.Conv2d(384, 256, 3, padding=1),
                "10": nn.Conv2d(256, 256, 3, padding=1),
            }
        )
        for i, channels in enumerate(_CHANNELS):
            setattr(self, f"lin{i}", nn.Conv2d(channels, 1, 1, bias=False))
        # ImageNet's channel statistics, on the [-1,1] scale.
        shape = (1, 3, 1, 1)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).reshape(shape), False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).reshape(shape), False)
        self._read_weights()
        self.requires_grad_(False).eval()

    def forward(self, a: Tensor, b: Tensor, *, signed: bool = False) -> Tensor:
        """Distance [B] between images [B,3,H,W] (or [3,H,W]).

        Args:
            a, b: images in [0,1], or in [−1,1] with `signed`.
            signed: the images are in [−1,1].

        Raises:
            ValueError: the shapes differ or are not of colour images.
            UserError: a side is shorter than `MIN_SIDE`.
        """
        if a.shape != b.shape or a.ndim not in (3, 4) or a.shape[-3] != 3:
            raise ValueError(f"lpips compares [B,3,H,W] of one shape, not {a.shape} and {b.shape}")
        if min(a.shape[-2:]) < MIN_SIDE:
            raise UserError(
                f"LPIPS needs images of at least {MIN_SIDE}×{MIN_SIDE} pixels, not "
                f"{a.shape[-2]}×{a.shape[-1]}: compare them at a larger size"
            )
        pair = torch.stack([x if x.ndim == 4 else x[None] for x in (a, b)]).float()
        batch = pair.shape[1]
        pair = pair if signed else 2 * pair - 1
        maps = self._maps((pair.flatten(0, 1) - self.shift) / self.scale)
        total = torch.zeros(batch, device=pair.device)
        for i, unit in enumerate(maps):
            difference = (unit[:batch] - unit[batch:]).square()
            total = total + getattr(self, f"lin{i}")(difference).mean(dim=(1, 2, 3))
        return total

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Channel-normalised activations of AlexNet's five convolutions."""
        maps = []
        for name, layer in self.features.items():
            if name in ("3", "6"):
                x = nn.functional.max_pool2d(x, 3, stride=2)
            x = torch.relu(layer(x))
            # The constant keeps the gradient finite where all activations are zero.
            maps.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-20).sqrt())
        return maps

    def _read_weights(self) -> None:
        tensors, _ = read_weights(WEIGHTS)
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            raise UserError(f"{WEIGHTS} is damaged: install the package again") from error


@lru_cache(maxsize=2)
def _shared(device: str) -> Lpips:
    return Lpips().to(device)


def lpips(a: Tensor, b: Tensor, *, signed: bool = False) -> Tensor:
    """LPIPS [B] of images [B,3,H,W] (or [3,H,W]) in [0,1], or in [−1,1] with `signed`.

    Loads the weights once for each device; see `Lpips`.
    """
    distance: Tensor = _shared(str(a.device))(a, b, signed=signed)
    return distance
