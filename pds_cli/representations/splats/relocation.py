"""Density control with a fixed number of Gaussians, as Markov chain Monte Carlo.

Kheradmand et al., 3D Gaussian Splatting as Markov Chain Monte Carlo, arXiv 2404.09591: a Gaussian
that has faded away is moved onto one that has not, and noise lets all of them wander, those that
are faint the farthest. Shapes of tensors never change, so a run that was interrupted goes on.

A text makes things grow where nothing was, and there no gradient reaches what is elsewhere: it
would stretch its neighbours into spikes. So during an edit some Gaussians are scattered, faint,
about those that the gradient pulls at. What is wanted there becomes opaque, the others fade and
are scattered anew.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pds_cli.views.poses import rotations

DEAD = 0.005  # opacity at or below which a Gaussian is moved elsewhere (section 4.2)
BORN = 0.02  # opacity of what is scattered: little is seen of it, and its gradient is not zero
_MOST = 51  # copies of one Gaussian that are told apart, as published
_NOISE = 5e5  # of `wander`, as published
_SHARPNESS, _FAINT = 100.0, 0.995  # of the share of the noise that an opacity lets through


def shared(opacities: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
    """What each of n copies of a Gaussian must be so that together they are what one was.

    Args:
        opacities: o [N] in (0,1); copies: n [N], whole numbers of at least 1.

    Returns:
        Their opacity [N], 1 − (1−o)^(1/n), and by how much their scales change [N], so that the
        light at the centre and the integral stay (equation 9).
    """
    n = copies.clamp(1, _MOST).double()
    o = opacities.double().clamp(1e-9, 1 - 1e-9)
    each = -torch.expm1(torch.log1p(-o) / n)
    total = torch.zeros_like(o)
    # Σ_{i=1}^{n} Σ_{k=0}^{i−1} C(i−1,k) (−1)^k o^{k+1} / √(k+1); the inner binomials summed over i
    # are C(n,k+1).
    for k in range(int(n.max()) if len(n) else 0):
        chosen = torch.lgamma(n + 1) - math.lgamma(k + 2) - torch.lgamma((n - k).clamp_min(1))
        term = (chosen + (k + 1) * each.log()).exp() * (-1) ** k / math.sqrt(k + 1)
        total += torch.where(n > k, term, torch.zeros_like(term))
    scale = torch.where(n > 1, o / total, torch.ones_like(total))
    return each.to(opacities), scale.to(opacities)


@torch.no_grad()
def relocate(
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    gone: Tensor | None = None,
    pulled: bool = False,
) -> int:
    """Moves what has faded onto what has not; returns how many were moved.

    Where each goes is drawn by opacity. It becomes a copy of what is there, and all copies become
    weaker and narrower so that the picture stays nearly the same. Their moments begin anew.

    Args:
        parameters: `means`, `scales` (logarithms), `quats`, `opacities` (logits) and what else
            copies take over, all with Gaussians first.
        generator: on the CPU.
        gone: indices of those to move; None: all that have faded.
        pulled: chances are opacities times how much the gradient pulls at the centres.
    """
    if gone is None:
        gone = faded(parameters)
    target = _drawn(parameters, optimizer, generator, len(gone), pulled)
    if not len(target):
        return 0
    opacities = torch.sigmoid(parameters["opacities"])
    copies = torch.bincount(target, minlength=len(opacities))[target] + 1
    each, scale = shared(opacities[target], copies)
    parameters["opacities"][target] = torch.logit(each.clamp(DEAD, 1 - 1e-6))
    parameters["scales"][target] += scale.log()[:, None]
    for values in parameters.values():
        values[gone] = values[target]
    _forget(parameters, optimizer, torch.cat([gone, target]))
    return len(gone)


@torch.no_grad()
def scatter(
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    gone: Tensor,
    reach: float,
) -> None:
    """Lets Gaussians begin anew, round and faint, about those that the gradient pulls at.

    Each takes over the colour of one that is drawn as in `relocate`, and lies about it with a
    standard deviation of `reach`; its own is a third of that.

    Args:
        parameters, generator: as in `relocate`. gone: indices. reach: in world units.
    """
    target = _drawn(parameters, optimizer, generator, len(gone), pulled=True)
    if not len(target):
        return
    for values in parameters.values():
        values[gone] = values[target]
    means = parameters["means"]
    means[gone] += torch.randn(len(gone), 3, generator=generator).to(means) * reach
    parameters["scales"][gone] = math.log(reach / 3)
    parameters["opacities"][gone] = math.log(BORN / (1 - BORN))
    _forget(parameters, optimizer, gone)


def faded(parameters: dict[str, Tensor]) -> Tensor:
    """Indices of the Gaussians that have faded."""
    return (torch.sigmoid(parameters["opacities"]) <= DEAD).nonzero()[:, 0]


def _drawn(
    parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    count: int,
    pulled: bool,
) -> Tensor:
    """Indices of so many Gaussians that have not faded; of none where all have."""
    opacities = torch.sigmoid(parameters["opacities"])
    alive = (opacities > DEAD).nonzero()[:, 0]
    if not count or not len(alive):
        return alive[:0]
    chances = opacities[alive].double().cpu()
    mean_gradient = optimizer.state.get(parameters["means"], {}).get("exp_avg")
    if pulled and mean_gradient is not None:
        pull = mean_gradient[alive].norm(dim=1).double().cpu()
        chances = chances * pull if bool((chances * pull).sum() > 0) else chances
    drawn = torch.multinomial(chances, count, replacement=True, generator=generator)
    return alive[drawn.to(alive.device)]


def _forget(
    parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer, touched: Tensor
) -> None:
    """Their moments begin anew."""
    for values in parameters.values():
        for moment in optimizer.state.get(values, {}).values():
            if isinstance(moment, Tensor) and moment.shape == values.shape:
                moment[touched] = 0


@torch.no_grad()
def wander(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    lr: float,
    generator: torch.Generator,
) -> None:
    """Moves each centre at random within its own shape, the fainter the farther (equation 8).

    Args:
        opacities: logits [N]. lr: the present step size of the centres.
        generator: on the CPU.
    """
    faint = torch.sigmoid(_SHARPNESS * (1 - torch.sigmoid(opacities) - _FAINT))
    noise = torch.randn(means.shape, generator=generator).to(means) * faint[:, None] * _NOISE * lr
    axes = rotations(quats) * scales.exp()[:, None]
    means += (axes @ (axes.mT @ noise[:, :, None]))[:, :, 0]
