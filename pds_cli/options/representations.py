"""The keys of representations; values stand in `conf/representation`."""

from __future__ import annotations

from dataclasses import dataclass

from pds_cli.options.option import option
from pds_cli.options.ranges import BATCH as VIEWS
from pds_cli.options.ranges import (
    COUNT,
    EVERY,
    NOT_NEGATIVE,
    PIXELS,
    POSITIVE,
    SHARE,
    STEPS,
    Range,
    whole,
)
from pds_cli.options.target import Target

PARAMETRISATIONS = ("pixels", "latent")
INITIALS = ("source", "noise")
PARAMETERS = ("points", "colors", "opacities", "gradients")
SPLAT_PARAMETERS = ("means", "scales", "quats", "opacities", "colors")
ENCODINGS = ("auto", "tinycudann", "numba", "torch")
NERF_BACKGROUNDS = ("learned", "white", "black", "random")

_RENDER = whole(8, 16_384)
_RAYS = whole(1, 2**26)


@dataclass
class ImageRepresentationConf(Target):
    """A flat image."""

    parametrisation: str = option("what is edited", choices=PARAMETRISATIONS)
    initial: str = option("what an edit begins at", choices=INITIALS)
    export_detail: bool = option("keep the original's fine detail where the edit changed nothing")


@dataclass
class SVGConf(Target):
    """An SVG drawing."""

    parameters: list[str] = option(
        "what an edit may change; gradients: where they lie", choices=PARAMETERS
    )
    render_size: int | None = option(
        "longer side of edited renders in pixels; null: what the backbone asks for", range=_RENDER
    )
    background: list[float] = option(
        "red, green, blue below the drawing", range=SHARE, example=(1, 1, 1)
    )
    point_lr: float = option(
        "step size of points in multiples of lr, in 512ths of the longer side", range=NOT_NEGATIVE
    )
    color_lr: float = option("step size of colours in multiples of lr", range=NOT_NEGATIVE)
    opacity_lr: float = option("step size of opacities in multiples of lr", range=NOT_NEGATIVE)
    gradient_lr: float = option("step size of gradients, as point_lr", range=NOT_NEGATIVE)
    max_move: float | None = option(
        "how far a point may go, in 512ths of the longer side; null: anywhere", range=POSITIVE
    )
    symmetry: float = option("weight of keeping mirrored points mirrored", range=NOT_NEGATIVE)
    xing: float = option("weight against curves that cross themselves", range=NOT_NEGATIVE)
    animation: int = option(
        "steps between frames of a film of the edit (SVG, GIF, MP4); 0: none", range=EVERY
    )


@dataclass
class GridConf:
    """A hash grid: see `pds_cli.representations.nerf.encoding.GridLayout`."""

    levels: int = option("levels of resolution", range=whole(1, 32))
    features: int = option("numbers an entry", range=whole(1, 8))
    log2_table: int = option("entries a level at most, as a power of two", range=whole(8, 24))
    base_resolution: int = option("cells a side of the coarsest level", range=whole(2, 512))
    growth: float = option("ratio of the resolutions of neighbouring levels", range=Range(1, 4))


@dataclass
class FitConf:
    """How a representation is fitted: see `pds_cli.representations.base.FitSettings`."""

    steps: int = option("optimiser steps", range=STEPS)
    lr: float = option("largest step size of Adam", range=POSITIVE)
    views_per_step: int = option("views whose pixels a step mixes", range=VIEWS)
    warmup: int = option("steps over which the step size rises from zero", range=EVERY)
    cache: str | None = option(
        "folder where fits are kept to be used again; null: nowhere", text=True
    )


@dataclass
class NeRFConf(Target):
    """A NeRF on a multiresolution hash grid."""

    grid: GridConf = option("the hash grid", GridConf)
    encoding: str = option("what computes the hash grid", choices=ENCODINGS)
    hidden: int = option("width of the two networks", range=whole(1, 4096))
    sh_degree: int = option(
        "how colours depend on the view: -1 not at all, else the degree", range=whole(-1, 3)
    )
    density_bias: float = option(
        "added to the raw density; lower: the fit begins emptier", range=Range(-50, 50)
    )
    appearance: bool = option("a vector for each view's own exposure")
    background: str = option("what is behind everything", choices=NERF_BACKGROUNDS)
    render_size: int | None = option(
        "longer side of edited renders in pixels; null: the views' own", range=_RENDER
    )
    step: float = option("a sample's length in radii of the scene's region", range=Range(1e-4, 10))
    occupancy: int = option("cells a side of the grid that skips empty space", range=whole(2, 1024))
    explore: float = option("share of the empty cells that an edit looks into too", range=SHARE)
    density_growth: float = option(
        "density whose slope is the least that an edit finds in empty space", range=NOT_NEGATIVE
    )
    distortion: float = option("weight against haze and specks in an edit", range=NOT_NEGATIVE)
    fit_distortion: float = option("the same weight while it is fitted", range=NOT_NEGATIVE)
    update_every: int = option("steps between updates of the occupancy grid", range=STEPS)
    rays: int = option("pixels a step of the fit", range=_RAYS)
    chunk: int = option("rays rendered at once; fewer: less memory", range=_RAYS)
    network_lr: float = option(
        "step size of the networks, in multiples of the grid's", range=NOT_NEGATIVE
    )
    fit: FitConf = option("how it is fitted to the scene before an edit", FitConf)


@dataclass
class SplatsConf(Target):
    """Gaussian splats."""

    budget: int = option("how many Gaussians", range=whole(1, 10_000_000))
    sh_degree: int = option(
        "how far colours depend on the view: the harmonics' degree", range=whole(0, 3)
    )
    sh_every: int = option("steps of the fit until the next degree is used", range=STEPS)
    background: str = option("what is behind everything", choices=NERF_BACKGROUNDS)
    render_size: int | None = option(
        "longer side of edited renders in pixels; null: the views' own", range=_RENDER
    )
    antialias: bool = option("a pixel's blur spreads a Gaussian's light instead of adding to it")
    dssim: float = option("weight of 1 − SSIM in the fit", range=SHARE)
    opacity_cost: float = option("weight of the mean opacity in the fit", range=NOT_NEGATIVE)
    scale_cost: float = option("weight of the mean size in the fit", range=NOT_NEGATIVE)
    relocate_every: int = option(
        "steps after which those that have faded are moved to where something is; 0: never",
        range=EVERY,
    )
    seeds: float = option(
        "share of the Gaussians, the faintest, that are scattered as an edit begins", range=SHARE
    )
    explore: float = option(
        "share of those fading in an edit that is scattered, not laid upon others", range=SHARE
    )
    reach: float = option("how far they are scattered, in radii of the region", range=POSITIVE)
    noise: float = option(
        "how far centres wander in the fit, as a part of what is published", range=NOT_NEGATIVE
    )
    initial: str | None = option(
        "run of the same scene on whose surface a fit begins; null: found points, or at random",
        text=True,
    )
    parameters: list[str] = option("what an edit may change", choices=SPLAT_PARAMETERS)
    anchor: float = option(
        "weight of how far an edit moves Gaussians, each in its own measure", range=NOT_NEGATIVE
    )
    fit: FitConf = option("how it is fitted to the scene before an edit", FitConf)


@dataclass
class PointsConf(Target):
    """Points in the plane."""

    n: int | None = option(
        "how many of the scene's points are used, evenly spaced; null: all", range=COUNT
    )
    raster: int = option("side in pixels of the drawing for reports", range=PIXELS)
