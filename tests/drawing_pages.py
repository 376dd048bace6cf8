"""SVG documents and their pictures, by us and by resvg."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pds_cli.drawings.drawing import Drawing
from pds_cli.drawings.rasterise import compiled, rasterise

resvg_py = pytest.importorskip("resvg_py")

HEAD = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'


def page(body: str, attributes: str = 'viewBox="0 0 100 100"') -> str:
    return f"{HEAD} {attributes}>{body}</svg>"


def by_resvg(text: str, width: int = 128) -> np.ndarray:
    data = resvg_py.svg_to_bytes(
        svg_string=text, width=width, background="#ffffff", skip_system_fonts=True, dpi=96
    )
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"), np.float32) / 255


def by_pds(drawing: Drawing, height: int, width: int) -> np.ndarray:
    program, numbers = compiled(drawing)
    image = rasterise(
        program, numbers.to(torch.float32), drawing.placed(width, height), height, width
    )
    return image[:3].permute(1, 2, 0).numpy()
