"""Packs a backbone that `pds pretrain` wrote, with its probe or similarity model.

python -m pds_cli.pretraining.packing outputs/toybox pds_cli/data/toybox
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pds_cli.backbones.adapter import base_folder, base_name
from pds_cli.backbones.embedded import PACKAGED, load_parts, read_adapter
from pds_cli.pretraining.adapter import write_index
from pds_cli.pretraining.components import remove_parts
from pds_cli.scripts import check_words, run
from pds_cli.weights import PACKED, read_weights, write_weights


def pack_backbone(source: Path, target: Path) -> None:
    """Packs a backbone folder for the package: the parts' weights, and the models beside them.

    An adapter stays one, of the same base.

    Raises:
        UserError: there is no backbone, or the target cannot be written.
    """
    parts, adapter = load_parts(source), read_adapter(source)
    if source.resolve() != target.resolve():
        remove_parts(target)
    _copy(source, target)
    if adapter is None:
        _pack_parts(parts, source, target)
    else:
        base = base_name(base_folder(adapter, source, PACKAGED), target, PACKAGED)
        write_index(target, replace(adapter, base=base))
    for file in source.glob("*.safetensors"):
        write_weights(target / file.name, *read_weights(file))
    for file in target.rglob("*.safetensors"):
        file.chmod(0o644)  # they are written as private files


def _pack_parts(parts: dict[str, Any], source: Path, target: Path) -> None:
    """The parts of a backbone of its own."""
    for part in ("unet", "text_encoder", "vae"):
        for old in (target / part).glob("*.safetensors"):
            old.unlink()
        _copy(source / part, target / part)
        write_weights(target / part / PACKED, parts[part].state_dict(), {"part": part})
    for rest in ("tokenizer", "scheduler"):
        _copy(source / rest, target / rest)


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
