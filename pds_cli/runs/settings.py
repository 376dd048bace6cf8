"""What a run's settings are, and whether a resumed run agrees with them."""

from __future__ import annotations

import hashlib
import json

from omegaconf import DictConfig, OmegaConf

from pds_cli.errors import UserError
from pds_cli.instantiate import literal_config
from pds_cli.reading import read_yaml
from pds_cli.runs.folder import RunFolder

# Settings that may differ when a run goes on: they change nothing of its result.
FREE = frozenset(
    [
        "resume",
        "out",
        "debug",
        "device",
        "checkpoint_every",
        "render_every",
        "turntable",
        "log_every",
        "logger",
        "allow_modules",
    ]
)
# Never taken from the folder, even where the command line says nothing: a folder that somebody
# sent must not say which modules to trust.
OF_THE_COMMAND_LINE = frozenset(["resume", "out", "debug", "allow_modules"])


def fingerprint(cfg: DictConfig) -> str:
    """A hash of everything that shapes a run's result."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    kept = {k: v for k, v in plain.items() if k not in FREE and k != "hydra"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def resumed(cfg: DictConfig, resolved: DictConfig, run: RunFolder) -> DictConfig:
    """The settings that the run in a folder was started with.

    Args:
        cfg: the present command line's configuration.
        resolved: the same with recommendations filled in.

    Raises:
        UserError: the folder holds no run, or the command line asks for something that would
            change its result.
    """
    from hydra.core.hydra_config import HydraConfig

    path = run.path / "config.yaml"
    if not path.is_file():
        raise UserError(f"resume={run.path} holds no config.yaml: it is not the folder of a run")
    try:
        saved = literal_config(read_yaml(path))
    except AssertionError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({reason}): start a new run") from error
    given = set(OF_THE_COMMAND_LINE)
    for override in HydraConfig.get().overrides.task:
        key = override.split("=", 1)[0].lstrip("+~").split("@")[0].replace("/", ".")
        if key.split(".")[0] in FREE:
            given.add(key.split(".")[0])
            continue
        if OmegaConf.select(resolved, key) != OmegaConf.select(saved, key):
            raise UserError(
                f"{key} differs from the run in {run.path}, which cannot be changed midway: "
                "resume it without that setting, or start a new run"
            )
    for key in given & set(cfg):
        saved[key] = cfg[key]
    return saved
