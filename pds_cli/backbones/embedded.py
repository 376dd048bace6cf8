"""Small backbones that ship inside the package (or that `pds pretrain` wrote).

A folder in diffusers format: `unet/`, `text_encoder/`, `tokenizer/`, `scheduler/` and `vae/`,
where the VAE is our `PatchAutoencoder` and the tokenizer knows whole words. Or an adapter of such
a folder: see `pds_cli.backbones.adapter`.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pds_cli.backbones import adapter as adapters
from pds_cli.backbones.base import Backbone, Text, check_finite, resolve_device
from pds_cli.backbones.instruct import InstructMixin
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.backbones.precision import mixed, prepare, resolve_precision
from pds_cli.backbones.schedule import Schedule
from pds_cli.errors import UserError
from pds_cli.reading import read_json, read_object
from pds_cli.weights import PACKED, read_weights

CAMERA = 4  # numbers that tell a UNet of a camera
_LARGEST = 4096
_SIZES = (
    *("block_out_channels", "layers_per_block", "in_channels", "out_channels", "sample_size"),
    *("cross_attention_dim", "projection_class_embeddings_input_dim", "attention_head_dim"),
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("fine_width", "fine_blocks"),
    *("max_position_embeddings", "projection_dim", "latent_channels", "patch", "width", "blocks"),
    "num_train_timesteps",
)
PACKAGED = Path(__file__).parents[1] / "data"
INDEX = "model_index.json"


def folder_of(model: str) -> Path:
    """The folder that a name or a path stands for; names of what ships go first."""
    return PACKAGED / model if (PACKAGED / model).is_dir() else Path(model).expanduser()


def words_of(prompt: str) -> list[str]:
    """The words of a prompt as the tokenizer sees them: lower case, letters and digits."""
    return re.findall(r"\w+", prompt.lower())


def nearest_known(words: Iterable[str], known: Collection[str]) -> dict[str, list[str]]:
    """The words that are not known, each with the nearest that are."""
    return {
        word: difflib.get_close_matches(word, known, n=3, cutoff=0.5)
        for word in dict.fromkeys(words)
        if word not in known
    }


def encode_text(text_encoder: Any, ids: Tensor) -> dict[str, Tensor]:
    """Encodes token ids [B,L].

    Returns:
        `tokens` [B,L,D], for cross-attention, and `pooled` [B,D], their mean over the words of
        the prompt. The UNet adds a projection of `pooled` to its time embedding, a short way
        from words to features beside cross-attention.
    """
    tokens = text_encoder(ids).last_hidden_state
    words = (ids != text_encoder.config.pad_token_id).to(tokens)[..., None]
    return {"tokens": tokens, "pooled": (tokens * words).sum(1) / words.sum(1)}


def takes_camera(unet: Any, text_encoder: Any) -> bool:
    """Whether a UNet is told more beside the prompt than the mean of its words."""
    told: int = unet.config.projection_class_embeddings_input_dim
    return told > int(text_encoder.config.hidden_size)


def camera_features(azimuth: float, elevation: float) -> Tensor:
    """What a UNet is told of a camera, [CAMERA]: that it is known, and the direction it is in.

    All are 0 of one that is not known.

    Args:
        azimuth, elevation: degrees, from the front and above the horizon, as `Compass.angles`.
    """
    a, e = math.radians(azimuth), math.radians(elevation)
    level = math.cos(e)
    return torch.tensor([1.0, level * math.sin(a), level * math.cos(a), math.sin(e)])


def predict_velocity(
    unet: Any,
    schedule: Schedule,
    spread: Tensor | None,
    x_t: Tensor,
    t: Tensor,
    cond: dict[str, Tensor],
    beside: Tensor | None = None,
) -> Tensor:
    """v̂ [N,C,h,w] of an embedded UNet at noisy latents x_t [N,C,h,w] and timesteps t [N].

    Args:
        spread: of the latents' channels [C], for `Schedule.preconditioning`; None: none.
        cond: `tokens` and `pooled` of `encode_text`, and `camera` [N,CAMERA] of `camera_features`
            for a UNet that takes it; missing, no camera is known.
        beside: what a model by instruction sees beside the latents, [N,C,h,w].
    """
    factors = None if spread is None else schedule.preconditioning(t, x_t, spread)
    x_in = x_t if factors is None else factors[0] * x_t
    x_in = x_in if beside is None else torch.cat([x_in, beside.to(x_in)], 1)
    dtype = unet.dtype  # its own, whatever that of x_t is
    x_in = x_in.to(dtype).contiguous(memory_format=torch.channels_last)
    tokens, pooled = (cond[key].to(dtype) for key in ("tokens", "pooled"))
    if told := unet.config.projection_class_embeddings_input_dim - pooled.shape[1]:
        camera = cond["camera"].to(pooled) if "camera" in cond else pooled.new_zeros(1, told)
        pooled = torch.cat([pooled, camera.expand(len(pooled), -1)], 1)
    found: Tensor = unet(x_in, t, tokens, class_labels=pooled).sample.to(x_t.dtype)
    return found if factors is None else factors[1] * x_t + factors[2] * found


def quiet_loading() -> None:
    """Silences the libraries' progress bars, which would flash by for small files."""
    import diffusers.utils.logging
    import transformers.utils.logging

    transformers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()


class EmbeddedBackbone(Backbone):
    """A word-level text-to-image diffusion model, small enough for a laptop's CPU.

    Args:
        model: a folder that `pds pretrain` wrote, or the name of one shipped with the package
            (`toybox`).
        device: auto, cpu, cuda, …
        precision: of the network's products, see `resolve_precision`. bfloat16 is twice as quick on
            processors that multiply it, and moves ε̂ by about 0.0013.
        recommended: settings that suit this model; kept for the caller, not used here.

    Raises:
        UserError: where the folder is missing or a file in it is damaged.

    Example:
        >>> EmbeddedBackbone("toybox").encode_image(torch.zeros(1, 3, 128, 128)).shape
        torch.Size([1, 48, 16, 16])
    """

    image_inputs = 1

    def __init__(
        self,
        model: str = "toybox",
        *,
        device: str = "auto",
        precision: str = "float32",
        recommended: Any = None,
    ) -> None:
        super().__init__()
        folder = folder_of(model)
        self.recommended = dict(recommended or {})
        where = resolve_device(device)
        self._set(**load_parts(folder))
        self._check_inputs(folder)
        self.to(where).eval().requires_grad_(False)
        self.precision = resolve_precision(precision, where)
        prepare(self.precision, self.device, [self.unet])

    @classmethod
    def of(cls, parts: Any) -> Self:
        """A backbone around parts in memory, as they are: for samples while they are trained.

        Args:
            parts: a `pds_cli.pretraining.components.Components`; shared, not copied.
        """
        backbone = cls.__new__(cls)
        Backbone.__init__(backbone)
        backbone._set(
            parts.unet, parts.text_encoder, parts.tokenizer, parts.autoencoder, parts.alphas_cumprod
        )
        return backbone.to(parts.unet.device)

    def _set(
        self, unet: Any, text_encoder: Any, tokenizer: Any, vae: Any, alphas_cumprod: Tensor
    ) -> None:
        self.unet, self.text_encoder, self.vae = unet, text_encoder, vae
        self.tokenizer, self.precision = tokenizer, "float32"
        self.schedule = Schedule(alphas_cumprod.float())
        self.knows_cameras = takes_camera(unet, text_encoder)
        self.patch = int(vae.config.patch)
        self.resolution = int(unet.config.sample_size) * self.patch

    def _check_inputs(self, folder: Path) -> None:
        channels = int(self.vae.config.latent_channels)
        if self.unet.config.in_channels != channels * self.image_inputs:
            raise UserError(
                f"{folder} is a model that edits by instruction: use it with "
                f"editor=instruct_pix2pix editor.model={folder}"
                if self.image_inputs == 1
                else f"{folder} takes no source image beside the noisy one, so it cannot edit by "
                "instruction"
            )

    def denoiser(self) -> Any:
        """The UNet."""
        return self.unet

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (C, h, w) of x_0."""
        side = self.resolution // self.patch
        return int(self.vae.config.latent_channels), side, side

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        """The trained resolution, whatever the image's shape: small models know one size."""
        return self.resolution, self.resolution

    def encode_image(self, image: Tensor) -> Tensor:
        """Maps images [B,3,H,W] in [0,1] to x_0 [B,C,H/4,W/4]; linear."""
        return self.vae.encode(image * 2 - 1)

    def decode_latent(self, x0: Tensor) -> Tensor:
        """Maps x_0 [B,C,h,w] to images [B,3,H,W], not clamped; differentiable."""
        return (self.vae.decode(x0) + 1) / 2

    def token_ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids [B,L], padded and cut to the tokenizer's length."""
        encoded = self.tokenizer(
            [" ".join(words_of(p)) for p in prompts],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return encoded.input_ids.to(self.device)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        """Encodes B prompts to `tokens` [B,L,D] and `pooled` [B,D].

        See `unknown_words` for what it cannot read.
        """
        ids = self.token_ids([*prompts, negative])
        encoded = encode_text(self.text_encoder, ids)
        if self.knows_cameras:
            encoded["camera"] = encoded["pooled"].new_zeros(len(ids), CAMERA)
        null = {k: v[-1:].expand(len(prompts), *v.shape[1:]) for k, v in encoded.items()}
        return Text({k: v[:-1] for k, v in encoded.items()}, null)

    def with_camera(self, text: Text, azimuth: float, elevation: float) -> Text:
        """See `Backbone.with_camera`; both halves of the guidance are told."""
        if not self.knows_cameras:
            return text
        told = camera_features(azimuth, elevation).to(text.cond["camera"])
        camera = {"camera": told.expand(len(text), -1)}
        return Text({**text.cond, **camera}, {**text.null, **camera})

    def unknown_words(self, prompt: str) -> dict[str, list[str]]:
        """The words of `prompt` that the model never saw, each with the nearest known ones.

        >>> list(EmbeddedBackbone("toybox").unknown_words("a robott"))
        ['robott']
        """
        known = [w for w in self.tokenizer.get_vocab() if not w.startswith("[")]
        return nearest_known(words_of(prompt), known)

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        """ε̂ = √ᾱ_t v̂ + √(1−ᾱ_t) x_t [N,C,h,w] from the network's v̂ (arXiv 2202.00512)."""
        return self._eps(x_t, t, cond)

    def _eps(
        self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], beside: Tensor | None = None
    ) -> Tensor:
        with mixed(self.precision, self.device):
            v = predict_velocity(self.unet, self.schedule, self.vae.spread, x_t, t, cond, beside)
        return self.schedule.to_eps(v, x_t, t, "v_prediction")


class EmbeddedInstructModel(InstructMixin, EmbeddedBackbone):
    """An embedded model that edits by instruction; `pds pretrain data.pairs=true` makes one."""

    def predict_beside(
        self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor], image: Tensor
    ) -> Tensor:
        """See `InstructMixin.predict_beside`."""
        return self._eps(x_t, t, cond, image)


def load_parts(folder: Path) -> dict[str, Any]:
    """The parts of a backbone folder, as `EmbeddedBackbone._set` takes them; an adapter is merged.

    Raises:
        UserError: where the folder is missing or a file in it is damaged, or where that holds for
            the base of an adapter, or it has other weights than the adapter was trained on.
    """
    adapter = read_adapter(folder)
    if adapter is None:
        return _read_parts(folder)
    base = adapters.base_folder(adapter, folder, PACKAGED)
    if not os.path.isfile(base / INDEX) or read_adapter(base) is not None:  # of any name
        raise UserError(
            f"{folder} is an adapter, and its backbone is not in {base}: put that there, or say "
            f'where it is as "base" in {folder / INDEX}'
        )
    with _whole_or_said(folder):
        tensors, _ = read_weights(folder / adapters.FILE)
    found = _read_parts(base)
    if adapters.weights_hash(found["unet"], found["text_encoder"], found["vae"]) != adapter.sha256:
        raise UserError(
            f"{folder} is an adapter of other weights than {base} has: bring those back, or train "
            f"it again with pds pretrain init={base} adapter.rank={adapter.rank}"
        )
    with _whole_or_said(folder):
        adapters.merge(found["unet"], tensors, adapter)
        check_finite(found["unet"])
    found["unet"].to(memory_format=torch.channels_last)
    return found


def read_adapter(folder: Path) -> adapters.Adapter | None:
    """Which adapter a folder holds; None for a backbone of its own.

    Raises:
        UserError: there is neither, or what the folder says of itself is damaged.
    """
    if not (folder / INDEX).is_file():
        raise UserError(
            f"{folder} holds no backbone; write one with pds pretrain, or choose "
            "another with backbone=<name> (pds list backbone)"
        )
    with _whole_or_said(folder):
        index = read_json(folder / INDEX)
        return adapters.Adapter.of(index["adapter"]) if "adapter" in index else None


@contextmanager
def _whole_or_said(folder: Path) -> Iterator[None]:
    """Around the reading of a folder: what fails becomes one sentence.

    Raises:
        UserError: naming the folder.
    """
    try:
        yield
    except Exception as error:  # the libraries raise many kinds, some of them bare
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise UserError(
            f"the backbone in {folder} is damaged ({reason}); "
            "write it again with pds pretrain, or reinstall pds"
        ) from error


def _read_parts(folder: Path) -> dict[str, Any]:
    """The parts of a folder that is no adapter."""
    from diffusers import DDIMScheduler
    from transformers import CLIPTextModel, PreTrainedTokenizerFast

    from pds_cli.backbones.fine_unet import unet_class

    quiet_loading()
    scheduler: Any
    with _whole_or_said(folder):
        for file in folder.glob("*/*.json"):
            _check_config(file.name, read_json(file))
        scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
        kind = unet_class(read_object(folder / "unet" / "config.json"))
        unet = _whole(kind, folder / "unet", torch_dtype=torch.float32)
        found = {
            "unet": unet.to(memory_format=torch.channels_last),
            "text_encoder": _whole(CLIPTextModel, folder / "text_encoder", dtype=torch.float32),
            "tokenizer": PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer"),
            "vae": _whole(PatchAutoencoder, folder / "vae", torch_dtype=torch.float32),
            "alphas_cumprod": scheduler.alphas_cumprod,
        }
        _check_parts(**found)
    return found


def _check_config(name: str, found: Any) -> None:
    """Looks at a part's configuration before anything of its size is built.

    Raises:
        ValueError: it asks for more than a small model has.
    """
    if not name.endswith("config.json") or not isinstance(found, dict):
        return
    for key, value in found.items():
        for number in value if isinstance(value, list) else [value]:
            if key in _SIZES and isinstance(number, int) and not 0 <= number <= _LARGEST:
                raise ValueError(f"its {key} is {number}, more than a small model has")


def _whole(cls: Any, folder: Path, **options: Any) -> Any:
    """A part with all its weights.

    Raises:
        ValueError: some are missing (the libraries would draw them at random), of another shape,
            or no finite numbers.
    """
    if (folder / PACKED).is_file():
        module = _unpacked(cls, folder)
        check_finite(module)
        return module
    module, info = cls.from_pretrained(folder, output_loading_info=True, **options)
    wrong = [*info["missing_keys"], *(info.get("mismatched_keys") or [])]
    wrong = [name for name in wrong if not str(name).endswith("position_ids")]
    if wrong:
        raise ValueError(f"{folder.name} has no weights {wrong[0]} of the right shape")
    check_finite(module)
    return module


def _unpacked(cls: Any, folder: Path) -> Any:
    """A part whose weights are packed; see `pds_cli.weights`.

    Raises:
        UserError, RuntimeError: they are damaged, or of another part.
    """
    tensors, _ = read_weights(folder / PACKED)
    if hasattr(cls, "from_config"):
        module = cls.from_config(cls.load_config(folder))
    else:
        module = cls(cls.config_class.from_pretrained(folder))
    module.load_state_dict(tensors)
    return module


def _check_parts(
    unet: Any, text_encoder: Any, tokenizer: Any, vae: Any, alphas_cumprod: Tensor
) -> None:
    """Whether the parts are of one backbone.

    Raises:
        ValueError, TypeError, AttributeError: they are not.
    """
    width = text_encoder.config.hidden_size
    if unet.config.cross_attention_dim != width or unet.config.out_channels != (
        vae.config.latent_channels
    ):
        raise ValueError("its unet, text_encoder and vae have other sizes")
    spread = vae.spread
    if spread is not None and not (
        spread.shape == (vae.config.latent_channels,) and bool((spread > 0).all())
    ):
        raise ValueError("its vae has no spread above 0 for each channel")
    if len(tokenizer) > text_encoder.config.vocab_size:
        raise ValueError(f"its tokenizer has {len(tokenizer)} words and its text_encoder fewer")
    longest = text_encoder.config.max_position_embeddings
    same = tokenizer.pad_token_id == text_encoder.config.pad_token_id
    if tokenizer.pad_token_id is None or not same or not 1 <= tokenizer.model_max_length <= longest:
        raise ValueError("its tokenizer pads or cuts texts in another way than its text_encoder")
    if not bool(((alphas_cumprod > 0) & (alphas_cumprod <= 1)).all()) or len(alphas_cumprod) < 2:
        raise ValueError("its scheduler gives no noise levels between 0 and 1")
    if not 1 <= int(unet.config.sample_size) * int(vae.config.patch) <= 4096:
        raise ValueError("its pictures have no size")
