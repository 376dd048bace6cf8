"""`mask=auto`: an edit's place is where the two prompts disagree about a noised source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.editors.base import encode
from pds_cli.errors import UserError
from pds_cli.scenes.base import Scene
from pds_cli.seeds import step_generator
from pds_cli.training.prompts import Prompts, ViewPrompts
from pds_cli.training.settings import WHOLE
from pds_cli.training.trainer import Idle
from pds_cli.views.view import View

AUTO = "auto"
_DRAWS = 9  # of noise, a view
_AT_ONCE = 2  # of them: as many predictions as a step of an edit makes
_NOISE = (0.5, 0.8)  # of the schedule: at less only details differ, at more the source is lost
_THRESHOLD = 1.2  # times the mean over all places
_GAP = 0.6  # of the 3×3 places about one: so many take it with them


@torch.no_grad()
def locate(
    backbone: Backbone,
    x0: Tensor,
    tgt: Text,
    src: Text,
    generator: torch.Generator,
    everywhere: float | None = None,
) -> Tensor:
    """Where the target prompt wants something else than the source prompt, [N,1,h,w] of 0 and 1.

    d = mean_k |ε̂(x_t, y^tgt) − ε̂(x_t, y^src)| over draws of (t, ε), its root mean square over
    channels (a sky's colour is told by few of them) above 1.2 of its mean over the places, and one
    place about that: a place's neighbours hold the thing's border. Gaps are filled: a place most of
    whose neighbours may change. Guidance would scale the difference alone, so none is asked for.

    A mean knows nothing of what changes everywhere, such as a floor and a sky. There the places
    that are left out disagree, too. A latent of which the prompts say the same may change all over.

    Args:
        x0: latents of N sources [N,C,h,w].
        tgt, src: one prompt, or N.
        everywhere: where the median of d over the places that are left out is above this, all may
            change; None: never. In units of the noise, whose standard deviation is 1. Models differ
            in how much they disagree about nothing, so it is measured for one (for the toybox in
            docs/toybox.md).

    Source: Couairon et al., DiffEdit, arXiv 2210.11427, section 3.2, there at one noise level.
    """
    total = backbone.schedule.num_train_timesteps - 1
    levels = (torch.linspace(*_NOISE, _DRAWS) * total).round().long()
    found = torch.zeros_like(x0)
    for some in levels.split(_AT_ONCE):
        eps = torch.stack([torch.randn(x0.shape, generator=generator) for _ in some]).to(x0)
        t = some.repeat_interleave(len(x0)).to(x0.device)
        x_t = backbone.add_noise(x0.repeat(len(some), 1, 1, 1), t, eps.flatten(0, 1))
        both = Text.cat([text.expand(len(x0)) for text in (tgt, src) for _ in some]).cond
        said = backbone.predict_eps(x_t.repeat(2, 1, 1, 1), t.repeat(2), both)
        differ = (said[: len(t)] - said[len(t) :]).abs().to(found)
        found += differ.unflatten(0, (len(some), len(x0))).sum(0) / _DRAWS
    found = found.square().mean(1, keepdim=True).sqrt()
    return torch.stack([_place(each, everywhere) for each in found])


def _place(found: Tensor, everywhere: float | None) -> Tensor:
    """Where disagreement [1,h,w] is large, [1,h,w] of 0 and 1."""
    least = _THRESHOLD * found.mean()
    inside = F.max_pool2d((found > least).to(found), 3, 1, 1)
    for _ in range(2):
        share = F.avg_pool2d(inside, 3, 1, 1, count_include_pad=False)
        inside = inside.maximum((share > _GAP).to(inside))
    if everywhere is not None and (outside := found[inside == 0]).numel():
        inside = inside.maximum((outside.median() > everywhere).to(inside))
    return inside if inside.any() else torch.ones_like(inside)


def can_be_located(scene: Scene) -> bool:
    """Whether a scene has what `mask=auto` looks at: pictures, and words for what they show."""
    return bool(scene.source_prompt) and _has_pictures(scene)


def _has_pictures(scene: Scene) -> bool:
    return any(view.image is not None for view in scene.edit_views)


def unlocated(mask: str | None) -> list[Idle]:
    """The keys of `mask=auto` that have no effect on an edit with another mask."""
    return [] if mask == AUTO else [Idle("mask_everywhere", f"mask={mask or WHOLE}")]


def located(
    scene: Scene, backbone: Backbone, prompts: Prompts, seed: int, everywhere: float | None = None
) -> Mapping[str, Tensor]:
    """Where views may change by `mask=auto`, within the limits that the scene has.

    Args:
        everywhere: see `locate`.

    Raises:
        UserError: there are no pictures to look at, or no words for what they show.
    """
    if not _has_pictures(scene):
        raise UserError("mask=auto looks at what the scene shows, and this one has no pictures")
    if not scene.source_prompt:
        raise UserError(
            'mask=auto compares the prompt with what the scene shows: say that with source="…"'
        )
    texts = (prompts.tgt, prompts.src)
    return Located(scene.edit_views, backbone, *texts, scene.limits, seed, everywhere)


class Located(Mapping[str, Tensor]):
    """A view's name → where it may change, as `read_limits` gives it; found when it is asked for.

    Args:
        views: those that are edited; those without an image are left out.
        tgt, src: the encoded prompts, see `ViewPrompts`.
        given: other limits, by view, that hold besides.
        seed: of the run; a resumed one finds the same.
        everywhere: see `locate`.
    """

    def __init__(
        self,
        views: Sequence[View],
        backbone: Backbone,
        tgt: Text,
        src: Text,
        given: Mapping[str, Tensor],
        seed: int,
        everywhere: float | None = None,
    ) -> None:
        self._views = {view.name: view for view in views if view.image is not None}
        self._numbers = {name: number for number, name in enumerate(self._views)}
        self._backbone, self._given, self._seed = backbone, given, seed
        self._everywhere = everywhere
        self._texts = ViewPrompts(backbone, tgt, src)
        self.found: dict[str, Tensor] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.found:
            self.found[name] = self._find(self._views[name])
        return self.found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def _find(self, view: View) -> Tensor:
        image = view.image
        assert image is not None
        height, width = image.shape[-2:]
        x0 = encode(self._backbone, image[None])
        generator = step_generator(self._seed, "mask", self._numbers[view.name])
        places = locate(self._backbone, x0, *self._texts(view), generator, self._everywhere)
        limit = F.interpolate(places.float(), (height, width), mode="nearest")[0].cpu()
        return limit * self._given[view.name] if view.name in self._given else limit
