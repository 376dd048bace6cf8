"""A run folder: everything one run leaves behind, each file written whole or not at all."""

from __future__ import annotations

import json
import math
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.files import write_text
from pds_cli.options.job import overrides
from pds_cli.runs import layout
from pds_cli.runs.ownership import card_of, claimed, owns, remove_unfinished

if TYPE_CHECKING:
    from torch import Tensor


def environment(device: str = "cpu", seed: int | None = None) -> dict[str, Any]:
    """Versions of what shapes a result, the device, and the seed."""
    from importlib.metadata import PackageNotFoundError, version

    versions = {}
    for name in ("pds", "torch", "diffusers", "transformers", "hydra-core", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": versions,
        "device": device,
        "seed": seed,
    }


def megabytes(ru_maxrss: float) -> float:
    """The system's figure for the most memory held, which is in KB, but in bytes on macOS."""
    return ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def peak_memory() -> dict[str, float]:
    """The most memory that this process held so far, `memory_mb`, and on CUDA `gpu_memory_mb`.

    In a sweep, whose jobs share a process, that is the most of the jobs so far.
    """
    import torch

    found = {}
    if torch.cuda.is_available():
        found["gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return found
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory_mb": megabytes(held), **found}


class RunFolder:
    """Writes one run's files; `docs/reports.md` lists them.

    Args:
        path: the folder; made if missing.

    Raises:
        UserError: where the folder cannot be made or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the output folder {self.path} cannot be made ({error}); "
                "choose another one with out=<folder>"
            ) from error

    @property
    def checkpoint(self) -> Path:
        """Where the checkpoint is."""
        return self.path / layout.CHECKPOINT

    @property
    def metrics(self) -> Path:
        """One JSON object a line."""
        return self.path / layout.METRICS

    def begin(
        self,
        cfg: DictConfig,
        fingerprint: str = "",
        *,
        keep: bool = True,
        environment: Mapping[str, Any] | None = None,
        **facts: Any,
    ) -> None:
        """Everything has been checked and built: the run takes the folder.

        A run that `overwrite=true` replaces is removed, as far as pds wrote it; what stays is
        named on stderr. Writes `config.yaml`, `environment.json` where one is given, and last
        `run.json` (version, verb, words, fingerprint): what has that one can go on.

        Args:
            fingerprint: of the settings, for a run that can be continued.
            keep: whether what is there when the run fails is worth keeping.
            environment: of the process, as `environment` finds it.
            facts: what else `run.json` says.
        """
        claim = claimed(self.path)
        (self.path / layout.ERROR).unlink(missing_ok=True)  # of a job that was refused before
        left = [] if claim is None else claim.clear()
        if left:
            print(
                f"pds: kept in {self.path}, as no run wrote it: {', '.join(left)}",
                file=sys.stderr,
            )
        self.write_config(cfg)
        if environment is not None:
            self.write_json(layout.ENVIRONMENT, environment)
        if claim is not None:
            card = {"words": overrides(), "fingerprint": fingerprint, **facts}
            claim.begin(card, keep=keep)

    def go_on(self, cfg: DictConfig | None = None, fingerprint: str = "") -> None:
        """Everything has been checked and built: the run in the folder goes on.

        cfg, fingerprint: where it goes on to more steps than it was started with.
        """
        claim = claimed(self.path)
        if claim is not None:
            claim.begun = claim.keep = True
            remove_unfinished(self.path)
        (self.path / layout.ERROR).unlink(missing_ok=True)
        card = card_of(self.path)
        if cfg is None or card is None or card.get("fingerprint") == fingerprint:
            return
        before = [*card.get("fingerprints", []), card.get("fingerprint")]
        # In this order: a run that is killed between the two has settings that it once had.
        self.write_json(layout.CARD, {**card, "fingerprint": fingerprint, "fingerprints": before})
        self.write_config(cfg)

    def restart(self) -> None:
        """Forgets the steps of a run that has no checkpoint, so that it can begin again."""
        for path in (self.metrics, self.checkpoint):
            path.unlink(missing_ok=True)

    def write_config(self, cfg: DictConfig) -> None:
        """Writes the configuration, its interpolations filled in, as plain YAML."""
        write_text(self.path / layout.CONFIG, OmegaConf.to_yaml(cfg, resolve=True))

    def write_json(self, name: str, content: Any) -> None:
        """Writes `name` as indented JSON; NaN and infinities become null."""
        text = json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / name, text + "\n")

    def log(self, metrics: dict[str, Any]) -> None:
        """Appends a line to `metrics.jsonl`."""
        line = json.dumps(_finite(metrics), ensure_ascii=False, allow_nan=False)
        owns(self.metrics)
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise UserError(f"{self.metrics} cannot be written ({error})") from error

    def forget_after(self, stages: list[str], stage: str, step: int) -> None:
        """Drops logged lines past `step` of `stage`, which a resumed run will log again."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                place = (stages.index(record["stage"]), record["step"])
            except (ValueError, KeyError):
                continue
            if place <= (stages.index(stage), step):
                kept.append(line)
        write_text(self.metrics, "".join(f"{line}\n" for line in kept))

    def save_image(self, name: str, image: Tensor) -> Path:
        """Writes an image [3,H,W] in [0,1] to `renders/<name>.png`."""
        from pds_cli.pictures.files import write_image

        path = self.path / layout.RENDERS / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)
        return path


def check_seeds(seeds: int) -> None:
    """Refuses a benchmark without a seed.

    Raises:
        UserError: it has none.
    """
    if seeds < 1:
        raise UserError(f"benchmark.seeds={seeds} must be at least 1")


def seed_folder(place: Path, number: int) -> Path:
    """Where a benchmark's edit under its number-th seed is: the first in `place` itself.

    >>> seed_folder(Path("bench/pds"), 2).as_posix()
    'bench/pds/seed_2'
    """
    return place if number == 0 else place / f"seed_{number}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
