"""What both pages share: the template engine, pictures as data: URIs, and how numbers are said."""

from __future__ import annotations

import base64
import io
import math
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pds_cli.errors import UserError
from pds_cli.pages.charts import short
from pds_cli.pictures.pillow import load_image
from pds_cli.pictures.sheets import resize_box, resize_to_fit
from pds_cli.runs.differences import clean, shown

TEMPLATES = Path(__file__).parent / "templates"
SMALL = 160  # renders up to this many pixels are enlarged on the page
PASSED_ON = 4_000_000  # a PNG or GIF of up to this many bytes is embedded as it is


def precise(value: float | None) -> str:
    """A metric's value: two decimals from 10 on, three decimals below; an en dash for none."""
    if value is None or not math.isfinite(value):
        return short(value)
    if value == int(value) and abs(value) >= 1000:
        return short(value)
    text = f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"
    return short(value) if float(text) == 0 != value else text.replace("-", "−")


def duration(seconds: float | None) -> str:
    """41 s, 3 min 20 s, 2 h 5 min; empty for none."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def file_size(size: int) -> str:
    """123 B, 4.5 kB, 6.7 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


@dataclass(frozen=True)
class Picture:
    """An embedded picture: a data: URI and the size that it had, in pixels."""

    uri: str
    width: int
    height: int

    @property
    def small(self) -> bool:
        return max(self.width, self.height) <= SMALL


def picture(path: Path | None, longest: int = 1600) -> Picture | None:
    """Embed an image, scaled down to `longest` pixels; None where it is missing or damaged."""
    if path is None:
        return None
    try:
        image = load_image(path)
        data = path.read_bytes()
    except (UserError, OSError):
        return None
    width, height = image.size
    is_png = data.startswith(b"\x89PNG\r\n\x1a\n")
    if is_png and max(width, height) <= longest and len(data) <= PASSED_ON:
        return Picture(data_uri(data, "image/png"), width, height)
    if max(width, height) > longest:
        image = resize_to_fit(image, *resize_box(image, longest))
    return Picture(encode(image), width, height)


def animation(path: Path) -> Picture | None:
    """Embed a GIF as it is; None where it is missing, damaged or over `PASSED_ON` bytes."""
    try:
        image = load_image(path)
        data = path.read_bytes()
    except (UserError, OSError):
        return None
    if not data.startswith(b"GIF8") or len(data) > PASSED_ON:
        return None
    return Picture(data_uri(data, "image/gif"), *image.size)


def encode(image: Image.Image) -> str:
    """A data: URI of an image: PNG while small, JPEG (over white) beyond 512 pixels."""
    large = max(image.size) > 512
    if large and image.mode in ("RGBA", "LA", "P", "PA"):
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    elif image.mode not in ("RGB", "RGBA", "L", "LA"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    if large:
        image.convert("RGB").save(buffer, "JPEG", quality=92)
        return data_uri(buffer.getvalue(), "image/jpeg")
    image.save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue(), "image/png")


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


@lru_cache(maxsize=1)
def environment() -> jinja2.Environment:
    """The template engine: everything is escaped; an unknown name is an error."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters.update(short=short, precise=precise, clean=clean, shown=shown)
    # tojson escapes <, >, & and ', so that no text can end the script element it stands in.
    env.policies["json.dumps_kwargs"] = {"ensure_ascii": True, "allow_nan": False}
    return env


def render(template: str, **values: Any) -> str:
    """The page that a template gives for these values."""
    return environment().get_template(template).render(**values)


def relative_link(target: Path, folder: Path) -> str | None:
    """A quoted link from a page in `folder` to `target`; None across drives."""
    from urllib.parse import quote

    try:
        path = Path(os.path.relpath(target.resolve(), folder.resolve())).as_posix()
    except (ValueError, OSError):
        return None
    # The leading ./ keeps a folder called `a:b` from being read as a scheme.
    return "./" + quote(path, errors="surrogateescape")
