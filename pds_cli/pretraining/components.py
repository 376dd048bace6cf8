"""Builds the parts of an embedded backbone and writes them as a diffusers folder."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pds_cli.backbones.adapter import FILE as ADAPTER
from pds_cli.backbones.embedded import CAMERA, INDEX, folder_of, load_parts, quiet_loading, words_of
from pds_cli.backbones.fine_unet import FineUNet, unet_class
from pds_cli.backbones.patch_autoencoder import PatchAutoencoder
from pds_cli.errors import UserError, first_line
from pds_cli.files import write_text
from pds_cli.runs.outputs import check_writable
from pds_cli.runs.ownership import is_free

MAX_WORDS = 30


def cosine_alphas_cumprod(timesteps: int = 1000, shift: float = 0.0) -> Tensor:
    """ᾱ of a cosine schedule whose log-SNR is moved by `shift`, shape [T].

    log SNR(u) = −2 log tan(πu/2) + shift for u = (t + ½)/T, clipped to [−10, 10]; ᾱ = sigmoid.
    Source: Hoogeboom et al., simple diffusion, arXiv 2301.11093, eq. 1–4.
    """
    u = (torch.arange(timesteps, dtype=torch.float64) + 0.5) / timesteps
    log_snr = -2 * torch.log(torch.tan(math.pi * u / 2)) + shift
    return torch.sigmoid(log_snr.clamp(-10, 10))


@dataclass
class Components:
    """The trainable and fixed parts of an embedded backbone."""

    unet: Any
    text_encoder: Any
    tokenizer: Any
    autoencoder: PatchAutoencoder
    alphas_cumprod: Tensor

    def tokenize(self, captions: Iterable[str]) -> Tensor:
        """Token ids [B,L]."""
        texts = [" ".join(words_of(c)) for c in captions]
        return self.tokenizer(
            texts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids


def build_tokenizer(captions: Iterable[str]) -> Any:
    """A word-level tokenizer that knows every word of `captions`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = sorted({word for caption in captions for word in words_of(caption)})
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]",
        special_tokens=[("[BOS]", vocabulary["[BOS]"]), ("[EOS]", vocabulary["[EOS]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_WORDS + 2,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
    )


def build_components(
    model: Mapping[str, Any], size: int, captions: Iterable[str], *, image_inputs: int = 1
) -> Components:
    """Fresh parts from the `model` section of a pretraining configuration.

    Args:
        model: `autoencoder`, `unet`, `text_encoder` (keywords of each), `timesteps`, `shift`.
        size: side of the square images in pixels.
        captions: what the tokenizer must be able to read.
        image_inputs: 2 for a UNet that looks at a source beside the noisy image.

    Raises:
        UserError: where the sizes do not fit each other, or are no sizes.
    """
    try:
        return _components(model, size, captions, image_inputs)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise UserError(
            f"model.* describes no backbone that can be built: {first_line(error)}"
        ) from error


def _components(
    model: Mapping[str, Any], size: int, captions: Iterable[str], image_inputs: int
) -> Components:
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build_tokenizer(captions)
    text = dict(model["text_encoder"])
    autoencoder = PatchAutoencoder(
        **{k: v for k, v in model["autoencoder"].items() if k != "whiten"}
    )
    patch = int(autoencoder.config.patch)  # type: ignore[attr-defined]
    multiple = patch * 2 ** (len(model["unet"]["block_out_channels"]) - 1)
    if size % multiple:
        raise UserError(f"size={size} does not divide by {multiple}, which this UNet needs")
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=MAX_WORDS + 2,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **text,
        )
    )
    channels = int(autoencoder.config.latent_channels)  # type: ignore[attr-defined]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in model["unet"].items()}
    kind = unet_class(options)
    if kind is not FineUNet:
        options = {k: v for k, v in options.items() if k not in ("fine_width", "fine_blocks")}
    elif patch % 2:
        raise UserError(f"model.unet.fine_width needs patches of even size, and not of {patch}")
    unet: Any = kind(
        sample_size=size // patch,
        in_channels=channels * image_inputs,
        out_channels=channels,
        cross_attention_dim=text["hidden_size"],
        class_embed_type="projection",
        projection_class_embeddings_input_dim=text["hidden_size"]
        + (CAMERA if model.get("camera") else 0),
        **options,
    )
    unet.to(memory_format=torch.channels_last)
    alphas_cumprod = cosine_alphas_cumprod(model["timesteps"], model["shift"])
    return Components(unet, text_encoder, tokenizer, autoencoder, alphas_cumprod)


def load_components(
    parts: Components,
    folder: Path,
    stages: Iterable[str] = ("decode", "denoise"),
    sample: Callable[[], Tensor] | None = None,
    whiten: float = 0.5,
) -> None:
    """Fills the parts with the weights of a backbone folder, those that the stages named train.

    Args:
        sample: images [N,3,S,S] in [−1,1]. With it the parts may be larger than the folder's: know
            further words, and have patches larger by a power of two with further channels, as
            `PatchAutoencoder.grow_components` makes them. What is new begins without effect; the
            decoder's residual begins anew.
        whiten: how the folder's latents were scaled; used with `sample` alone.

    Raises:
        UserError: no backbone there, or one of other sizes or other words.
    """
    former = load_parts(folder_of(str(folder)))
    stages, grows = list(stages), sample is not None
    if "denoise" in stages and not _reads(former["tokenizer"], parts.tokenizer, grows):
        raise UserError(f"{folder} reads other words than the captions hold: train from nothing")
    try:
        if "denoise" in stages:  # which is preconditioned with these
            parts.autoencoder.register_to_config(spread=former["vae"].config.spread)
        other = former["vae"].encoder.shape != parts.autoencoder.encoder.shape
        branch = None if hasattr(former["unet"], "fine") else getattr(parts.unet, "fine", None)
        images = sample() if sample is not None and (other or branch is not None) else None
        if "decode" in stages and images is not None and other:
            parts.autoencoder.grow_components(former["vae"], images, whiten)
        elif "decode" in stages:
            parts.autoencoder.load_state_dict(former["vae"].state_dict())
        if "denoise" in stages:
            state = _widened(former["unet"], parts.unet, grows)
            if images is not None and branch is not None:  # which begins by adding nothing
                branch.set_maps(parts.autoencoder, images, whiten)
                state |= {f"fine.{name}": value for name, value in branch.state_dict().items()}
            parts.unet.load_state_dict(state)
            state = _with_words(former, parts)
            parts.text_encoder.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{folder} holds a backbone of another size than model.* describes: "
            "use the settings it was trained with"
        ) from error


def _reads(former: Any, tokenizer: Any, grows: bool) -> bool:
    """Whether the former tokenizer's words are those of the present one, or some of them."""
    old, new = former.get_vocab(), tokenizer.get_vocab()
    return bool(old == new or (grows and old.keys() <= new.keys()))


def _with_words(former: dict[str, Any], parts: Components) -> dict[str, Tensor]:
    """The text encoder's weights, with rows in the order of the present words; new ones random."""
    state = former["text_encoder"].state_dict()
    name = next(key for key in state if key.endswith("token_embedding.weight"))
    rows = parts.text_encoder.state_dict()[name].clone()
    old, new = former["tokenizer"].get_vocab(), parts.tokenizer.get_vocab()
    known = [word for word in new if word in old]
    rows[[new[word] for word in known]] = state[name][[old[word] for word in known]].to(rows)
    return {**state, name: rows}


_GROWING = ["conv_out.weight", "conv_out.bias", "class_embedding.linear_1.weight"]


def _widened(former: Any, unet: Any, grows: bool) -> dict[str, Tensor]:
    """The weights of a UNet for one with more channels: it begins by ignoring what is new.

    Further channels are the source's, for a model that edits by instruction, or further latents;
    further numbers beside the prompt's mean are the camera's.

    Source: Brooks et al., InstructPix2Pix, CVPR 2023, arXiv 2211.09800, section 3.2.
    """
    state, own = former.state_dict(), unet.state_dict()
    latents = [model.config.out_channels for model in (former, unet)]
    if former.config.in_channels > latents[0] != latents[1]:
        raise ValueError("the latents of a model that edits by instruction do not grow")
    names = ["conv_in.weight"] + (_GROWING if grows else [])
    for name in names:
        padded = torch.zeros_like(own[name])
        here = tuple(slice(0, size) for size in state[name].shape)
        if padded[here].shape == state[name].shape:
            padded[here] = state[name].to(padded)
            state[name] = padded
    return dict(state)


_PARTS = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
_OURS = frozenset(
    [INDEX, *_PARTS, ADAPTER, "probe.safetensors", "similarity.safetensors", "samples.png"]
)


def check_backbone_target(folder: Path, replaces: bool) -> None:
    """Refuses to write a backbone where something else is, or over one that should stay.

    Raises:
        UserError: with what would be right.
    """
    if not is_free(folder):
        there = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
        if INDEX not in there and not there <= _OURS:
            raise UserError(
                f"into={folder} is not empty, and what is there is no backbone: choose another "
                "into=<folder>."
            )
        if not replaces:
            raise UserError(
                f"into={folder} holds a backbone already: choose another into=<folder>, or replace "
                "that one with overwrite=true."
            )
    check_writable(folder, "into")


def save_components(parts: Components, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes a backbone folder, replacing the one that was there only when it is complete.

    Other files in the folder (a probe, a gallery) stay.

    Raises:
        UserError: where the folder cannot be written.
    """
    from diffusers import DDIMScheduler

    quiet_loading()
    alphas = parts.alphas_cumprod
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=alphas.dtype), alphas[:-1]])
    scheduler: Any = DDIMScheduler(
        num_train_timesteps=len(alphas),
        trained_betas=betas.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    with replacing(folder, "the backbone") as temporary:
        for name, module in (
            ("unet", parts.unet),
            ("text_encoder", parts.text_encoder),
            ("vae", parts.autoencoder),
        ):
            _half_copy(module, dtype).save_pretrained(temporary / name)
        for weights in temporary.rglob("*.safetensors"):
            weights.chmod(0o644)  # they are written through a private temporary file
        # How it cuts and pads follows its last call: a resumed run may not have called it.
        parts.tokenizer.backend_tokenizer.no_truncation()
        parts.tokenizer.backend_tokenizer.no_padding()
        parts.tokenizer.save_pretrained(temporary / "tokenizer")
        scheduler.save_pretrained(temporary / "scheduler")
        index = dict(_INDEX)
        if isinstance(parts.unet, FineUNet):
            index["unet"] = ["pds_cli.backbones.fine_unet", "FineUNet"]
        write_text(temporary / INDEX, json.dumps(index, indent=2) + "\n")


@contextmanager
def replacing(folder: Path, what: str) -> Iterator[Path]:
    """A folder beside `folder` to write a backbone into; complete, it takes that one's place.

    Raises:
        UserError: `what` cannot be written; nothing is left of it then.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        yield temporary
        _move_into(temporary, folder)
    except (OSError, UserError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"{what} cannot be written to {folder} ({error})") from error


def _move_into(temporary: Path, folder: Path) -> None:
    """Puts parts in the place of what a folder has; without the index, which comes last, there is
    no backbone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    remove_parts(folder)
    for part in temporary.iterdir():
        if part.name != INDEX:
            part.rename(folder / part.name)
    (temporary / INDEX).rename(folder / INDEX)
    temporary.rmdir()


def remove_parts(folder: Path) -> None:
    """Removes the parts of a backbone, or the weights of an adapter."""
    for name in _PARTS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / ADAPTER).unlink(missing_ok=True)


def _half_copy(module: Any, dtype: torch.dtype) -> Any:
    import copy

    return copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format).to(dtype)


_INDEX = {
    "_class_name": "EmbeddedBackbone",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "vae": ["pds_cli.backbones.patch_autoencoder", "PatchAutoencoder"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}
