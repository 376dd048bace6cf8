"""Finds a Stable-Diffusion-format checkpoint and checks its files before anything is built.

A checkpoint is a folder as `diffusers` writes it: `model_index.json`, and one folder a component
with a `config.json` and safetensors weights. Pickled weights are never read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pds_cli.errors import UserError, first_line
from pds_cli.reading import read_json

PROBE_SECONDS = 5.0
"""How long the hub may take to answer before it counts as out of reach."""
EXAMPLE_ID = "stable-diffusion-v1-5/stable-diffusion-v1-5"

_STEM = r"(diffusion_pytorch_model|model)"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose files are known to be there and readable.

    index: the content of `model_index.json`.
    variants: for each component the variant of its weights (`fp16`, …), None for the plain ones.
    """

    folder: Path
    index: dict[str, Any]
    variants: dict[str, str | None]

    @property
    def is_sdxl(self) -> bool:
        """Whether there is a second text encoder."""
        return "text_encoder_2" in self.variants

    def config(self, component: str, file: str = "config.json") -> dict[str, Any]:
        """The JSON configuration of one component."""
        return _read_json(self.folder / component / file)


def open_checkpoint(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    variant: str | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Resolves a local folder or hub id to a checked checkpoint.

    A folder is taken as it is. A hub id is looked for in the hub's local cache first, so that a
    model once downloaded needs no network; only then is the hub asked, for the needed files only.
    `HF_HUB_OFFLINE=1` is respected.

    Raises:
        UserError: nothing there, no network, pickled weights only, corrupt or missing files, or a
            pipeline of another family.
    """
    name = os.fspath(model) if model else ""
    if not name:
        raise UserError(
            "backbone.model is empty: give a hub id or a folder, for example "
            "`backbone=local backbone.model=models/sd15`"
        )
    path = Path(name).expanduser()
    if path.is_dir():
        return check_folder(path, variant)
    if path.is_file():
        raise UserError(
            f"backbone.model={name} is a file, but a folder in diffusers format is needed: convert "
            "it with diffusers' StableDiffusionPipeline.from_single_file(…).save_pretrained(folder)"
        )
    if local_files_only or not _HUB_ID.fullmatch(name):
        raise UserError(
            f"backbone.model={name}: there is no such folder; put a checkpoint in diffusers format "
            f"there, for example with {_download_command(EXAMPLE_ID, variant, folder=name)}"
        )
    cached, problem = _cached_folder(name, revision), None
    if cached is not None:
        try:
            return check_folder(cached, variant)
        except UserError as error:
            problem = error
    try:
        folder = _download(name, revision, variant)
    except UserError as error:
        raise (problem or error) from error
    return check_folder(folder, variant)


def check_folder(folder: Path, variant: str | None = None) -> Checkpoint:
    """Checks that a folder holds a Stable-Diffusion-format pipeline with intact safetensors.

    Reads the configurations and the weights' headers, not the weights.

    Raises:
        UserError: naming the file or component at fault.
    """
    index_file = folder / "model_index.json"
    if not index_file.is_file():
        raise UserError(
            f"{folder} is not a checkpoint in diffusers format: it has no model_index.json"
        )
    index = _read_json(index_file)
    _check_family(folder, index)
    variants: dict[str, str | None] = {}
    for component in components(index):
        place = folder / component
        if not (place / "config.json").is_file():
            raise UserError(
                f"{place} has no config.json: download the checkpoint again, completely"
            )
        _read_json(place / "config.json")
        names = sorted(p.name for p in place.iterdir())
        chosen = select_weights(names, variant)
        if chosen is None:
            raise UserError(_no_weights(place, names))
        variants[component], files = chosen
        for file in files:
            _check_weights(place / file)
    if not (folder / "scheduler" / "scheduler_config.json").is_file():
        raise UserError(
            f"{folder} has no scheduler/scheduler_config.json, which the noise levels need"
        )
    return Checkpoint(folder, index, variants)


def components(index: dict[str, Any]) -> list[str]:
    """The components with weights that an editor needs, of those in `model_index.json`."""
    return [c for c in _CLASSES if (index.get(c) or [None, None])[1] is not None]


def select_weights(
    names: Iterable[str], variant: str | None
) -> tuple[str | None, list[str]] | None:
    """Picks the weight files of one component from its folder's file names.

    The wanted variant is preferred; without it the plain weights, and without those `fp16`.

    Returns:
        (variant found, file names with a shard index first), or None where there are none.
    """
    names = list(names)
    for wanted in dict.fromkeys([variant, None, "fp16"]):
        tag = rf"\.{re.escape(wanted)}" if wanted else ""
        single = re.compile(rf"{_STEM}{tag}\.safetensors")
        index = re.compile(rf"{_STEM}\.safetensors\.index{tag}\.json")
        shard = re.compile(rf"{_STEM}{tag}-\d+-of-\d+\.safetensors")
        found = [n for n in names if single.fullmatch(n)][:1]
        if not found and any(index.fullmatch(n) for n in names):
            found = [n for n in names if index.fullmatch(n)][:1]
            found += [n for n in names if shard.fullmatch(n)]
        if found:
            return wanted, found
    return None


def _check_family(folder: Path, index: dict[str, Any]) -> None:
    for component, expected in _CLASSES.items():
        entry = index.get(component)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if found is None and component == "text_encoder_2":
            continue
        if found != expected:
            raise UserError(
                f"{folder} is a {index.get('_class_name', 'pipeline')} whose {component} is "
                f"{found or 'missing'}; this backbone takes Stable Diffusion 1.x, 2.x and SDXL, "
                f"where it is {expected}"
            )
    if index.get("requires_aesthetics_score"):
        raise UserError(f"{folder} is the SDXL refiner; the base model is what edits need")


def _no_weights(place: Path, names: list[str]) -> str:
    if any(n.endswith((".bin", ".ckpt", ".pt", ".pth")) for n in names):
        return (
            f"{place} has only pickled weights, which are not read because they can run code: "
            "get the safetensors version of this checkpoint"
        )
    return f"{place} has no safetensors weights: download the checkpoint again, completely"


def _check_weights(file: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if file.suffix == ".json":
        for shard in set(_read_json(file).get("weight_map", {}).values()):
            if not (file.parent / shard).is_file():
                raise UserError(f"{file.parent / shard} is missing, though {file.name} names it")
        return
    try:
        # The header states every tensor's place, and safetensors compares it with the length.
        with safe_open(file, framework="np") as weights:
            weights.keys()
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is corrupt or truncated ({error}): delete it and download it again"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = read_json(file)
    except UserError as error:
        raise UserError(f"{error}: download it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} does not hold a JSON object: download it again")
    return content


def _download_command(hub_id: str, variant: str | None = None, folder: str | None = None) -> str:
    """The shell command that fetches what is needed, and how to name the folder afterwards."""
    folder = folder or f"models/{hub_id.split('/')[-1]}"
    weights = f"*model.{variant}.safetensors" if variant else "*model.safetensors"
    return (
        f'`hf download {hub_id} --include "*.json" --include "*.txt" --include "{weights}" '
        f"--local-dir {folder}`, then use `backbone=local backbone.model={folder}`"
    )


def _cached_folder(hub_id: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _download(hub_id: str, revision: str | None, variant: str | None) -> Path:
    """Fetches the files that `check_folder` needs into the hub's cache; returns the folder."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise UserError(
            f"{hub_id} is not on this machine and HF_HUB_OFFLINE is set: unset it, or where there "
            f"is network run {_download_command(hub_id, variant)}"
        )
    try:
        # Asked first, with a short limit: the download itself would wait far longer.
        info = HfApi().model_info(hub_id, revision=revision, timeout=PROBE_SECONDS)
        names = [s.rfilename for s in info.siblings or []]
        return Path(
            snapshot_download(
                hub_id, revision=info.sha, allow_patterns=needed_files(names, variant)
            )
        )
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"backbone.model={hub_id} is neither a folder here nor a public model on the hub"
            + (f" at revision {revision}" if revision else "")
            + ": check the name, or log in with `hf auth login` if it is private or gated"
        ) from error
    except UserError:
        raise
    except Exception as error:  # the client's errors differ between versions and transports
        raise UserError(
            f"{hub_id} is not on this machine and could not be fetched "
            f"({first_line(error)[:160]}): where there is network run "
            f"{_download_command(hub_id, variant)}"
        ) from error


def needed_files(names: Iterable[str], variant: str | None) -> list[str]:
    """Of a repository's file names, those that an edit needs."""
    names = list(names)
    chosen = [n for n in names if n == "model_index.json" or n.startswith("scheduler/")]
    chosen += [n for n in names if re.match(r"tokenizer(_2)?/[^/]+\.(json|txt)$", n)]
    for component in _CLASSES:
        inside = [n.split("/", 1)[1] for n in names if n.startswith(f"{component}/")]
        weights = select_weights(inside, variant)
        chosen += [f"{component}/{n}" for n in inside if n == "config.json"]
        chosen += [f"{component}/{n}" for n in (weights[1] if weights else [])]
    return chosen
