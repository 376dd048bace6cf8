"""Drawing Gaussians: kernels on the CPU, gsplat on CUDA, and the same in plain PyTorch.

Source: Kerbl et al., 3D Gaussian Splatting for Real-Time Radiance Field Rendering, 2308.04079.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pds_cli.errors import first_line
from pds_cli.kernels import splats as kernels
from pds_cli.views.cameras import Camera
from pds_cli.views.harmonics import BASE, spherical_harmonics
from pds_cli.views.poses import rotations

log = logging.getLogger(__name__)

NEAR = 0.01  # world units before the camera where Gaussians begin to count, unless told otherwise
_TO_OPENCV = (1.0, -1.0, -1.0)  # a camera looks along −z, with y up; rasterisers along +z, y down


class Drawn(NamedTuple):
    """What a camera sees of Gaussians.

    Attributes:
        color: [3,H,W], Σ T α c, without a background.
        depth: [H,W], Σ T α z, along the viewing axis in world units; divide by `opacity`.
        opacity: [H,W] in [0,1]; the light left for a background is 1 − opacity.
    """

    color: Tensor
    depth: Tensor
    opacity: Tensor


@dataclass(frozen=True)
class Gaussians:
    """Gaussians as they are drawn.

    Attributes:
        means: centres [N,3], world units.
        quats: rotations [N,4] as (w,x,y,z), of any length but 0.
        scales: logarithms [N,3] of the standard deviations along their own axes.
        opacities: [N] in [0,1].
        colors: [N,3] as this camera sees them, not limited.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All of them, in the order above."""
        return self.means, self.quats, self.scales, self.opacities, self.colors


def world_to_camera(camera: Camera) -> Tensor:
    """The pose [3,4] that takes world points to OpenCV's camera axes."""
    pose = camera.camera_to_world.double()
    turn = pose[:, :3].T * pose.new_tensor(_TO_OPENCV)[:, None]
    return torch.cat([turn, -turn @ pose[:, 3:]], 1)


def seen_colors(means: Tensor, sh0: Tensor, shN: Tensor, camera: Camera, degree: int) -> Tensor:
    """Colours [N,3], at least 0, of Gaussians as a camera sees them.

    Args:
        means: centres [N,3]; sh0: [N,3] and shN: [N,K,3], the harmonics' coefficients.
        degree: harmonics up to this degree are used, 0 to 3; shN may hold more.
    """
    colors = BASE * sh0
    if degree:
        away = means.detach() - camera.position.to(means)
        basis = spherical_harmonics(torch.nn.functional.normalize(away, dim=-1), degree)[:, 1:]
        colors = colors + torch.einsum("nk,nkc->nc", basis, shN[:, : basis.shape[1]])
    return (colors + 0.5).clamp_min(0)


def rasterise(
    gaussians: Gaussians, camera: Camera, *, near: float = NEAR, antialias: bool = False
) -> Drawn:
    """What the camera sees; differentiable in all five tensors.

    Each Gaussian is flattened to the image by the local affine map of the perspective (EWA), and
    blurred by 0.3 px². α = opacity · exp(−½ dᵀ Σ⁻¹ d), at most 0.999; what is fainter than 1/255
    at a pixel is not there, and behind what leaves less than 10⁻⁴ of the light nothing counts.
    Gaussians behind `near`, outside of the image or not finite are passed over, with gradients 0.

    Args:
        gaussians: all of one dtype, float32 or float64, and on one device.
        camera: without a lens: photos with one are undistorted first.
        near: distance along the viewing axis where Gaussians begin to count, world units.
        antialias: blurring spreads a Gaussian's light instead of adding to it (2311.16493).

    Raises:
        ValueError: a camera with a lens.
    """
    if camera.distortion is not None:
        raise ValueError("Gaussians are drawn by pinhole cameras: undistort the lens first")
    if gaussians.means.device.type != "cpu":
        draw = rasterise_gsplat if _takes_gsplat(gaussians.means) else rasterise_torch
        return draw(gaussians, camera, near=near, antialias=antialias)
    out, left = _Rasterised.apply(*gaussians.tensors(), camera, near, antialias)
    return _drawn(out, left)


def _drawn(out: Tensor, left: Tensor) -> Drawn:
    return Drawn(out[..., :3].permute(2, 0, 1), out[..., 3], 1 - left)


class _Rasterised(torch.autograd.Function):
    """The kernels with their adjoints."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Any:
        *tensors, camera, near, antialias = args
        arrays = [x.detach().contiguous().numpy() for x in tensors]
        kind = arrays[0].dtype
        pose = world_to_camera(camera).numpy()
        lens = np.array([camera.fx, camera.fy, camera.cx, camera.cy])
        size = np.array([camera.width, camera.height])
        means, quats, scales, opacities, colors = arrays
        project: Any = kernels.project
        projected = project(
            means, quats, scales, opacities, colors, pose, lens, size, near, antialias
        )
        order = np.argsort(projected[:, kernels.DEPTH], kind="stable")
        tiles = [-(-side // kernels.TILE) for side in (camera.width, camera.height)]
        starts, items = kernels.bin_tiles(projected, order, *tiles)
        composite: Any = kernels.composite
        out, left, ends = composite(projected, starts, items, camera.width, camera.height)
        ctx.shapes = (pose, lens, size, antialias, kind)
        ctx.held = (projected, starts, items, left, ends)
        ctx.save_for_backward(*tensors)
        return torch.from_numpy(out), torch.from_numpy(left)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        projected, starts, items, left, ends = ctx.held
        pose, lens, size, antialias, kind = ctx.shapes
        grad, grad_left = (g.contiguous().numpy().astype(kind, copy=False) for g in grads)
        adjoint: Any = kernels.composite_adjoint
        parts = adjoint(grad, grad_left, left, ends, projected, starts, items)
        means, quats, scales, opacities, _ = (x.detach().numpy() for x in ctx.saved_tensors)
        project_adjoint: Any = kernels.project_adjoint
        found = project_adjoint(
            parts, projected, means, quats, scales, opacities, pose, lens, size, antialias
        )
        return (*(torch.from_numpy(x) for x in found), None, None, None)


# ------------------------------------------------------------------------------------------ gsplat
def _takes_gsplat(means: Tensor) -> bool:
    return means.device.type == "cuda" and means.dtype == torch.float32 and gsplat_works()


@lru_cache(maxsize=1)
def gsplat_works() -> bool:
    """Whether gsplat is here and draws on this machine; said where it is here and does not."""
    if find_spec("gsplat") is None or not torch.cuda.is_available():
        return False
    one = torch.tensor([[0.0, 0.0, 0.0]], device="cuda")
    camera = Camera(torch.eye(4, device="cuda")[:3], 8.0, 8.0, 8.0, 8.0, 16, 16)
    ahead, turn = one - one.new_tensor([0, 0, 2]), torch.ones(1, 4, device="cuda")
    tried = Gaussians(ahead, turn, one - 1, one[:, 0] + 0.5, one)
    try:
        rasterise_gsplat(tried, camera)
    except Exception as error:  # it compiles on first use, which fails in many ways
        log.warning("gsplat draws nothing here (%s): plain PyTorch does, slowly", first_line(error))
        return False
    return True


def rasterise_gsplat(
    gaussians: Gaussians, camera: Camera, *, near: float = NEAR, antialias: bool = False
) -> Drawn:
    """`rasterise` by gsplat's CUDA kernels (Ye et al., arXiv 2409.06765), float32 alone."""
    from gsplat import rasterization

    finite = torch.cat([x.reshape(len(x), -1) for x in gaussians.tensors()], 1).isfinite().all(1)
    if not bool(finite.all()):
        gaussians = Gaussians(*(x[finite] for x in gaussians.tensors()))
    means, quats, scales, opacities, colors = gaussians.tensors()
    pose = torch.eye(4, device=means.device)
    pose[:3] = world_to_camera(camera).to(pose)
    lens = torch.tensor(
        [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]], device=means.device
    )
    image, opacity, _ = rasterization(
        means, quats, scales.exp(), opacities, colors, pose[None], lens[None],
        camera.width, camera.height,
        near_plane=near, eps2d=kernels.DILATION, packed=False, render_mode="RGB+D",
        rasterize_mode="antialiased" if antialias else "classic",
    )  # fmt: skip
    return Drawn(image[0, ..., :3].permute(2, 0, 1), image[0, ..., 3], opacity[0, ..., 0])


# ---------------------------------------------------------------------------------- plain PyTorch
class _Flat(NamedTuple):
    """Gaussians on the image: xy [N,2], depth [N], conic [N,3], opacity [N], reach [N,2]."""

    xy: Tensor
    depth: Tensor
    conic: Tensor
    opacity: Tensor
    reach: Tensor


def rasterise_torch(
    gaussians: Gaussians, camera: Camera, *, near: float = NEAR, antialias: bool = False
) -> Drawn:
    """`rasterise` in plain PyTorch, tile by tile, on any device."""
    with torch.no_grad():
        flat, seen = _project(gaussians, camera, near, antialias)
        order = seen.nonzero()[:, 0]
        order = order[flat.depth[order].argsort(stable=True)]
    # Only what is seen is in the graph: what is not finite would leave NaN in it.
    gaussians = Gaussians(*(x[order] for x in gaussians.tensors()))
    flat, _ = _project(gaussians, camera, near, antialias)
    values = torch.cat([gaussians.colors, flat.depth[:, None]], 1)
    out = values.new_zeros(camera.height, camera.width, 4)
    left = values.new_ones(camera.height, camera.width)
    reach = flat.reach.detach()
    low, high = flat.xy.detach() - reach, flat.xy.detach() + reach
    for top in range(0, camera.height, kernels.TILE):
        for side in range(0, camera.width, kernels.TILE):
            first = low.new_tensor([side, top])
            here = ((low <= first + kernels.TILE) & (high >= first)).all(1).nonzero()[:, 0]
            rows = slice(top, min(top + kernels.TILE, camera.height))
            columns = slice(side, min(side + kernels.TILE, camera.width))
            if len(here):
                tile = _composite(flat, values, here, rows, columns)
                out[rows, columns], left[rows, columns] = tile
    return _drawn(out, left)


def _project(
    gaussians: Gaussians, camera: Camera, near: float, antialias: bool
) -> tuple[_Flat, Tensor]:
    """Gaussians on the image, and which of them are seen, [N]."""
    means, quats, scales, opacities, _ = gaussians.tensors()
    pose = world_to_camera(camera).to(means)
    x, y, z = (means @ pose[:, :3].T + pose[:, 3]).unbind(1)
    ahead = (z > near) & (z < 1e30)
    z = torch.where(ahead, z, torch.ones_like(z))
    axes = pose[:, :3] @ (rotations(quats) * scales.exp()[:, None])  # [N,3,3]
    rows: list[Tensor] = []
    for at, center, focal, side in (
        (x, camera.cx, camera.fx, camera.width),
        (y, camera.cy, camera.fy, camera.height),
    ):
        more = 0.15 * side / focal
        slope = (at / z).clamp(-center / focal - more, (side - center) / focal + more)
        rows.append((focal / z)[:, None] * (axes[:, len(rows)] - slope[:, None] * axes[:, 2]))
    xx, xy, yy = (rows[0] ** 2).sum(1), (rows[0] * rows[1]).sum(1), (rows[1] ** 2).sum(1)
    before = xx * yy - xy * xy
    xx, yy = xx + kernels.DILATION, yy + kernels.DILATION
    det = xx * yy - xy * xy
    opacity = opacities
    if antialias:
        positive = before > 0
        share = (torch.where(positive, before, torch.ones_like(before)) / det).sqrt()
        opacity = opacity * torch.where(positive, share, torch.zeros_like(share))
    centre = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], 1)
    seen = ahead & (opacity >= kernels.LEAST) & (det > 0) & (xx < 1e12) & (yy < 1e12)
    extent = 2 * (opacity.detach().clamp_min(kernels.LEAST) / kernels.LEAST).log()
    reach = (extent[:, None] * torch.stack([xx, yy], 1).detach()).sqrt()
    size = centre.new_tensor([camera.width, camera.height])
    seen &= ((centre + reach > 0) & (centre - reach < size)).all(1)
    finite = torch.cat([centre, reach, gaussians.colors], 1).isfinite().all(1)
    conic = torch.stack([yy, -xy, xx], 1) / det[:, None]
    return _Flat(centre, z, conic, opacity, reach), seen & finite


def _composite(
    flat: _Flat, values: Tensor, here: Tensor, rows: slice, columns: slice
) -> tuple[Tensor, Tensor]:
    """Sums [h,w,4] and the light left [h,w] of a tile's pixels, for Gaussians `here` by depth."""
    down = torch.arange(rows.start, rows.stop).to(values) + 0.5
    across = torch.arange(columns.start, columns.stop).to(values) + 0.5
    y, x = torch.meshgrid(down, across, indexing="ij")
    dx = x.reshape(-1, 1) - flat.xy[here, 0]
    dy = y.reshape(-1, 1) - flat.xy[here, 1]
    a, b, c = flat.conic[here].unbind(1)
    power = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (flat.opacity[here] * torch.exp(-power.clamp_min(0))).clamp(max=kernels.MOST)
    alpha = torch.where(alpha >= kernels.LEAST, alpha, torch.zeros_like(alpha))
    after = (1 - alpha).cumprod(1)
    alpha = torch.where(after > kernels.STOP, alpha, torch.zeros_like(alpha))
    after = (1 - alpha).cumprod(1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    shape = (len(down), len(across))
    return ((before * alpha) @ values[here]).view(*shape, 4), after[:, -1].view(shape)
