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
from pds_cli.views.view import View

AUTO = "auto"
_DRAWS = 9  # of noise, a view
_NOISE = (0.5, 0.8)  # of the schedule: at less only details differ, at more the source is lost
_THRESHOLD = 1.5  # times the mean over all places, as diffusers' DiffEdit has it


@torch.no_grad()
def locate(
    backbone: Backbone, x0: Tensor, tgt: Text, src: Text, generator: torch.Generator
) -> Tensor:
    """Where the target prompt wants something else than the source prompt, [N,1,h,w] of 0 and 1.

    mean_k |ε̂(x_t, y^tgt) − ε̂(x_t, y^src)| over draws of (t, ε) and channels, above 1.5 of its
    mean over the places, and one place about that: a place's neighbours hold the thing's border.
    Guidance would scale the difference alone, so none is asked for. A latent at which the prompts
    do not differ at all may change everywhere.

    Args:
        x0: latents of N sources [N,C,h,w].
        tgt, src: one prompt, or N.

    Source: Couairon et al., DiffEdit, arXiv 2210.11427, section 3.2, there at one noise level.
    """
    count = len(x0)
    steps = backbone.schedule.num_train_timesteps - 1
    levels = torch.linspace(*_NOISE, _DRAWS) * steps
    both = Text.cat([text.expand(count) for text in (tgt, src)]).cond
    found = torch.zeros_like(x0[:, :1])
    for level in levels.round().long():
        eps = torch.randn(x0.shape, generator=generator).to(x0)
        t = level.expand(count).to(x0.device)
        x_t = backbone.add_noise(x0, t, eps).repeat(2, 1, 1, 1)
        said = backbone.predict_eps(x_t, t.repeat(2), both)
        found += (said[:count] - said[count:]).abs().mean(1, keepdim=True).to(found)
    above = found > _THRESHOLD * found.mean((1, 2, 3), keepdim=True)
    above |= (found == 0).all(-1, keepdim=True).all(-2, keepdim=True)
    return F.max_pool2d(above.to(x0), 3, 1, 1)


def located(scene: Scene, backbone: Backbone, prompts: Prompts, seed: int) -> Mapping[str, Tensor]:
    """Where views may change by `mask=auto`, within the limits that the scene has.

    Raises:
        UserError: there are no pictures to look at, or no words for what they show.
    """
    if all(view.image is None for view in scene.edit_views):
        raise UserError("mask=auto looks at what the scene shows, and this one has no pictures")
    if not scene.source_prompt:
        raise UserError(
            'mask=auto compares the prompt with what the scene shows: say that with source="…"'
        )
    return Located(scene.edit_views, backbone, prompts.tgt, prompts.src, scene.limits, seed)


class Located(Mapping[str, Tensor]):
    """A view's name → where it may change, as `read_limits` gives it; found when it is asked for.

    Args:
        views: those that are edited; those without an image are left out.
        tgt, src: the encoded prompts, see `ViewPrompts`.
        given: other limits, by view, that hold besides.
        seed: of the run; a resumed one finds the same.
    """

    def __init__(
        self,
        views: Sequence[View],
        backbone: Backbone,
        tgt: Text,
        src: Text,
        given: Mapping[str, Tensor],
        seed: int,
    ) -> None:
        self._views = {view.name: view for view in views if view.image is not None}
        self._numbers = {name: number for number, name in enumerate(self._views)}
        self._backbone, self._given, self._seed = backbone, given, seed
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
        places = locate(self._backbone, x0, *self._texts(view), generator)
        limit = F.interpolate(places.float(), (height, width), mode="nearest")[0].cpu()
        return limit * self._given[view.name] if view.name in self._given else limit
