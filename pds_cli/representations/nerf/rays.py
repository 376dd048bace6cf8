"""Rays of pixels, and renders of more of them than fit into memory with their graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pds_cli.views.cameras import Camera


@dataclass(frozen=True)
class Rays:
    """A batch of rays.

    origins, directions: [R,3]. jitter: [R] in (0,1]. background: [R,3], what is behind them.
    view: [R], whose appearance they show; −1: nobody's.
    """

    origins: Tensor
    directions: Tensor
    jitter: Tensor
    background: Tensor
    view: Tensor

    def to(self, device: torch.device) -> Rays:
        """The same on a device."""
        return Rays(*(getattr(self, f.name).to(device) for f in fields(self)))

    def split(self, size: int) -> list[Rays]:
        """Pieces of at most `size` rays."""
        parts = [getattr(self, f.name).split(size) for f in fields(self)]
        return [Rays(*part) for part in zip(*parts, strict=True)]

    @staticmethod
    def cat(several: Sequence[Rays]) -> Rays:
        """All rays of several batches."""
        return Rays(*(torch.cat([getattr(r, f.name) for r in several]) for f in fields(Rays)))


def pixel_rays(
    camera: Camera,
    pixels: Tensor,
    background: str,
    view: int,
    generator: torch.Generator | None,
) -> Rays:
    """Rays through pixels [R] of a camera, row by row, in world units.

    Args:
        background: `white`, `black`, `random` (one colour for all), or another word for grey.
        view: whose appearance they show; −1: nobody's.
        generator: draws jitter and colour; None: no jitter, and grey.
    """
    origins, directions = camera.rays(pixels)
    count = len(pixels)
    jitter = torch.ones(count)
    behind = torch.full((count, 3), {"white": 1.0, "black": 0.0}.get(background, 0.5))
    if generator is not None:
        jitter = 1 - torch.rand(count, generator=generator)
        if background == "random":
            behind = torch.rand(3, generator=generator).expand(count, 3)
    return Rays(origins, directions, jitter, behind, torch.full((count,), view))


def recomputed(
    render: Callable[[Rays], Tensor], rays: Rays, chunk: int, parameters: Sequence[Tensor]
) -> Tensor:
    """`render` of all rays, in chunks; for the gradient each chunk is rendered once more.

    Memory does not grow with the number of rays: one chunk's graph exists at a time.

    Args:
        render: rays → [R,…], a function of the parameters.
        parameters: those that receive a gradient.
    """
    found: Tensor = _Recomputed.apply(render, rays, chunk, *parameters)
    return found


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, render: Callable[[Rays], Tensor], rays: Rays, chunk: int, *parameters: Tensor
    ) -> Tensor:
        ctx.render, ctx.rays, ctx.chunk, ctx.parameters = render, rays, chunk, parameters
        with torch.no_grad():
            return torch.cat([render(part) for part in rays.split(chunk)])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sums = [torch.zeros_like(p) for p in ctx.parameters]
        parts = zip(ctx.rays.split(ctx.chunk), grads[0].split(ctx.chunk), strict=True)
        for part, upstream in parts:
            with torch.enable_grad():
                seen = ctx.render(part)
            found = torch.autograd.grad(seen, ctx.parameters, upstream, allow_unused=True)
            for total, value in zip(sums, found, strict=True):
                if value is not None:
                    total += value
        return None, None, None, *sums
