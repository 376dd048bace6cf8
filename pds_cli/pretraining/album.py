"""Packs a captioned folder into one small file: for training where nothing can be rendered.

python -m pds_cli.pretraining.album outputs/data/toybox128 outputs/toybox128.zip 128
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.files import atomic_path
from pds_cli.pictures.captioned import load_captioned_images
from pds_cli.scripts import check_words, run

QUALITY = 85  # of WebP; at 128 pixels a toybox picture has about 2 KB, and 40 dB to the original


def pack(folder: Path, file: Path, size: int) -> Path:
    """Writes a zip of the folder's pictures as WebP and its captions; pairs keep their sources.

    Args:
        size: side of the pictures in pixels.

    Raises:
        UserError: no captioned folder, or no place to write.
    """
    found = load_captioned_images(folder, size)
    lines = []
    with atomic_path(file) as temporary, zipfile.ZipFile(temporary, "w") as album:
        for i, (texts, record) in enumerate(zip(found.captions, found.records, strict=True)):
            record = {**record, "file": f"{i:06d}.webp", "captions": texts}
            album.writestr(record["file"], _webp(found.images[i]))
            if found.sources is not None:
                record["source"] = {**record["source"], "file": f"{i:06d}_source.webp"}
                album.writestr(record["source"]["file"], _webp(found.sources[i]))
            lines.append(json.dumps(record, ensure_ascii=False))
        text = "\n".join(lines) + "\n"
        album.writestr("captions.jsonl", text, zipfile.ZIP_DEFLATED)
    return file


def unpack(file: Path, folder: Path) -> Path:
    """The captioned folder of such a file.

    Raises:
        UserError: it is none.
    """
    try:
        with zipfile.ZipFile(file) as album:
            album.extractall(folder)
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{file} is no packed folder of captioned pictures: {error}") from error
    return folder


def _webp(image: Tensor) -> bytes:
    data = BytesIO()
    pixels = image.movedim(0, -1).contiguous().numpy()
    Image.fromarray(pixels).save(data, "WEBP", quality=QUALITY, method=4)
    return data.getvalue()


def main(argv: Sequence[str]) -> list[Path]:
    """Packs the folder of the first word into the file of the second, at the size of the third."""
    check_words(argv, 3, 3, __doc__)
    if not argv[2].isdecimal() or int(argv[2]) < 8:
        raise UserError(f"{argv[2]} is no side of pictures: a number of at least 8 would be right")
    return [pack(Path(argv[0]), Path(argv[1]), int(argv[2]))]


if __name__ == "__main__":
    sys.exit(run(main))
