"""Distillation as an objective of the trainer: a backbone's gradient carried into θ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.editors.base import encode
from pds_cli.errors import UserError
from pds_cli.losses.base import Loss, LossOutput, inject
from pds_cli.losses.source_bank import SourceBank
from pds_cli.pictures.files import resize
from pds_cli.representations.base import Representation
from pds_cli.runs.checkpoint import under, with_prefix
from pds_cli.scenes.base import Scene
from pds_cli.scenes.limits import places, within
from pds_cli.seeds import step_generator
from pds_cli.training.prompts import ViewPrompts
from pds_cli.training.trainer import Idle, Objective
from pds_cli.views.view import View

LEARNT = "loss"  # what the loss has learnt, in a checkpoint


class EditObjective(Objective):
    """Moves a representation's parameters along a distillation loss.

    A step takes a view, brings its render to x_0^tgt, and asks the loss for the mean gradient
    over `batch_size` draws of (t, ε); or it takes several views, and the mean of their gradients.
    The source latent of a view is encoded once and kept; with `loss.source_bank`, so are source
    predictions at fixed pairs (t, ε).

    Args:
        text_tgt, text_src: the encoded prompts, one, or one for each latent of the representation;
            see `ViewPrompts`.
        batch_size: noise draws a step; the backbone sees that many times the latents.
        hold_view: steps for which the same random views are kept.
        views_per_step: distinct views whose mean gradient a step takes, one after the other; all
            of them where there are fewer.
        seed: the run's seed; fixes the order of the views and the pairs of the source bank.

    Raises:
        UserError: more draws a step than the source bank has pairs.
    """

    def __init__(
        self,
        scene: Scene,
        representation: Representation,
        backbone: Backbone,
        loss: Loss,
        text_tgt: Text,
        text_src: Text,
        *,
        batch_size: int = 1,
        hold_view: int = 1,
        views_per_step: int = 1,
        seed: int = 0,
    ) -> None:
        if loss.source_bank and batch_size > loss.source_bank:
            raise UserError(
                f"batch_size={batch_size} asks for more draws a step than "
                f"loss.source_bank={loss.source_bank} holds; set it to {batch_size} or more"
            )
        self.views, self.limits = list(scene.edit_views), scene.limits
        self.representation, self.backbone, self.distillation = representation, backbone, loss
        self.texts = ViewPrompts(backbone, text_tgt, text_src)
        self.batch_size, self.hold_view, self.seed = batch_size, max(1, hold_view), seed
        self.views_per_step = min(views_per_step, len(self.views))
        self._sources: dict[str, Tensor] = {}
        self._banks: dict[str, SourceBank] = {}

    def begin(self) -> None:
        self.representation.begin_edit()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.representation.parameter_groups()

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        views = self._pick(step)
        found = [self._look(view, progress, generator) for view in views]
        scalar = torch.stack([scalar for scalar, _ in found]).mean()
        names = dict.fromkeys(name for _, logs in found for name in logs)
        logs = {name: sum(logs[name] for _, logs in found) / len(views) for name in names}
        return scalar, logs

    def _look(
        self, view: View, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        """A scalar with the gradient at one view, and what is logged of it."""
        x0, image = self._latent_and_render(view)
        out = self._distil(view, x0.detach(), progress, generator)
        grad = out.grad.reshape(self.batch_size, *x0.shape).mean(0)
        limit = self.limits.get(view.name)
        if limit is not None:
            grad = grad * places(limit, *grad.shape[-2:]).to(grad)
        scalar = inject(x0, grad)
        if limit is not None and image is not None and view.image is not None:
            scalar = scalar + _held(image, view.image, limit)
        logs = {k: v for k, v in out.logs.items() if k != "grad_norm"}
        logs = {"loss": float(scalar.detach()), **logs}
        penalty = self.representation.penalty(view, progress, generator)
        if penalty is None:
            return scalar, logs
        return scalar + penalty, {**logs, "penalty": float(penalty.detach())}

    def _distil(
        self, view: View, x0: Tensor, progress: float, generator: torch.Generator
    ) -> LossOutput:
        """The loss's answer for `batch_size` draws at x_0^tgt [N,C,h,w], draw by draw."""
        draws = self.batch_size
        latents = [x0, self.source_latent(view)]
        x0_tgt, x0_src = (x.repeat(draws, *[1] * (x.ndim - 1)) for x in latents)
        texts = self.texts(view)
        text_tgt, text_src = (Text.cat([text.expand(len(x0))] * draws) for text in texts)
        args = (self.backbone, x0_tgt, x0_src, text_tgt, text_src)
        if not self.distillation.source_bank:
            return self.distillation(*args, progress=progress, generator=generator)
        t, eps, eps_src = self._bank(view).draw(draws, progress, generator)
        return self.distillation.evaluate(*args, t=t, eps=eps, eps_src=eps_src, progress=progress)

    def _bank(self, view: View) -> SourceBank:
        if view.name not in self._banks:
            self._banks[view.name] = SourceBank(
                self.distillation,
                self.backbone,
                self.source_latent(view),
                self.texts(view)[1],
                seed=self.seed,
                view=view.name,
            )
        return self._banks[view.name]

    def _pick(self, step: int) -> list[View]:
        """Random views; with `hold_view` > 1 they change only every so many steps."""
        # Seeded by the block of steps, not by what was picked before: a resumed run agrees.
        block = step_generator(self.seed, "views", step // self.hold_view)
        if self.views_per_step == 1:
            return [self.views[int(torch.randint(len(self.views), (), generator=block))]]
        order = torch.randperm(len(self.views), generator=block)[: self.views_per_step]
        return [self.views[i] for i in order.tolist()]

    def target_latent(self, view: View) -> Tensor:
        """x_0^tgt [N,C,h,w] of the present θ, with a graph."""
        return self._latent_and_render(view)[0]

    def _latent_and_render(self, view: View) -> tuple[Tensor, Tensor | None]:
        """x_0^tgt, and the render [N,3,H,W] that it is of; None where θ is a latent itself."""
        latent = self.representation.render_latent(view)
        if latent is not None:
            return latent, None
        image = self.representation.render(view)
        # The source's shape decides, so that both latents have the same, whatever g renders at.
        shape = (image if view.image is None else view.image).shape[-2:]
        size = self.backbone.image_size(*shape)
        return self.backbone.encode_image(resize(image, *size, clamp=False)), image

    @torch.no_grad()
    def source_latent(self, view: View) -> Tensor:
        """x_0^src [N,C,h,w] of a view, cached."""
        if view.name not in self._sources:
            if view.image is None:
                found = self.representation.source_latent(view)
            else:
                found = encode(self.backbone, view.image[None])
            self._sources[view.name] = found
        return self._sources[view.name]

    def idle(self) -> list[Idle]:
        """What the loss, as it is set, looks at no more; guidance also by its name at the top."""
        single = len(self.views) == 1
        keys = ("hold_view", "views_per_step") if single else ()
        found = [Idle(key, "an edit of a single view") for key in keys]
        for option, switch in self.distillation.idle().items():
            why = f"loss.{switch}={getattr(self.distillation, switch)}" if switch else ""
            found.append(Idle(f"loss.{option}", why))
            if option in ("guidance", "source_guidance"):
                found.append(Idle(option, why))
        return found

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.representation.after_step(optimizer)

    @torch.no_grad()
    def renders(self) -> dict[str, Tensor]:
        """The first view, whichever views the steps look at: a filmstrip is of one place."""
        view = self.views[0]
        return {view.name: self.representation.render(view)[0].clamp(0, 1).cpu()}

    def state_dict(self) -> dict[str, Tensor]:
        learnt = with_prefix(LEARNT, self.distillation.state_dict())
        return {**self.representation.state_dict(), **learnt}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.distillation.load_state_dict(under(LEARNT, state))
        own = {k: v for k, v in state.items() if not k.startswith(f"{LEARNT}.")}
        self.representation.load_state_dict(own)


def _held(render: Tensor, source: Tensor, limit: Tensor) -> Tensor:
    """½ Σ |render − source|² over the pixels of a view that an edit may not change.

    Pixels of NeRFs and splats share parameters: what an edit moves for one view shows in others,
    and nothing else would bring it back there.
    """
    wanted = resize(source[None].to(render), *render.shape[-2:])
    return 0.5 * within(limit, torch.zeros_like(render), render - wanted).square().sum()
