"""The job that runs now: its words, its chosen options, and its folder, as Hydra has them."""

from __future__ import annotations

from pathlib import Path


def run_folder() -> Path:
    """The output folder of the job that runs now (what a verb's `main` writes to)."""
    from hydra.core.hydra_config import HydraConfig

    return Path(HydraConfig.get().runtime.output_dir)


def choice(group: str) -> str:
    """The option that was chosen from a config group, in the job that runs now."""
    from hydra.core.hydra_config import HydraConfig

    return str(HydraConfig.get().runtime.choices.get(group, ""))


def overrides() -> list[str]:
    """The words of the command line, in the job that runs now."""
    from hydra.core.hydra_config import HydraConfig

    return [str(word) for word in HydraConfig.get().overrides.task]


def key_of(word: str) -> str:
    """The dotted key that a word of the command line is about.

    >>> key_of("+loss.identity=2"), key_of("~editor"), key_of("hydra/launcher=joblib")
    ('loss.identity', 'editor', 'hydra.launcher')
    """
    return word.partition("=")[0].lstrip("+~").partition("@")[0].replace("/", ".")


def given_groups() -> set[str]:
    """The keys at the top that the command line is about, in the job that runs now."""
    return {key_of(word).partition(".")[0] for word in overrides()}


def method_of(loss: str, editor: str) -> str:
    """What edits, for folders and reports: a loss, an editor, or a dataset update with one.

    >>> method_of("pds", "none"), method_of("pds", "sdedit")
    ('pds', 'sdedit')
    >>> method_of("dataset_update", "sdedit")
    'dataset_update_sdedit'
    """
    if editor in ("", "none", "None"):
        return loss
    return f"{loss}_{editor}" if loss == "dataset_update" else editor
