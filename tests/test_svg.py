"""Reading, drawing, editing and writing SVG files."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Answer
from drawing_pages import by_pds, by_resvg, page
from lxml import etree
from PIL import Image

from pds_cli.drawings.drawing import parse_drawing, read_drawing
from pds_cli.drawings.rasterise import Numbers, compiled, rasterise
from pds_cli.errors import UserError
from pds_cli.representations.svg.representation import SVG
from pds_cli.scenes.svg import SAMPLES, SVGScene

pytest.importorskip("resvg_py")


def likeness(text: str) -> float:
    """PSNR of our picture of a document to resvg's."""
    reference = by_resvg(text)
    assert float(reference.std()) > 0.01, "nothing to see"
    picture = by_pds(parse_drawing(text.encode()), *reference.shape[:2])
    return float(-10 * np.log10(max(float(np.square(picture - reference).mean()), 1e-10)))


# --- what files say ------------------------------------------------------------------------------

STAR = "M50 8L76 90L8 38H92L24 90Z"
FEATURES = {
    "every shape": '<rect x="5" y="5" width="30" height="20" rx="6" ry="4"/><circle cx="60" cy="20"'
    ' r="14" fill="red"/><ellipse cx="25" cy="55" rx="20" ry="9" fill="#00f"/>'
    '<polygon points="60,40 95,45 80,70" fill="teal"/><path d="M10 75q20 -15 40 5t40 -3v15z"/>'
    '<polyline points="5,95 20,80 40,97" fill="orange"/>',
    "lines": '<line x1="10" y1="10" x2="90" y2="70" stroke="#036" stroke-width="6"/>',
    "all path commands": '<path d="M10,30A20 20 0 0 1 50 30a20 20 0 0 1 40 0Q90 60 50 90t-9-9'
    'S20 70 10 30Zm5 5 h4v5H12z" fill="crimson"/>',
    "arcs": '<path d="M20 50a30 18 25 1 0 50 -10zM10 80a5 5 0 0110 0zm30 5A9 4 30 1160 90z"/>',
    "nested transforms": '<g transform="translate(50 50)"><g transform="rotate(30) scale(1.5 .7)">'
    '<rect x="-20" y="-20" width="40" height="40" transform="skewX(15)" fill="#482"/></g></g>',
    "transform list": '<path transform="matrix(1 .2 -.3 1 10 5),scale(.5)" '
    'd="M10 10H100V100H10Z"/>',
    "use": '<defs><path id="p" d="M0 0h20v20H0z"/></defs><use href="#p" x="10" y="10"/>'
    '<use xlink:href="#p" transform="translate(60 40) rotate(45)" fill="red"/>',
    "use of a symbol": '<symbol id="s" viewBox="0 0 10 10"><circle cx="5" cy="5" r="5"/></symbol>'
    '<use href="#s" x="10" y="20" width="40" height="40" fill="green"/>',
    "nested svg": '<svg x="20" y="10" width="50" height="80" viewBox="0 0 10 10">'
    '<rect width="10" height="10" fill="gold"/><circle cx="5" cy="5" r="4"/></svg>',
    "style attribute": '<path style="fill:#f80;fill-opacity:.5;stroke:none" fill="red" '
    'd="M10 10H90V90H10Z"/>',
    "style sheet": "<style>.a{fill:rgb(20,130,90)} path.b,#c{fill:hsl(200 80% 40%);opacity:.8} "
    'g > rect{fill:plum}</style><path class="a" d="M0 0H50V50H0Z"/><path class="b" '
    'd="M50 0H99V50H50Z"/><circle id="c" cx="30" cy="75" r="20"/><g><rect x="60" y="60" '
    'width="30" height="30"/></g>',
    "currentColor and inheritance": '<g color="#a0c" fill="currentColor"><circle cx="40" cy="40" '
    'r="30"/><g fill="inherit" color="red"><rect x="60" y="60" width="30" height="30"/></g></g>',
    "opacities": '<g opacity=".5"><circle cx="40" cy="50" r="30" fill="red"/><circle cx="60" '
    'cy="50" r="30" fill="blue" fill-opacity=".7" opacity=".9"/></g>'
    '<rect x="5" y="5" width="30" height="30" fill="rgba(0,128,0,.4)"/>',
    "even-odd": f'<path fill-rule="evenodd" d="{STAR}"/>',
    "nonzero": f'<path fill="#04a" d="{STAR}"/>',
    "linear gradients": '<linearGradient id="a"><stop stop-color="red"/><stop offset="50%" '
    'stop-color="#ff0" stop-opacity=".5"/><stop offset="1" style="stop-color:#00f"/>'
    '</linearGradient><linearGradient id="b" href="#a" gradientUnits="userSpaceOnUse" x1="60" '
    'y1="60" x2="80" y2="70" spreadMethod="reflect"/><linearGradient id="c" xlink:href="#a" '
    'gradientTransform="rotate(30 .5 .5)" x2="60%"/><rect x="5" y="5" width="40" height="20" '
    'fill="url(#a)"/><rect x="50" y="50" width="45" height="45" fill="url(#b)"/>'
    '<rect x="5" y="40" width="40" height="50" fill="url(#c)"/><rect x="50" y="5" width="40" '
    'height="40" fill="url(#c)" transform="rotate(10 70 25)"/>',
    "radial gradients": '<radialGradient id="a" cx=".4" cy=".4" r=".6" fx=".3" fy=".3">'
    '<stop offset=".1" stop-color="#fff"/><stop offset=".9" stop-color="#048"/></radialGradient>'
    '<radialGradient id="b" gradientUnits="userSpaceOnUse" cx="70" cy="70" r="12" '
    'spreadMethod="repeat" gradientTransform="matrix(1 .3 0 .8 0 0)"><stop stop-color="#e40"/>'
    '<stop offset="1" stop-color="#fe8"/></radialGradient><rect x="5" y="5" width="60" '
    'height="30" fill="url(#a)"/><circle cx="70" cy="75" r="22" fill="url(#b)"/>',
    "strokes": '<g fill="none" stroke="#333" stroke-width="8"><path d="M10 20L40 10L60 30"/>'
    '<path d="M10 50L40 40L60 60" stroke-linejoin="round" stroke-linecap="round"/>'
    '<path d="M10 80L40 70L60 90" stroke-linejoin="bevel" stroke-linecap="square"/></g>'
    '<rect x="70" y="10" width="20" height="70" fill="#fc0" stroke="#06c" stroke-width="3"/>',
    "dashes": '<path d="M10 10C90 10 90 90 10 90" fill="none" stroke="#a03" stroke-width="4" '
    'stroke-dasharray="12,5,3" stroke-dashoffset="4"/>',
    "a stroke with an opacity": '<circle cx="50" cy="50" r="30" fill="red" stroke="blue" '
    'stroke-width="20" opacity=".5"/>',
    "a stretched stroke": '<circle cx="10" cy="25" r="8" fill="none" stroke="#000" '
    'stroke-width="2" transform="scale(4 2)"/>',
    "a painted stroke": '<linearGradient id="a"><stop stop-color="red"/><stop offset="1" '
    'stop-color="#00f"/></linearGradient><path d="M20 20L80 80L80 20" fill="none" '
    'stroke="url(#a)" stroke-width="12"/>',
    "clips": '<clipPath id="a"><circle cx="50" cy="50" r="35"/><rect x="70" y="5" width="25" '
    'height="25" transform="rotate(5)"/></clipPath><clipPath id="b" '
    'clipPathUnits="objectBoundingBox"><circle cx=".5" cy=".5" r=".5"/></clipPath>'
    '<g clip-path="url(#a)"><rect width="100" height="50" fill="red"/><rect y="50" width="100" '
    'height="50" fill="blue"/></g><rect x="5" y="70" width="40" height="20" clip-path="url(#b)"/>',
    "a clip of a clip": '<clipPath id="a"><circle cx="40" cy="50" r="35"/></clipPath>'
    '<clipPath id="b" clip-path="url(#a)"><path clip-rule="evenodd" '
    'd="M50 8L76 90L8 38H92L24 90Z"/></clipPath>'
    '<rect width="100" height="100" fill="#640" clip-path="url(#b)"/>',
    "a viewBox that does not fit": '<rect width="100" height="100" fill="#ccc"/><circle cx="50" '
    'cy="50" r="40"/>',
    "hidden things": '<rect width="40" height="40" display="none"/><circle cx="50" cy="50" r="20" '
    'visibility="hidden"/><rect x="60" y="60" width="30" height="30" fill="red"/><g '
    'visibility="hidden"><rect width="20" height="20" visibility="visible"/></g>',
    "units": '<rect x="1cm" y="10%" width="30pt" height="10mm" fill="#084"/>',
    "switch": '<switch><rect width="50" height="50" fill="red"/><circle r="50"/></switch>',
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_looks_as_with_resvg(name: str) -> None:
    attributes = 'viewBox="0 0 100 100"'
    if name == "a viewBox that does not fit":
        attributes = 'viewBox="0 0 100 100" width="200" height="100" preserveAspectRatio="xMaxYMid"'
    assert likeness(page(FEATURES[name], attributes)) > 36


@pytest.mark.parametrize("sample", sorted(p.name for p in SAMPLES.glob("*.svg")))
def test_real_drawings_look_as_with_resvg(sample: str) -> None:
    assert likeness((SAMPLES / sample).read_text()) > 40


@pytest.mark.parametrize(
    "attributes",
    [
        'viewBox="0 0 2 2"',
        'viewBox="-50 -20 4000 3000"',
        'width="40" height="80"',
        'width="50%" height="100%" viewBox="0 0 30 60"',
        'width="3in" viewBox="10 10 50 20"',
        'viewBox="0 0 20 10" width="100" height="100" preserveAspectRatio="xMinYMax slice"',
        'viewBox="0 0 20 10" width="100" height="100" preserveAspectRatio="none"',
    ],
)
def test_coordinate_systems(attributes: str) -> None:
    body = '<rect x="-9999" y="-9999" width="99999" height="99999" fill="#dff"/>' + "".join(
        f'<circle cx="{r}" cy="{r}" r="{r / 3}" fill="{c}"/>'
        for r, c in ((1, "red"), (20, "blue"), (1500, "green"))
    )
    assert likeness(page(body, attributes)) > 34


def test_what_is_not_drawn_is_said_and_left_out() -> None:
    body = (
        '<filter id="f"/><mask id="m"/><pattern id="p"/><text x="5" y="20">hello</text>'
        '<image href="cat.png" width="9" height="9"/><rect id="r" width="50" height="50" '
        'filter="url(#f)" mask="url(#m)" fill="red"/><rect width="9" height="9" fill="url(#p)"/>'
    )
    drawing = parse_drawing(page(body).encode())
    said = "\n".join(drawing.warnings)
    for word in ("<text>", "<image>", "filters", "masks", "id='r'", "patterns"):
        assert word in said
    assert len(drawing.shapes) == 1
    assert b"<text" not in etree.tostring(drawing.root)


# --- bad files -----------------------------------------------------------------------------------

BOMB = "<!DOCTYPE svg [<!ENTITY a 'aaaaaaaaaa'>" + "".join(
    f"<!ENTITY a{i} '{f'&a{i - 1};' * 10 if i else '&a;' * 10}'>" for i in range(9)
)
BAD = {
    "empty": ("", "not a readable SVG"),
    "truncated": (page('<path d="M0 0H9V9Z"/>')[:-20], "not a readable SVG"),
    "not XML": ("PNG? no.", "not a readable SVG"),
    "HTML": ("<html><body/></html>", "not <svg>"),
    "entity bomb": (f"{BOMB}]>{page('<desc>&a8;</desc>')}", "entit"),
    "entity bomb in an attribute": (BOMB + "]>" + page("<path d='&a8;'/>"), "entit"),
    "external entity": (
        f'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>{page("<desc>&x;</desc>")}',
        "entities",
    ),
    "negative viewBox": (page("<path/>", 'viewBox="0 0 -5 10"'), "viewBox"),
    "no area": (page("<path/>", 'width="0" height="10"'), "shows nothing"),
    "nothing drawn": (page("<desc/>"), "no filled shapes"),
    "too deep": (page("<g>" * 5000 + "</g>" * 5000), "not a readable SVG"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_files_get_a_sentence(name: str, tmp_path: Path) -> None:
    text, reason = BAD[name]
    path = tmp_path / "bad.svg"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        SVGScene(path, "a thing")
    assert "bad.svg" in str(caught.value) and "root:" not in str(caught.value)


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.svg"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(UserError, match="200 MiB"):
        read_drawing(path)


def test_a_million_paths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.svg"
    path.write_text(page('<a d=""/>' * 1_000_000))
    with pytest.raises(UserError, match="more than 50000 elements"):
        read_drawing(path)


def test_uses_that_multiply_are_refused() -> None:
    layers = '<g id="u0"><path d="M0 0H1V1Z"/></g>' + "".join(
        f'<g id="u{i}">' + f'<use href="#u{i - 1}"/>' * 10 + "</g>" for i in range(1, 9)
    )
    with pytest.raises(UserError, match="once what it uses is copied"):
        parse_drawing(page(layers).encode())


@pytest.mark.parametrize(
    "body",
    [
        '<use id="a" href="#a"/>',
        '<g id="a"><use href="#a"/></g>',
        '<g id="a"><use href="#b"/></g><g id="b"><use href="#a"/></g>',
        '<use href="#nobody"/><use href="other.svg#x"/><use/>',
        '<linearGradient id="g" href="#h"/><linearGradient id="h" href="#g"/>'
        '<path d="M0 0H9V9Z" fill="url(#g)"/>',
        '<clipPath id="c"><path d="M0 0H9V9Z" clip-path="url(#c)"/></clipPath>'
        '<path d="M0 0H9V9Z" clip-path="url(#c)"/>',
        '<path d="M0 0L5"/><path d="hello"/><path d="M1e999 0L5 5Z"/><circle r="-3"/>',
        '<path d="M0 0H9V9Z" transform="scale(0)"/><path d="M0 0H9V9Z" transform="what(3)"/>',
        '<path d="M0 0H900" stroke="red" stroke-dasharray=".00001"/>',
        '<path d="M0 0H9V9Z" stroke="red" stroke-width="nan" fill="url(#)"/>',
    ],
)
def test_circles_and_nonsense_are_drawn_without_what_makes_no_sense(body: str) -> None:
    drawing = parse_drawing(page(body + '<rect width="30" height="30" fill="red"/>').encode())
    picture = by_pds(drawing, 20, 20)
    assert np.isfinite(picture).all()
    assert drawing.shapes[-1].element.get("d") is None  # written with `write_drawing` only


@pytest.mark.parametrize(
    "body",
    [
        '<g id="u0"><path d="M0 0H1V1Z"/></g>'
        + "".join(f'<g id="u{i}"><g><g><use href="#u{i - 1}"/></g></g></g>' for i in range(1, 140)),
        "".join(
            f'<clipPath id="c{i}" clip-path="url(#c{i - 1})"><path d="M0 0H9V9Z"/></clipPath>'
            for i in range(2000)
        )
        + '<path d="M0 0H9V9Z" clip-path="url(#c1999)"/>',
    ],
)
def test_what_is_nested_too_deep_is_refused(body: str) -> None:
    with pytest.raises(UserError, match="too deep"):
        parse_drawing(page(body).encode())


def test_long_paths_are_drawn_or_named() -> None:
    line = "".join(f"l{i % 9 - 4} {i % 11 - 5}" for i in range(20_000))
    drawing = parse_drawing(page(f'<path fill="none" stroke="red" d="M9 9{line}"/>').encode())
    assert len(drawing.shapes) == 1 and not drawing.warnings
    drawing = parse_drawing(page(f'<path id="x" d="M9 9{line * 40}"/>').encode())
    assert not drawing.shapes and "'x'" in drawing.warnings[0]


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_drawn_or_refused(seed: int) -> None:
    """Numbers and words of good files, replaced at random: nothing is infinite, nothing crashes."""
    rng = random.Random(seed)
    odd = [
        "nan",
        "1e999",
        "-1",
        "0",
        "1e-30",
        "url(#a)",
        "#",
        "inherit",
        "none",
        "%",
        "999999999",
        "1e38",
        "M",
        "z",
        "A",
        "<",
        ">",
        "-0.0",
    ]
    for body in rng.sample(sorted(FEATURES.values()), 8):
        words = re.findall(r"[-\d.]+|[a-zA-Z]+|.", page(body))
        for _ in range(rng.randint(1, 4)):
            words[rng.randrange(len(words))] = rng.choice([*odd, rng.choice(words), ""])
        try:
            drawing = parse_drawing("".join(words).encode())
        except UserError:
            continue
        program, numbers = compiled(drawing)
        free = [v.to(torch.float32).requires_grad_() for v in vars(numbers).values()]
        image = rasterise(program, Numbers(*free), drawing.placed(32, 32), 32, 32)
        image.sum().backward()
        assert bool(torch.isfinite(image).all())
        assert all(v.grad is None or bool(torch.isfinite(v.grad).all()) for v in free)


def test_no_file_is_read_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    text = (
        '<?xml version="1.0"?><?xml-stylesheet href="http://example.org/a.css"?>'
        '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/svg11.dtd">'
        + page('<style>@import url("http://example.org/b.css"); path{fill:red}</style>'
               '<image href="http://example.org/c.png"/><path d="M0 0H9V9Z"/>')
    )  # fmt: skip
    path = tmp_path / "a.svg"
    path.write_text(text)
    assert len(read_drawing(path).shapes) == 1


# --- writing -------------------------------------------------------------------------------------


class _Backbone:
    device = torch.device("cpu")

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return 64, 64


def represented(text: str, tmp_path: Path, **options: object) -> SVG:
    path = tmp_path / "source.svg"
    path.write_text(text)
    return SVG(SVGScene(path, "a thing", size=128), _Backbone(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [n for n in FEATURES if n != "a viewBox that does not fit"])
def test_what_is_written_looks_as_what_was_read(name: str, tmp_path: Path) -> None:
    text = page(FEATURES[name])
    written = represented(text, tmp_path).svg().decode()
    reference, again = by_resvg(text), by_resvg(written)
    assert -10 * np.log10(max(float(np.square(reference - again).mean()), 1e-10)) > 36
    numbers = re.findall(r"[-\d.]+", " ".join(re.findall(r' (?:d|[xyrcf]\w?)="([^"]*)"', written)))
    assert numbers and all(len(n.partition(".")[2]) <= 3 for n in numbers)


def test_ids_order_and_groups_are_kept(tmp_path: Path) -> None:
    body = (
        '<defs><linearGradient id="paint"><stop stop-color="red"/><stop offset="1"/>'
        '</linearGradient></defs><g id="all" class="k"><rect id="one" width="50" height="50" '
        'fill="url(#paint)"/><g id="inner" transform="scale(2)"><circle id="two" cx="20" cy="20" '
        'r="9" stroke="red" stroke-width="2"/></g></g><path id="three" d="M60 60H90V90Z"/>'
    )
    root = etree.fromstring(represented(page(body), tmp_path).svg())
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert ids == ["paint", "all", "one", "inner", "two", "two-stroke", "three"]
    parents = {e.get("id"): e.getparent().get("id") for e in root.iter() if e.get("id")}
    assert parents["one"] == "all" and parents["two"] == "inner" == parents["two-stroke"]
    three = next(e for e in root.iter() if e.get("id") == "three")
    assert three.get("d") == "M60 60L90 60L90 90Z"


def test_moved_numbers_are_written(tmp_path: Path) -> None:
    text = page('<path id="a" d="M10 10H90V90H10Z" fill="#ff0000"/>')
    svg = represented(text, tmp_path, parameters=["points", "colors", "opacities"])
    with torch.no_grad():
        svg.points += 51.2  # a tenth of the longer side
        svg.colors.copy_(torch.tensor([[0.0, 0.0, 1.0]]))
        svg.opacities.fill_(0.5)
    root = etree.fromstring(svg.svg())
    path = root[0]
    assert path.get("d") == "M20 20L100 20L100 100L20 100Z"
    assert path.get("fill") == "#0000ff" and path.get("fill-opacity") == "0.5"
    assert svg.changes()["points_moved"] == pytest.approx(51.2 * 2**0.5, rel=1e-5)
    assert svg.changes()["colors_changed"] == pytest.approx(2 / 3 * 255, rel=1e-5)


def test_an_edited_drawing_written_by_us_is_drawn_alike_by_resvg(tmp_path: Path) -> None:
    svg = represented((SAMPLES / "cat_icon.svg").read_text(), tmp_path)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        svg.points += 6 * torch.randn(svg.points.shape, generator=generator)
        svg.colors += 0.1 * torch.randn(svg.colors.shape, generator=generator)
        svg.regularise()
    theirs = by_resvg(svg.svg().decode(), 256)
    ours = svg.image(256, 256).detach().permute(1, 2, 0).numpy()
    assert -10 * np.log10(float(np.square(theirs - ours).mean())) > 38


# --- the representation --------------------------------------------------------------------------


def test_parameters_are_switchable(tmp_path: Path) -> None:
    body = FEATURES["linear gradients"] + FEATURES["opacities"]
    names = {
        "points": {"points"},
        "colors": {"colors", "stop_colors"},
        "opacities": {"opacities", "stop_opacities", "groups"},
        "gradients": {"gradients", "offsets"},
    }
    for chosen, expected in names.items():
        svg = represented(page(body), tmp_path, parameters=[chosen])
        assert {n for n, _ in svg.named_parameters()} == expected
        svg.render(svg.view).square().sum().backward()
        for name, parameter in svg.named_parameters():
            assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name
    with pytest.raises(UserError, match="choose from points"):
        represented(page(body), tmp_path, parameters=["sizes"])


def test_regularise_brings_numbers_back(tmp_path: Path) -> None:
    every = ["points", "colors", "opacities", "gradients"]
    body = FEATURES["radial gradients"] + FEATURES["opacities"]
    svg = represented(page(body), tmp_path, parameters=every, max_move=5.0)
    with torch.no_grad():
        for parameter in svg.parameters():
            parameter.add_(30 * torch.randn(parameter.shape))
    svg.regularise()
    for name in ("colors", "stop_colors", "opacities", "groups", "offsets"):
        value = getattr(svg, name).detach()
        assert float(value.min()) >= 0 and float(value.max()) <= 1
    assert float((svg.points - svg.first_points).detach().norm(dim=1).max()) <= 5.001
    for begin, end in svg.program.stop_spans:
        assert bool((svg.offsets[begin:end].diff() >= 0).all())
    assert bool(torch.isfinite(svg.render(svg.view)).all())


def test_a_drawing_can_be_fitted_to_another(tmp_path: Path) -> None:
    """Gradient descent through the rasteriser moves a square onto a circle."""
    circle = represented(page('<circle cx="60" cy="45" r="25" fill="#0a0"/>'), tmp_path)
    target = circle.render(circle.view).detach()
    body = '<path d="M20 30C20 30 60 30 60 30C60 30 60 70 60 70C60 70 20 70 20 70C20 70 20 30 20 30Z" fill="red"/>'  # noqa: E501
    svg = represented(page(body), tmp_path)
    groups = [{"params": g["params"], "lr": 0.03 * g["lr_scale"]} for g in svg.parameter_groups()]
    optimizer = torch.optim.Adam(groups)
    first = float((svg.render(svg.view) - target).square().mean().detach())
    for _ in range(150):
        optimizer.zero_grad()
        loss = (svg.render(svg.view) - target).square().mean()
        loss.backward()
        optimizer.step()
        svg.regularise()
    assert float(loss.detach()) < first / 50


def test_symmetry_and_xing_are_penalties(tmp_path: Path) -> None:
    body = '<path d="M20 20C40 10 60 10 80 20L70 80L30 80Z"/>'
    svg = represented(page(body), tmp_path, symmetry=1.0, xing=1.0)
    generator = torch.Generator()
    start = svg.penalty(svg.view, 0.5, generator)
    assert start is not None and float(start.detach()) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        svg.points[0] += torch.tensor([10.0, 0.0])  # no longer symmetric
    crooked = svg.penalty(svg.view, 0.5, generator)
    assert crooked is not None and float(crooked.detach()) > 1
    with torch.no_grad():
        svg.points[[1, 2]] = svg.points[[2, 1]]  # the curve crosses itself
        svg.points[0] -= torch.tensor([10.0, 0.0])
    plain = represented(page(body), tmp_path, xing=1.0)
    with torch.no_grad():
        plain.points.copy_(svg.points)
    crossed = plain.penalty(plain.view, 0.5, generator)
    assert crossed is not None and float(crossed.detach()) > 0.1


# --- the command line ----------------------------------------------------------------------------


def test_an_edit_of_a_drawing_from_end_to_end(
    pds: Callable[..., Answer], tiny_backbone: Path, tmp_path: Path
) -> None:
    words = ["edit", "scene=cat_icon", "prompt=a dog face", f"backbone.model={tiny_backbone}"]
    answer = pds(*words, "steps=6", "checkpoint_every=3", "out=run")
    assert answer.code == 0, answer.err
    run = tmp_path / "run"
    source = etree.parse(SAMPLES / "cat_icon.svg").getroot()
    result = etree.parse(run / "exports/result.svg").getroot()
    assert len(result.findall(".//{*}path")) == len(
        [e for e in source.iter() if e.tag.split("}")[1] in ("path", "circle", "ellipse")]
    )
    with Image.open(run / "exports/result.png") as image:
        assert image.size == (512, 512)
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    # Six steps of Adam with steps of 0.8 (of 512) at most.
    assert 0.1 < metrics["points_moved"] < 8 and 0.1 < metrics["colors_changed"] < 20
    assert metrics["psnr_source"] > 20
    assert (run / "report.html").is_file()
    again = pds(*words, "steps=6", "out=again")
    assert again.code == 0
    assert (run / "exports/result.svg").read_bytes() == (
        tmp_path / "again/exports/result.svg"
    ).read_bytes()


def test_the_same_shapes_with_colours_alone(
    pds: Callable[..., Answer], tiny_backbone: Path, tmp_path: Path
) -> None:
    answer = pds(
        *("edit", "scene=cat_icon", "prompt=a dog face", f"backbone.model={tiny_backbone}"),
        *("steps=3", "out=run", "representation.parameters=[colors]"),
    )
    assert answer.code == 0, answer.err
    metrics = json.loads((tmp_path / "run/summary.json").read_text())["metrics"]
    assert metrics["points_moved"] == 0 and metrics["colors_changed"] > 0


def test_an_edit_can_be_watched(
    pds: Callable[..., Answer], tiny_backbone: Path, tmp_path: Path
) -> None:
    answer = pds(
        *("edit", "scene=cat_icon", "prompt=a dog face", f"backbone.model={tiny_backbone}"),
        *("steps=6", "out=run", "representation.animation=2"),
    )
    assert answer.code == 0, answer.err
    exports = tmp_path / "run/exports"
    result, moving = (etree.parse(exports / f"{n}.svg").getroot() for n in ("result", "animation"))
    assert not result.findall(".//{*}animate")
    for path in moving.findall(".//{*}path"):
        moves = {a.get("attributeName"): a.get("values").split(";") for a in path}
        assert len(moves["d"]) == 5  # before, after 2, 4 and 6 steps, and the end
        assert moves["d"][-1] == path.get("d") == moves["d"][-2]
        assert len({re.sub(r"[-.\d ]+", "", d) for d in moves["d"]}) == 1, "the same commands"
        assert moves["fill"][-1] == path.get("fill")
    assert likeness_of_stills(moving, result) > 60
    with Image.open(exports / "animation.gif") as film:
        assert film.n_frames >= 4  # type: ignore[attr-defined]


def test_a_checkpoint_keeps_the_frames(tmp_path: Path) -> None:
    text = page('<path d="M10 10H90V90Z" fill="#f00"/>')
    svg, again = (represented(text, tmp_path, animation=1) for _ in range(2))
    with torch.no_grad():
        for step in range(3):
            svg.points += step
            svg.regularise()
    again.load_state_dict(svg.state_dict())
    assert torch.equal(again.frames, svg.frames) and len(svg.frames) == 4
    assert int(again.steps) == 3


def likeness_of_stills(one: etree._Element, other: etree._Element) -> float:
    """PSNR of two documents, by resvg, which shows no animation."""
    a, b = (by_resvg(etree.tostring(root).decode()) for root in (one, other))
    return float(-10 * np.log10(max(float(np.square(a - b).mean()), 1e-10)))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["scene=svg"], "scene.path"),
        (["scene=svg", "scene.path=no.svg", "source=a cat"], "no such file"),
        (["scene=svg", "scene.path=cat_icon"], "source="),
        (["scene=cat_icon", "representation.parameters=[size]"], "choose from points"),
        (["scene=cat_icon", "representation.background=[1]"], "three numbers"),
        (["scene=cat_icon", "representation.max_move=-1"], "above 0"),
        (["scene=figurine2d", "representation=svg"], "use scene=svg"),
        (["scene=cat_icon", "representation=nerf"], "scene"),
    ],
)
def test_wrong_words_get_a_sentence(
    pds: Callable[..., Answer],
    tiny_backbone: Path,
    tmp_path: Path,
    words: list[str],
    reason: str,
) -> None:
    answer = pds("edit", "prompt=a dog", f"backbone.model={tiny_backbone}", "out=run", *words)
    assert answer.code == 2 and reason in answer.err, answer.err
    assert "Traceback" not in answer.err
