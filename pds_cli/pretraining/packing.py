"""Packs a backbone that `pds pretrain` wrote, with its probe or similarity model.

python -m pds_cli.pretraining.packing outputs/toybox pds_cli/data/toybox
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from pds_cli.backbones.embedded import load_parts
from pds_cli.scripts import check_words, run
from pds_cli.weights import PACKED, read_weights, write_weights


def pack_backbone(source: Path, target: Path) -> None:
    """Packs a backbone folder for the package: the parts' weights, and the models beside them.

    Raises:
        UserError: there is no backbone, or the target cannot be written.
    """
    parts = load_parts(source)
    _copy(source, target)
    for part in ("unet", "text_encoder", "vae"):
        for old in (target / part).glob("*.safetensors"):
            old.unlink()
        _copy(source / part, target / part)
        write_weights(target / part / PACKED, parts[part].state_dict(), {"part": part})
    for rest in ("tokenizer", "scheduler"):
        _copy(source / rest, target / rest)
    for file in source.glob("*.safetensors"):
        write_weights(target / file.name, *read_weights(file))
    for file in target.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written as private files


def _copy(source: Path, target: Path) -> None:
    """The small files of a part."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.json"):
        if file.resolve() != (target / file.name).resolve():
            shutil.copy(file, target / file.name)


def main(argv: Sequence[str]) -> list[Path]:
    """Packs the backbone of the first word into the second; returns that."""
    check_words(argv, 2, 2, __doc__)
    pack_backbone(Path(argv[0]), Path(argv[1]))
    return [Path(argv[1])]


if __name__ == "__main__":
    sys.exit(run(main))
