"""Stable Diffusion 1.x, 2.x and SDXL as backbones, from any folder or hub id diffusers can read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text, check_finite, resolve_device
from pds_cli.backbones.diffusers_folder import Checkpoint, open_checkpoint
from pds_cli.backbones.schedule import PREDICTIONS, Schedule
from pds_cli.errors import UserError, check_choice
from pds_cli.options.backbones import OFFLOADS

log = logging.getLogger(__name__)

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class StableDiffusion(Backbone):
    """A frozen Stable-Diffusion-format pipeline behind the `Backbone` contract.

    x_0 is the VAE's latent, [B,4,H/8,W/8] for the public models. Network outputs are converted to
    ε: v-prediction by ε = √ᾱ_t v + √(1−ᾱ_t) x_t (Salimans and Ho, arXiv 2202.00512, appendix D).
    Whatever the network's precision, x_0 and ε̂ come back in the precision that was given.

    Args:
        model: hub id, or folder in diffusers format.
        dtype: precision of the UNet and text encoders: auto (float16 on CUDA, else float32),
            float32, float16 or bfloat16. The VAE stays in float32 where its config asks for that.
        device: auto, cpu, cuda, cuda:1, …
        vae_sample: draw x_0 from the VAE's posterior rather than take its mean.
        attention_slicing: compute attention in two halves: less memory, a little slower.
        offload: none; model (text encoders wait on the CPU while the edit runs); sequential (also
            the UNet's layers, moved to the GPU one at a time: least memory, slowest).
        resolution: side in pixels of the area to work at; null takes the UNet's own.
        variant: weights variant such as fp16; falls back to the plain weights.
        revision: branch, tag or commit of a hub id.
        local_files_only: never ask the hub.
        recommended: settings that suit this model, kept as an attribute for the command line.

    Raises:
        UserError: the checkpoint cannot be found, fetched, read or used, or an option is unknown.
    """

    latent_shift: Tensor
    latent_scale: Tensor
    # Latents that the UNet sees side by side: one, or two for a model that also sees an image.
    image_inputs: ClassVar[int] = 1

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        device: str | torch.device = "auto",
        vae_sample: bool = False,
        attention_slicing: bool = False,
        offload: str = "none",
        resolution: int | None = None,
        variant: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        recommended: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        run_device = resolve_device(device)
        run_dtype = _resolve_dtype(dtype, run_device)
        check_choice("backbone.offload", offload, OFFLOADS)
        checkpoint = open_checkpoint(
            model, revision=revision, variant=variant, local_files_only=local_files_only
        )
        self.folder = checkpoint.folder
        self.vae_sample = vae_sample
        self.recommended = dict(recommended or {})
        self.is_sdxl = checkpoint.is_sdxl
        self.force_zeros = bool(checkpoint.index.get("force_zeros_for_empty_prompt", False))
        self._load(checkpoint, run_dtype)
        self._read_schedule(checkpoint)
        self._read_geometry(resolution)
        self.requires_grad_(False).eval()
        self._place(run_device, offload, attention_slicing)

    # -- loading ---------------------------------------------------------------------------------

    def _load(self, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.utils import logging as transformers_logging

        # Its bars would appear even without a terminal, for a load of a second or two.
        transformers_logging.disable_progress_bar()
        upcast = checkpoint.config("vae").get("force_upcast", True)
        self.unet = _load_component(UNet2DConditionModel, checkpoint, "unet", dtype)
        self.vae = _load_component(
            AutoencoderKL, checkpoint, "vae", torch.float32 if upcast else dtype
        )
        encoders = [_load_component(CLIPTextModel, checkpoint, "text_encoder", dtype)]
        tokenizers = [_load_tokenizer(checkpoint, "tokenizer")]
        if self.is_sdxl:
            encoders.append(
                _load_component(CLIPTextModelWithProjection, checkpoint, "text_encoder_2", dtype)
            )
            tokenizers.append(_load_tokenizer(checkpoint, "tokenizer_2"))
        self.text_encoders = torch.nn.ModuleList(encoders)
        self.tokenizers = tokenizers
        found, latent = self.unet.config.in_channels, self.vae.config.latent_channels
        if found != latent * self.image_inputs:
            kind = (
                "inpainting and instruction-tuned models are not text-to-image backbones"
                if self.image_inputs == 1
                else "it is not instruction-tuned, as timbrooks/instruct-pix2pix is"
            )
            raise UserError(
                f"{checkpoint.folder} has a UNet of {found} input channels where the VAE gives "
                f"{latent}: {kind}"
            )

    def _read_schedule(self, checkpoint: Checkpoint) -> None:
        from diffusers import DDPMScheduler

        config = checkpoint.config("scheduler", "scheduler_config.json")
        self.prediction_type = str(config.get("prediction_type", "epsilon"))
        if self.prediction_type not in PREDICTIONS:
            raise UserError(
                f"{checkpoint.folder}/scheduler: prediction_type={self.prediction_type} is not "
                "known; epsilon, v_prediction or sample would be right"
            )
        try:
            alphas_cumprod = DDPMScheduler.from_config(config).alphas_cumprod
        except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{checkpoint.folder}/scheduler/scheduler_config.json gives no noise schedule "
                f"({error})"
            ) from error
        # A zero-terminal-SNR schedule ends at exactly 0, where x_0 and σ_t are not defined.
        self.schedule = Schedule(alphas_cumprod.float().clamp(min=2.0**-24))

    def _read_geometry(self, resolution: int | None) -> None:
        config = self.vae.config
        self.vae_factor = 2 ** (len(config.block_out_channels) - 1)
        # Sizes divide by the UNet's own downsampling too, so that its skip connections fit.
        self.size_multiple = self.vae_factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        side = self.unet.config.sample_size
        side = min(side) if isinstance(side, list | tuple) else side
        self.resolution = int(resolution or (side or 64) * self.vae_factor)
        if self.resolution < self.size_multiple:
            raise UserError(
                f"backbone.resolution={self.resolution} is too small: {self.size_multiple} is the "
                "least this model takes"
            )
        shape = (1, -1, 1, 1)
        mean = getattr(config, "latents_mean", None) or [getattr(config, "shift_factor", 0) or 0.0]
        std = getattr(config, "latents_std", None) or [1.0]
        scale = torch.tensor(config.scaling_factor, dtype=torch.float32)
        self.register_buffer("latent_shift", torch.tensor(mean).float().reshape(shape))
        self.register_buffer("latent_scale", (scale / torch.tensor(std).float()).reshape(shape))

    def _place(self, device: torch.device, offload: str, attention_slicing: bool) -> None:
        if attention_slicing:
            self.unet.set_attention_slice("auto")
        self._text_on_cpu = offload != "none"
        # The VAE stays on the device: gradients flow back through it, so its weights must not move
        # between the forward and the backward pass.
        self.vae.to(device)
        self.schedule.to(device)
        for name in ("latent_shift", "latent_scale"):
            setattr(self, name, getattr(self, name).to(device))
        self.text_encoders.to("cpu" if self._text_on_cpu else device)
        if offload == "sequential" and device.type != "cpu":
            try:
                from accelerate import cpu_offload
            except ImportError as error:
                raise UserError(
                    "backbone.offload=sequential needs accelerate: `pip install accelerate`"
                ) from error
            cpu_offload(self.unet, execution_device=device)
        else:
            self.unet.to(device)

    def train(self, mode: bool = True) -> StableDiffusion:
        """Keeps the networks in evaluation mode: they are never trained here."""
        return super().train(False)

    # -- images ----------------------------------------------------------------------------------

    def denoiser(self) -> Any:
        """The UNet."""
        return self.unet

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of x_0 at the backbone's own resolution."""
        height, width = self.image_size(self.resolution, self.resolution)
        channels = int(self.vae.config.latent_channels)
        return channels, height // self.vae_factor, width // self.vae_factor

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) in pixels to work at for an image of the given size.

        Its area is about `resolution`², its aspect ratio the given one up to 4:1 (beyond that the
        image is squeezed), each side a multiple of what the VAE and the UNet divide by. A size
        that already fits comes back unchanged.
        """
        step, area = self.size_multiple, self.resolution**2
        low = max(step, self.resolution // 2 // step * step)
        high = -(-2 * self.resolution // step) * step
        fits = height % step == 0 and width % step == 0
        bounded = low <= min(height, width) and max(height, width) <= high
        if fits and bounded and 0.7 * area <= height * width <= 1.4 * area:
            return height, width
        ratio = min(max(height / width, 0.25), 4.0)
        sides = ((area * ratio) ** 0.5, (area / ratio) ** 0.5)
        fitted = [min(max(int(side / step + 0.5) * step, low), high) for side in sides]
        return fitted[0], fitted[1]

    def encode_image(self, image: Tensor) -> Tensor:
        """x_0 = (mean of q(z|image) − shift) · scale for images [B,3,H,W] in [0,1].

        Returns:
            [B,C,H/f,W/f] in the image's precision, differentiable in the image. With `vae_sample`
            a draw from q instead of its mean (torch's global generator).

        Raises:
            UserError: H or W is not a multiple of the VAE's factor f.
        """
        factor = self.vae_factor
        if image.shape[-2] % factor or image.shape[-1] % factor:
            raise UserError(
                f"an image of {image.shape[-2]}×{image.shape[-1]} does not fit the VAE: "
                f"both sides must be multiples of {factor}"
            )
        posterior = self.vae.encode((2 * image - 1).to(self.vae.dtype)).latent_dist
        latent = posterior.mean
        if self.vae_sample:  # drawn on the CPU: the same for every device
            latent = latent + posterior.std * torch.randn(latent.shape).to(latent)
        return ((latent.float() - self.latent_shift) * self.latent_scale).to(image.dtype)

    def decode_latent(self, x0: Tensor) -> Tensor:
        """Images [B,3,H,W] for x_0 [B,C,h,w], about [0,1] but not clamped; differentiable."""
        latent = x0.float() / self.latent_scale + self.latent_shift
        image = self.vae.decode(latent.to(self.vae.dtype)).sample
        return ((image.float() + 1) / 2).to(x0.dtype)

    # -- text ------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        """Encodes B prompts and, for each, `negative` as the unconditional counterpart.

        Returns:
            `tokens` [B,L,D]; for SDXL the penultimate states of both encoders side by side and
            `pooled` [B,P] of the second. Where the SDXL pipeline asks for it
            (`force_zeros_for_empty_prompt`), an empty negative prompt is all zeros.
        """
        cond = self._encode(list(prompts))
        if self.is_sdxl and self.force_zeros and not negative.strip():
            return Text(cond, {k: torch.zeros_like(v) for k, v in cond.items()})
        null = self._encode([negative])
        return Text(cond, {k: v.expand(len(prompts), *v.shape[1:]) for k, v in null.items()})

    def _encode(self, prompts: list[str]) -> dict[str, Tensor]:
        tokens: list[Tensor] = []
        pooled: Tensor | None = None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            encoder.to(self.device)
            ids, mask = self._tokenize(tokenizer, prompts)
            use_mask = getattr(encoder.config, "use_attention_mask", False)
            output = encoder(
                ids, attention_mask=mask if use_mask else None, output_hidden_states=self.is_sdxl
            )
            # The second encoder's first output is its projected, pooled embedding.
            pooled = output[0] if self.is_sdxl else None
            tokens.append(output.hidden_states[-2] if self.is_sdxl else output[0])
            if self._text_on_cpu:
                encoder.to("cpu")
        cond = {"tokens": torch.cat(tokens, dim=-1)}
        return cond if pooled is None else {**cond, "pooled": pooled}

    def _tokenize(self, tokenizer: Any, prompts: list[str]) -> tuple[Tensor, Tensor]:
        limit = tokenizer.model_max_length
        for prompt in prompts:
            count = len(tokenizer(prompt).input_ids)
            if count > limit:
                log.warning("prompt of %d tokens is cut to %d: %s", count, limit, prompt)
        batch = tokenizer(
            prompts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    # -- noise -----------------------------------------------------------------------------------

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """ε̂ [N,C,h,w] for x_t [N,C,h,w] at integer t [N] under `cond`, without guidance.

        SDXL's size conditions are those of an uncropped image of the size being edited.
        """
        dtype = cond["tokens"].dtype
        added: dict[str, Tensor] | None = None
        if self.is_sdxl:
            added = {"text_embeds": cond["pooled"], "time_ids": self.time_ids(x_t)}
        output = self.unet(
            x_t.to(dtype), t, encoder_hidden_states=cond["tokens"], added_cond_kwargs=added
        ).sample
        eps = self.schedule.to_eps(output.float(), x_t.float(), t, self.prediction_type)
        return eps.to(x_t.dtype)

    def time_ids(self, x_t: Tensor) -> Tensor:
        """SDXL's conditions [N,6]: original size, crop corner, target size (arXiv 2307.01952)."""
        height, width = (side * self.vae_factor for side in x_t.shape[-2:])
        ids = torch.tensor([height, width, 0, 0, height, width], device=x_t.device)
        return ids.to(self.unet.dtype).expand(len(x_t), 6)


def _resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    check_choice("backbone.dtype", dtype, ("auto", *DTYPES))
    return DTYPES[dtype]


def _load_component(cls: Any, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Any:
    """Builds one network and insists that every weight came from the file."""
    folder = checkpoint.folder / name
    try:
        module, info = cls.from_pretrained(
            folder,
            dtype=dtype,
            variant=checkpoint.variants[name],
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} cannot be loaded as a {cls.__name__}: its config.json and weights do not "
            f"fit together ({_short(error)})"
        ) from error
    # Buffers such as position_ids are remade, not stored; anything else would stay random.
    missing = [k for k in info["missing_keys"] if not k.endswith("position_ids")]
    missing += [str(m) for m in info.get("mismatched_keys") or []]
    if missing:
        raise UserError(
            f"{folder} lacks weights that its config.json asks for, or has them in another shape "
            f"({len(missing)}, among them {missing[0]}): download the checkpoint again"
        )
    try:
        check_finite(module)
    except ValueError as error:
        raise UserError(f"{folder} is damaged ({error}): download the checkpoint again") from error
    return module


def _load_tokenizer(checkpoint: Checkpoint, name: str) -> Any:
    from transformers import CLIPTokenizer

    folder = checkpoint.folder / name
    try:
        if not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
            raise OSError("neither vocab.json nor tokenizer.json is there")
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizer library raises bare exceptions
        raise UserError(f"{folder} cannot be loaded as a tokenizer ({_short(error)})") from error


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] + "…" if len(text) > 200 else text
