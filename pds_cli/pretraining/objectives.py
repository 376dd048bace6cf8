"""What `pds pretrain` minimises: denoising with text, decoding, classification, and matching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pds_cli.backbones.embedded import (
    CAMERA,
    camera_features,
    encode_text,
    predict_velocity,
    takes_camera,
)
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.backbones.precision import mixed, prepare
from pds_cli.backbones.schedule import Schedule
from pds_cli.pictures.captioned import CaptionedImages
from pds_cli.runs.checkpoint import under, with_prefix
from pds_cli.training.trainer import Objective


class ExponentialAverage:
    """An exponential moving average of a module's parameters, those that are trained.

    The decay rises as min(decay, (1 + n) / (10 + n)), so that early averages forget the
    initialisation.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.module, self.decay = module, decay
        trained = ((k, v) for k, v in module.named_parameters() if v.requires_grad)
        self.shadow = {k: v.detach().clone() for k, v in trained}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the average towards the present parameters."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = [v.detach() for k, v in self.module.named_parameters() if k in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), now, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the parameters and their average; a second call undoes the first."""
        parameters = dict(self.module.named_parameters())
        for name, average in self.shadow.items():
            held = parameters[name].detach().clone()
            parameters[name].copy_(average)
            average.copy_(held)


class _ModuleObjective(Objective):
    """An objective whose state is one module and its average."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.average = ExponentialAverage(module, decay)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.module.parameters() if p.requires_grad]}]

    def after_step(self, step: int, optimizer: torch.optim.Optimizer) -> None:
        self.average.update(step)

    def finish(self) -> None:
        self.average.swap()

    def state_dict(self) -> dict[str, Tensor]:
        state = with_prefix("module", self.module.state_dict())
        return state | with_prefix("average", self.average.shadow)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.module.load_state_dict(under("module", state))
        for name, value in under("average", state).items():
            self.average.shadow[name].copy_(value)


def _draw(count: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, count, (batch,), generator=generator)


class DenoisingObjective(_ModuleObjective):
    """v-prediction on latents with captions dropped at random.

    Loss: mean ‖v̂ − v‖², v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (Salimans and Ho, arXiv 2202.00512, eq. 9),
    with t uniform at first. From `high_noise_from` of the training on, a share `high_noise` of t
    is drawn from the noisiest quarter instead: only there does a noisy picture not show what its
    caption says, so only there are captions learned. Captions are replaced by the empty one with
    chance `drop`, which trains classifier-free guidance (arXiv 2207.12598).

    Args:
        unet, text_encoder: moved together.
        tokenize: captions → token ids [B,L].
        schedule: how noise is added.
        drop_camera: chance that the camera of a picture is left out, where the UNet takes it.
        precision: `float32` or `bfloat16`, of the networks' products.
        preview: called for `renders`, under the averaged weights.
    """

    def __init__(
        self,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenize: Callable[[list[str]], Tensor],
        autoencoder: PatchAutoencoder,
        data: CaptionedImages,
        schedule: Schedule,
        *,
        batch_size: int = 40,
        drop: float = 0.1,
        drop_camera: float = 0.5,
        high_noise: float = 0.0,
        high_noise_from: float = 0.0,
        decay: float = 0.999,
        device: torch.device | str = "cpu",
        precision: str = "float32",
        preview: Callable[[], dict[str, Tensor]] | None = None,
    ) -> None:
        super().__init__(nn.ModuleDict({"unet": unet, "text_encoder": text_encoder}), decay)
        self.unet, self.text_encoder = unet, text_encoder
        self.tokenize, self.autoencoder, self.data = tokenize, autoencoder, data
        self.schedule = schedule.float().to(device)
        self.batch_size, self.drop, self.drop_camera = batch_size, drop, drop_camera
        self.takes_camera = takes_camera(unet, text_encoder)
        self.high_noise, self.high_noise_from = high_noise, high_noise_from
        self.device, self.precision = torch.device(device), precision
        self.preview = preview
        self._latents: Tensor | None = None

    def begin(self) -> None:
        self.module.train()
        prepare(self.precision, self.device, [self.unet, self.text_encoder])
        self._latents = self._encoded(self.data.batch)

    @torch.no_grad()
    def _encoded(self, batch: Callable[[Tensor], Tensor], index: Tensor | None = None) -> Tensor:
        """The latents [N,C,h,w] of pictures that `batch` gives by their indices; None: of all."""
        chunks = (torch.arange(len(self.data)) if index is None else index).split(512)
        encode = self.autoencoder.encode
        return torch.cat([encode(batch(chunk).to(self.device)).cpu().half() for chunk in chunks])

    def _renew(self, index: Tensor) -> None:
        """Encodes the pictures in these places."""
        assert self._latents is not None
        self._latents[index] = self._encoded(self.data.batch, index)

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        assert self._latents is not None
        if len(changed := self.data.advance(step)):
            self._renew(changed)
        index = _draw(len(self.data), self.batch_size, generator)
        captions = self.data.draw_captions(index, generator)
        dropped = torch.rand(self.batch_size, generator=generator) < self.drop
        captions = ["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]
        x0 = self._latents[index].float()
        eps = torch.randn(x0.shape, generator=generator)
        t = self._timesteps(progress, generator)
        x0, eps, t = (v.to(self.device) for v in (x0, eps, t))
        x_t, v = self.schedule.add_noise(x0, t, eps), self.schedule.velocity(x0, t, eps)
        with mixed(self.precision, self.device):
            ids = self.tokenize(captions).to(self.device)
            text = encode_text(self.text_encoder, ids)
            if self.takes_camera:
                text["camera"] = self._cameras(index, generator)
            beside, spread = self._beside(index, generator), self.autoencoder.spread
            predicted = predict_velocity(self.unet, self.schedule, spread, x_t, t, text, beside)
        return F.mse_loss(predicted.float(), v), {}

    def _cameras(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """What the UNet is told of pictures' cameras [B,CAMERA]; nothing of some of them."""
        found = torch.zeros(len(index), CAMERA)
        for row, i in enumerate(index.tolist()):
            camera = self.data.records[i].get("camera")
            known = camera if isinstance(camera, dict) else {}
            azimuth, elevation = known.get("azimuth"), known.get("elevation")
            if isinstance(azimuth, int | float) and isinstance(elevation, int | float):
                found[row] = camera_features(azimuth, elevation)
        dropped = torch.rand(len(index), 1, generator=generator) < self.drop_camera
        return found.masked_fill(dropped, 0.0).to(self.device)

    def _beside(self, index: Tensor, generator: torch.Generator) -> Tensor | None:
        """Further channels [B,C,h,w] of the UNet's input; none."""
        return None

    def _timesteps(self, progress: float, generator: torch.Generator) -> Tensor:
        """Timesteps [B] for a step at this part of the training."""
        total, count = self.schedule.num_train_timesteps, (self.batch_size,)
        t = torch.randint(0, total, count, generator=generator)
        if progress < self.high_noise_from or self.high_noise == 0:
            return t
        noisy = torch.randint(total * 3 // 4, total, count, generator=generator)
        return torch.where(torch.rand(count, generator=generator) < self.high_noise, noisy, t)

    def renders(self) -> dict[str, Tensor]:
        if self.preview is None:
            return {}
        self.average.swap()
        self.module.eval()
        try:
            return self.preview()
        finally:
            self.module.train()
            self.average.swap()

    def finish(self) -> None:
        super().finish()
        self.module.eval()


class DecodingObjective(_ModuleObjective):
    """The residual of a `PatchAutoencoder`'s decoder, robust to imperfect latents.

    Loss: mean |x̂ − x| + 2 mean (x̂ − x)², with Gaussian noise of a random scale up to `noise`
    added to the latents, since those of a diffusion model are never exact.
    """

    def __init__(
        self,
        autoencoder: PatchAutoencoder,
        data: CaptionedImages,
        *,
        batch_size: int = 32,
        noise: float = 0.12,
        decay: float = 0.998,
        device: torch.device | str = "cpu",
        precision: str = "float32",
    ) -> None:
        super().__init__(autoencoder, decay)
        self.precision = precision
        self.autoencoder, self.data = autoencoder, data
        self.batch_size, self.noise, self.device = batch_size, noise, torch.device(device)

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        self.data.advance(step)
        index = _draw(len(self.data), self.batch_size, generator)
        images = self.data.batch(index).to(self.device)
        latents = self.autoencoder.encode(images)
        scale = self.noise * torch.rand(self.batch_size, 1, 1, 1, generator=generator)
        noise = scale * torch.randn(latents.shape, generator=generator)
        with mixed(self.precision, self.device):
            decoded = self.autoencoder.decode(latents + noise.to(self.device)).float()
        mse = F.mse_loss(decoded, images)
        loss = F.l1_loss(decoded, images) + 2 * mse
        return loss, {"psnr": float(10 * torch.log10(4 / mse.detach()))}


class InstructObjective(DenoisingObjective):
    """Denoising beside a source image: what the caption says of it is to change.

    As `DenoisingObjective`, with the source's latents as further channels of the UNet's input.
    They are left out (zeros) with chance `drop_source`, independently of the captions, which
    trains guidance by the image.

    Source: Brooks et al., InstructPix2Pix, CVPR 2023, arXiv 2211.09800, sections 3.2 and 3.2.1.
    """

    def __init__(self, *args: Any, drop_source: float = 0.1, **options: Any) -> None:
        super().__init__(*args, **options)
        self.drop_source = drop_source
        self._sources: Tensor | None = None

    def begin(self) -> None:
        super().begin()
        self._sources = self._encoded(self.data.source_batch)

    def _renew(self, index: Tensor) -> None:
        super()._renew(index)
        assert self._sources is not None
        self._sources[index] = self._encoded(self.data.source_batch, index)

    def _beside(self, index: Tensor, generator: torch.Generator) -> Tensor | None:
        assert self._sources is not None
        seen = self._sources[index].float()
        dropped = torch.rand(len(index), 1, 1, 1, generator=generator) < self.drop_source
        return seen.masked_fill(dropped, 0.0).to(self.device)


class _LabelledObjective(_ModuleObjective):
    """An objective on labelled pictures, augmented at every draw."""

    def __init__(
        self,
        module: nn.Module,
        data: CaptionedImages,
        label: Callable[[list[dict[str, Any]]], Tensor],
        *,
        augment: Callable[[Tensor, torch.Generator], Tensor],
        batch_size: int,
        decay: float = 0.998,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(module, decay)
        self.data, self.label, self.augment = data, label, augment
        self.labels = label(data.records)
        self.batch_size, self.device = batch_size, torch.device(device)

    def begin(self) -> None:
        self.module.train()

    def _batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Which pictures [B], the pictures [B,3,S,S] in [−1,1], and their labels [B,…]."""
        changed = self.data.advance(step)
        if len(changed):
            self.labels[changed] = self.label([self.data.records[i] for i in changed.tolist()])
        index = _draw(len(self.data), self.batch_size, generator)
        images = self.augment(self.data.batch(index), generator).to(self.device)
        return index, images, self.labels[index].to(self.device)


class ClassificationObjective(_LabelledObjective):
    """Cross-entropy of an attribute classifier, summed over the attributes.

    Args:
        label: labels int64 [N,A] of records; −1 where a picture has nothing to say of an attribute.
        augment: called with images [B,3,S,S] in [−1,1] and the step's generator.
    """

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        _, images, labels = self._batch(step, generator)
        logits = self.module(images)
        losses = [
            F.cross_entropy(logit, labels[:, a], ignore_index=-1)
            for a, logit in enumerate(logits)
            if bool((labels[:, a] >= 0).any())
        ]
        return torch.stack(losses).sum(), {}

    def finish(self) -> None:
        super().finish()
        self.module.eval()


class ContrastiveObjective(_LabelledObjective):
    """Matching pictures and captions within a batch.

    Loss: the mean of the cross-entropies of captions given pictures and of pictures given
    captions (CLIP, arXiv 2103.00020, figure 3), where all pairs with the same label are right,
    with equal weight.

    Args:
        module: with `encode_images`, `encode_texts` (unit vectors [B,D]) and `scale`.
        label: labels int64 [N] of records, what each picture shows.
        augment: called with images [B,3,S,S] in [−1,1] and the step's generator.
    """

    module: Any

    def loss(
        self, step: int, progress: float, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        index, images, label = self._batch(step, generator)
        pictures = self.module.encode_images(images)
        texts = self.module.encode_texts(self.data.draw_captions(index, generator))
        logits = self.module.scale.exp().clamp(max=100) * pictures @ texts.T
        right = (label[:, None] == label[None]).float()
        right = right / right.sum(1, keepdim=True)
        loss = F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)
        return loss / 2, {}

    def finish(self) -> None:
        super().finish()
        self.module.eval()
