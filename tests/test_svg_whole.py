"""What an edit that moves nothing writes: the same drawing, and nothing that runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Answer
from drawing_pages import by_pds, by_resvg, page
from lxml import etree

from pds_cli.drawings.drawing import (
    Drawing,
    parse_drawing,
    read_drawing,
    write_drawing,
)
from pds_cli.drawings.rasterise import compiled
from pds_cli.errors import UserError
from pds_cli.scenes.svg import SVGScene

R = '<rect x="10" y="10" width="50" height="40"'
C = '<circle cx="60" cy="60" r="30"'
STOPS = '<stop offset=".2" stop-color="#f20"/><stop offset=".9" stop-color="#02f"/>'


def written(drawing: Drawing) -> str:
    """The file of an edit that moved nothing."""
    program, numbers = compiled(drawing)
    stops = [numbers.stops[a:b].numpy() for a, b in program.stop_spans]
    return write_drawing(
        drawing,
        numbers.points.numpy(),
        numbers.data.numpy(),
        stops,
        numbers.opacities.numpy(),
        numbers.groups.numpy(),
    ).decode()


def likeness(one: str, other: str, width: int = 384) -> float:
    """PSNR of two files, both drawn by resvg.

    Large, as what resvg makes of an edge within a pixel differs by as much between a stroke and
    its outline.
    """
    a, b = by_resvg(one, width), by_resvg(other, width)
    assert a.shape == b.shape
    return float(-10 * np.log10(max(float(np.square(a - b).mean()), 1e-10)))


DRAWINGS = {
    # opacities
    "fill-opacity of a group": f'<g fill-opacity=".5">{R}/>{C} fill-opacity="1" fill="red"/></g>',
    "stroke-opacity of a group": f'<g stroke-opacity=".4" stroke="red" stroke-width="8">{R}/>'
    f'{C} stroke-opacity="1" fill="none"/></g>',
    "fill-opacity 1 again and again": f'<g fill-opacity=".3"><g fill-opacity="1"><g fill-opacity='
    f'".6">{R}/></g>{C} fill="teal"/></g></g>',
    "fill-opacity of the svg in percent": f'<svg fill-opacity="40%">{R}/>{C} fill="red" '
    'fill-opacity="100%"/></svg>',
    "an opaque colour in a fading group": f'<g fill="rgba(255,0,0,.5)">{R}/>{C} fill="#0a0"/></g>',
    "groups with opacities in groups": f'<g opacity=".7"><g opacity=".5">{R} opacity=".8" '
    f'fill="red"/>{C} opacity="1"/></g></g>',
    "opacity is not inherited": f'<g opacity=".5">{R}/><g opacity="inherit">{C} fill="red"/>'
    f'</g></g>',
    "opacity beyond 1 and below 0": f'{R} opacity="7"/>{C} opacity="-2"/>',
    "a shape of both with an opacity": f'<g fill-opacity=".5">{C} stroke="red" stroke-width="14" '
    'opacity=".6" fill-opacity="1"/></g>',
    # what is inherited
    "fill none of a group": f'<g fill="none" stroke="blue" stroke-width="3">{R}/>{C} fill="red'
    f'"/></g>',
    "stroke of a group": f'<g stroke="red" stroke-width="6">{R}/>{C} stroke="none"/></g>',
    "fill-rule of a group": '<g fill-rule="evenodd"><path d="M50 8L76 90L8 38H92L24 90Z"/>'
    '<path fill-rule="nonzero" fill="red" transform="scale(.4)" '
    'd="M50 8L76 90L8 38H92L24 90Z"/></g>',
    "stroke properties of a group": '<g fill="none" stroke="#123" stroke-width="9" '
    'stroke-linecap="round" stroke-linejoin="round" stroke-dasharray="20 14" '
    'stroke-dashoffset="5"><path d="M10 10H90V90"/><path stroke-dasharray="none" '
    'stroke-linecap="butt" stroke-linejoin="miter" stroke="red" d="M10 30L30 90L50 30"/></g>',
    "miter limits": '<g fill="none" stroke="#000" stroke-width="8" stroke-miterlimit="1.5">'
    '<path d="M10 90L30 20L50 90"/><path stroke-miterlimit="10" d="M55 90L70 30L85 90"/></g>',
    "visibility of a group": f'<g visibility="hidden">{R} visibility="visible" fill="red"/>'
    f'</g>{C}/>',
    "currentColor": f'<g color="red"><g fill="currentColor" color="blue">{R}/></g>{C} '
    'stroke="currentColor" stroke-width="9"/></g>',
    "currentColor of stops": '<g color="#0a0"><linearGradient id="a" color="#c0c"><stop '
    'stop-color="currentColor"/><stop offset="1" color="#fc0" stop-color="currentColor"/>'
    f'</linearGradient></g>{R} fill="url(#a)"/>',
    "currentColor of the svg": f'<svg color="#a40"><linearGradient id="a"><stop '
    f'stop-color="currentColor"/><stop offset="1"/></linearGradient>{R} fill="url(#a)"/></svg>',
    "clip-rule of a group": '<g clip-rule="evenodd"><clipPath id="a"><path '
    'd="M50 8L76 90L8 38H92L24 90Z"/></clipPath></g><rect width="99" height="99" '
    'clip-path="url(#a)"/>',
    # cascade
    "style wins over attributes": f'{R} fill="red" style="fill:blue;opacity:.5"/>{C} '
    'opacity=".2" style="opacity:1"/>',
    "a sheet wins over attributes": f'<style>.a{{fill:#0a0;fill-opacity:1}} g{{fill-opacity:.5}}'
    f'</style><g>{R} class="a" fill="red"/>{C}/></g>',
    "specificity and order": '<style>#x{fill:red} .a{fill:blue} rect{fill:lime} .b{fill:#840} '
    f'.a{{stroke:red;stroke-width:4}}</style>{R} class="a b" id="x"/>{C} class="b a"/>',
    "important": f'<style>.a{{fill:red!important}} #c{{fill:blue}} .a{{fill:lime}}</style>{R} '
    f'class="a" style="fill:#123"/>{C} id="c" class="a"/>',
    "selectors": f'<style>g > rect{{fill:red}} g circle:first-child{{fill:#00c}} rect + circle'
    f'{{fill:orange}} [data-x="1"]{{stroke:#000;stroke-width:5}}</style>'
    f'<g>{R} data-x="1"/>{C}/></g>',
    "comments and CDATA": f'<style><![CDATA[ /* x */ .a{{fill:red}} .b{{fill:#0a0}} ]]>'
    f'</style>{R} class="a"/>{C} class="b"/>',
    "classes on groups": f'<style>.f{{fill-opacity:.4;stroke-opacity:.5}} .s{{fill-opacity:1}}'
    f'</style>'
    f'<g class="f" stroke="red" stroke-width="8">{R}/>{C} class="s"/></g>',
    "inherit": f'<g fill="#08c" fill-opacity=".5">{R} fill="inherit"/>{C} '
    'style="fill:inherit;fill-opacity:inherit"/></g>',
    # use and symbol
    "use inherits": f'<defs><g id="a">{R}/>{C} fill-opacity="1" fill="red"/></g></defs>'
    '<use href="#a" fill="#08c" fill-opacity=".4" transform="scale(.8)"/>',
    "use of use": '<defs><circle id="a" r="9"/><g id="b"><use href="#a" x="20"/><use href="#a" '
    'y="20" fill="red"/></g></defs><use href="#b" x="30" y="30"/><use href="#b" x="60" y="50" '
    'opacity=".5"/>',
    "use in percent": '<rect id="a" width="20" height="20"/><use href="#a" x="50%" y="25%" '
    'fill="red"/>',
    "a symbol with a viewBox": '<symbol id="s" viewBox="0 0 10 20" preserveAspectRatio="xMaxYMin">'
    '<rect width="10" height="20" fill="#fc0"/><circle cx="5" cy="5" r="5"/></symbol>'
    '<use href="#s" '
    'width="40" height="40"/><use href="#s" x="50" y="50" width="30" height="45" fill="red"/>',
    "a symbol cuts off": '<symbol id="s" viewBox="0 0 10 10"><circle cx="5" cy="5" r="8"/></symbol>'
    '<use href="#s" x="10" y="10" width="50" height="50" fill="red"/>',
    "a symbol that does not": '<symbol id="s" overflow="visible" viewBox="0 0 10 10"><circle cx="5"'
    ' cy="5" r="8"/></symbol><use href="#s" x="20" y="20" width="50" height="50" fill="red"/>',
    "use of a gradient's shape": f'<linearGradient id="g">{STOPS}</linearGradient><defs>'
    '<rect id="a" width="30" height="20" fill="url(#g)"/></defs><use href="#a" x="5" y="5"/>'
    '<use href="#a" transform="translate(50 50) scale(1.5)"/>',
    # gradients
    "inherited stops": f'<linearGradient id="a">{STOPS}</linearGradient><radialGradient id="b" '
    f'href="#a"/><linearGradient id="c" href="#b" x2="0" y2="1"/>{R} fill="url(#b)"/>{C} '
    'fill="url(#c)"/>',
    "stops with classes": '<style>.a{stop-color:red;stop-opacity:.4} .b{stop-color:#00f}</style>'
    '<linearGradient id="g"><stop class="a"/><stop class="b" offset="1" stop-opacity="1"/>'
    f'</linearGradient>{R} fill="url(#g)"/>',
    "stop-opacity 1 in a group": '<g stop-opacity=".3" stop-color="red"><linearGradient id="g">'
    f'<stop/><stop offset="1" stop-color="#0a0"/></linearGradient></g>{R} fill="url(#g)"/>',
    "stop-opacity inherit": '<linearGradient id="g" stop-opacity=".5"><stop stop-color="red" '
    'stop-opacity="inherit"/><stop offset="1" stop-color="#0a0"/></linearGradient>'
    f'{R} fill="url(#g)"/>',
    "spread methods": "".join(
        f'<linearGradient id="{m}" x1=".4" x2=".6" y2=".1" spreadMethod="{m}">{STOPS}'
        f'</linearGradient><rect x="5" y="{5 + 30 * i}" width="90" height="25" fill="url(#{m})"/>'
        for i, m in enumerate(("pad", "reflect", "repeat"))
    ),
    "gradient units": f'<linearGradient id="a" gradientUnits="userSpaceOnUse" x1="20" x2="70%">'
    f'{STOPS}</linearGradient><radialGradient id="b" cx="30%" r="70%" fx=".2">{STOPS}'
    f'</radialGradient><g transform="rotate(10)">{R} fill="url(#a)"/>{C} fill="url(#b)"/></g>',
    "a gradient's transform": '<radialGradient id="a" gradientTransform="rotate(40 .5 .5) '
    f'scale(1 .4)">{STOPS}</radialGradient><rect x="3" y="8" width="90" height="70" '
    'fill="url(#a)"/>',
    "a gradient under opacities": f'<linearGradient id="a">{STOPS}</linearGradient><g '
    f'fill-opacity=".4" fill="url(#a)">{R}/>{C} fill-opacity="1"/></g>',
    "a gradient on a stroke": f'<linearGradient id="a">{STOPS}</linearGradient><g stroke="url(#a)" '
    f'stroke-width="12" stroke-opacity=".5">{R} fill="none"/>{C} stroke-opacity="1"/></g>',
    "a fallback": f'<linearGradient id="a"/>{R} fill="url(#a) red"/>{C} fill="red"/>',
    "a gradient of one stop": '<linearGradient id="a"><stop offset=".5" stop-color="red" '
    f'stop-opacity=".5"/></linearGradient>{R} fill="url(#a)"/>{C}/>',
    "a gradient in what is hidden": f'<g display="none"><linearGradient id="a">{STOPS}'
    f'</linearGradient></g><pattern id="p"><radialGradient id="b">{STOPS}</radialGradient>'
    f'</pattern>'
    f'{R} fill="url(#a)"/>{C} fill="url(#b)"/>',
    # strokes
    "odd dashes and offsets": '<path d="M10 20H90" stroke="#000" stroke-width="6" '
    'stroke-dasharray="9"/><path d="M10 50H90" stroke="red" stroke-width="6" '
    'stroke-dasharray="9,4,2" stroke-dashoffset="-7"/><path d="M10 80H90" stroke="blue" '
    'stroke-width="6" stroke-dasharray="10%" stroke-linecap="square"/>',
    "joins": "".join(
        f'<path d="M{10 + 30 * i} 90L{20 + 30 * i} 20L{30 + 30 * i} 90" fill="none" stroke="#06c" '
        f'stroke-width="8" stroke-linejoin="{j}"/>'
        for i, j in enumerate(("miter", "round", "bevel"))
    ),
    "dots": '<g stroke="#000" stroke-width="16" stroke-linecap="round"><path d="M20 20h0"/>'
    '<path d="M60 20z"/><path d="M30 70L70 70" stroke-dasharray="0 20"/></g>',
    "a stroke below its fill": f'<g stroke="red" stroke-width="12" paint-order="stroke">{R}/>{C} '
    'paint-order="normal" fill="#0a0" opacity=".5"/></g>',
    "a stroke of both with paint-order": f'{C} stroke="red" stroke-width="12" paint-order="stroke" '
    'fill="#0a0" opacity=".5"/>',
    "a stroke of width 0": f'{R} stroke="red" stroke-width="0"/>{C} fill="none" stroke="#000"/>',
    # coordinates
    "a nested svg cuts off": '<svg x="20" y="20" width="40" height="40" viewBox="0 0 10 10">'
    '<circle '
    'cx="5" cy="5" r="7"/></svg><svg x="50%" y="60%" width="30%" height="30%"><rect x="-10" '
    'width="99" height="10" fill="red"/></svg>',
    "a nested svg with slice": '<svg x="10" y="20" width="80" height="40" viewBox="0 0 10 10" '
    'preserveAspectRatio="xMidYMin slice"><circle cx="5" cy="5" r="5"/></svg>',
    "a nested svg with an opacity and a clip": '<clipPath id="a"><circle cx="40" cy="40" r="20"/>'
    '</clipPath><svg opacity=".5" clip-path="url(#a)"><rect width="50" height="50"/></svg>',
    "transforms": f'<g transform="translate(10,5)rotate(20)">'
    f'<g transform="skewX(10) skewY(-5)">{R} '
    f'transform="scale(.5 1.2)"/>{C} transform="matrix(.6 .1 -.2 .5 20 30)" fill="red"/></g></g>',
    # clips
    "clips under transforms": '<clipPath id="a" transform="rotate(20 50 50)"><rect x="20" y="20" '
    'width="50" height="50"/></clipPath><g clip-path="url(#a)" transform="scale(.8)"><rect '
    f'width="99" height="99" fill="#0a0"/>{C} fill-opacity=".5"/></g>',
    "a clip with use": '<defs><circle id="c" cx="40" cy="40" r="30"/></defs><clipPath id="a"><use '
    'href="#c" x="10"/></clipPath><rect width="99" height="99" fill="red" clip-path="url(#a)"/>',
    "a clip with an opacity": '<clipPath id="a"><circle cx="40" cy="40" r="30" fill-opacity=".1"/>'
    '</clipPath><g fill-opacity=".5"><rect width="99" height="99" fill-opacity="1" '
    'clip-path="url(#a)" opacity=".7"/></g>',
    "an empty clip": f'<clipPath id="a"/>{R} clip-path="url(#a)"/>{C} fill="red"/>',
    "a clip of both": '<clipPath id="a"><rect x="20" y="20" width="60" height="60"/></clipPath>'
    f'{C} stroke="red" stroke-width="20" opacity=".5" clip-path="url(#a)"/>',
    "a clip with hidden shapes": '<clipPath id="a"><rect width="50" height="50" visibility="hi'
    'dden"/>'
    f'<rect x="40" y="40" width="30" height="30"/></clipPath>{C} clip-path="url(#a)"/>',
    # structure
    "links and switches": f'<a href="https://example.org/">{R} fill="#06c"/></a><switch>{C} '
    f'fill="red"/>{R}/></switch>',
    "titles within shapes": '<circle cx="50" cy="50" r="30" fill="red"><title>a ball</title>'
    '</circle>',
    "an empty group": f'<g id="e"/><g><g/></g>{R}/>',
    "colours": "".join(
        f'<rect x="{9 * (i % 10)}" y="{20 * (i // 10)}" width="9" height="20" fill="{c}"/>'
        for i, c in enumerate(
            ("#abc", "#abcd", "#aabbccdd", "RED", "rgb(10%,20%,30%)", "rgb(300,-5,7)",
             "hsl(120,50%,40%)", "hsla(20,50%,40%,.5)", "transparent", " red ", "grey")
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWINGS)
def test_what_is_drawn_without_a_warning_is_written_whole(name: str) -> None:
    text = page(DRAWINGS[name])
    drawing = parse_drawing(text.encode())
    assert [w for w in drawing.warnings if "hidden" not in w] == []
    assert likeness(text, written(drawing)) >= 40
    ours = by_pds(parse_drawing(text.encode()), 256, 256)
    assert -10 * np.log10(float(np.square(ours - by_resvg(text, 256)).mean())) > 36


# --- what is not understood ----------------------------------------------------------------------

NOT_UNDERSTOOD = {
    "a typo is ignored": ('<path fill="rde" d="M0 0H9V9Z"/>', "#000000", "fill: 'rde'"),
    "what is inherited applies": (
        '<g fill="#112233"><path fill="rde" d="M0 0H9V9Z"/></g>', "#112233", "fill: 'rde'"),
    "the attribute behind a style applies": (
        '<path fill="#445566" style="fill:color-mix(in srgb,red,blue)" d="M0 0H9V9Z"/>',
        "#445566", "color-mix"),
    "the rule behind a rule applies": (
        '<style>path{fill:#445566} .a{fill:#12}</style><path class="a" d="M0 0H9V9Z"/>',
        "#445566", "fill: '#12'"),
    "a variable that nobody sets": (
        '<g fill="#778899"><path fill="var(--x)" d="M0 0H9V9Z"/></g>', "#778899", "var(--x)"),
    "a variable's fallback": ('<path fill="var(--x, #102030)" d="M0 0H9V9Z"/>', "#102030", ""),
    "a variable": (
        '<style>svg{--x:red;--y:var(--x)} .a{--x:#0000ff}</style><g class="a"><path '
        'style="fill:var(--x)" d="M0 0H9V9Z"/></g>', "#0000ff", ""),
    "variables in a circle": (
        '<path style="--x:var(--y);--y:var(--x);fill:var(--x)" d="M0 0H9V9Z"/>', "#000000",
        "var(--x)"),
    "oklch": ('<path fill="oklch(0.628 0.2577 29.23)" d="M0 0H9V9Z"/>', "#ff0000", ""),
    "oklab": ('<path fill="oklab(0.5198 -0.1403 0.1077)" d="M0 0H9V9Z"/>', "#008000", ""),
    "lab": ('<path fill="lab(29.57 68.30 -112.03)" d="M0 0H9V9Z"/>', "#0000ff", ""),
    "words of CSS Color 4": ('<path fill="rgb(1 2 3 / 100%)" d="M0 0H9V9Z"/>', "#010203", ""),
    "a name": ('<path fill="rebeccapurple" d="M0 0H9V9Z"/>', "#663399", ""),
    "initial": ('<g fill="red"><path style="fill:initial" d="M0 0H9V9Z"/></g>', "#000000", ""),
    "unset": ('<g fill="#ff0000"><path style="fill:unset" d="M0 0H9V9Z"/></g>', "#ff0000", ""),
    "a gradient that is not there": (
        '<path fill="url(#no) #123456" d="M0 0H9V9Z"/>', "#123456", "there is no #no"),
    "a pattern's fallback": (
        '<pattern id="p"/><path fill="url(#p) #123456" d="M0 0H9V9Z"/>', "#123456", "patterns"),
    "the colour of a context": ('<path fill="context-fill" d="M0 0H9V9Z"/>', "#000000",
                                "context-fill"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_what_is_not_understood_is_ignored_as_in_a_browser(name: str) -> None:
    body, fill, said = NOT_UNDERSTOOD[name]
    drawing = parse_drawing(page(body).encode())
    root = etree.fromstring(written(drawing).encode())
    assert [e.get("fill") for e in root.iter("{*}path")] == [fill]
    assert said in "\n".join(drawing.warnings) and bool(drawing.warnings) == bool(said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<path stroke="red" stroke-width="-2" d="M0 0H9V9Z"/>', "stroke-width: '-2'"),
        ('<path stroke="red" stroke-width="calc(2px)" d="M0 0H9V9Z"/>', "stroke-width: 'calc"),
        ('<path fill-opacity="half" d="M0 0H9V9Z"/>', "fill-opacity: 'half'"),
        ('<path stroke-linejoin="arcs" stroke="red" d="M0 0H9V9Z"/>', "stroke-linejoin: 'arcs'"),
        ('<path stroke-dasharray="3 x" stroke="red" d="M0 0H9V9Z"/>', "stroke-dasharray: '3 x'"),
        ('<path transform="turn(9)" d="M0 0H9V9Z"/>', "transform: 'turn(9)'"),
        ('<path clip-path="circle(40%)" d="M0 0H9V9Z"/>', "clip-path: 'circle(40%)'"),
        ('<path clip-path="url(#no)" d="M0 0H9V9Z"/>', "there is no #no"),
        ('<path vector-effect="non-scaling-stroke" stroke="red" d="M0 0H9V9Z"/>', "vector-effect"),
        ('<path style="transform-origin:center" d="M0 0H9V9Z"/>', "transform-origin"),
        ('<rect width="9" height="9" style="width:50px"/>', "width in a style"),
        ("<style>@media print{path{fill:red}}</style><path d='M0 0H9V9Z'/>", "@media"),
        ("<style>path:{fill:red}</style><path d='M0 0H9V9Z'/>", "selector"),
        ('<g><use href="#no"/></g><path d="M0 0H9V9Z"/>', "<use> of 'no'"),
        ('<path d="M0 0H9V9Z"><animate attributeName="d" to="M0 0"/></path>', "<animate>"),
        ('<path d="M0 0H9V9Z"/><path d="M0 0H9V9Z" display="none"/>', "hidden"),
    ],
)  # fmt: skip
def test_what_is_not_drawn_as_the_file_says_is_named(body: str, said: str) -> None:
    drawing = parse_drawing(page(body).encode())
    assert said in "\n".join(drawing.warnings)
    assert len(drawing.warnings) == 1 and len(drawing.shapes) >= 1


def test_markers_are_named_and_none_is_left() -> None:
    marker = '<marker id="m" markerWidth="9" markerHeight="9"><path d="M0 0H9V9Z"/></marker>'
    for how in ('marker-start="url(#m)" marker-mid="url(#m)" marker-end="url(#m)"',
                'style="marker:url(#m)"'):  # fmt: skip
        for body in (
            f'<path {how} d="M9 9H50V50"/>',
            f'<g {how}><path d="M9 9H50V50"/></g>',
        ):
            drawing = parse_drawing(page(marker + body).encode())
            assert drawing.warnings == ["markers are ignored (<path>)"]
            assert "marker" not in written(drawing)


# --- what a browser would run --------------------------------------------------------------------

XHTML = 'xmlns:h="http://www.w3.org/1999/xhtml"'
HOSTILE = {
    "script": ("<script>alert(1)</script>", "<script>"),
    "script in a group": ('<g><defs><script href="data:,alert(1)"/></defs></g>', "<script>"),
    "event attributes": ('<g onclick="alert(1)" OnLoad="alert(2)"><path d="M0 0H9V9Z" '
                         'onbegin="alert(3)"/></g>', "onclick, onload, onbegin"),
    "a link that runs": ('<a href="javascript:alert(1)"><path d="M0 0H9V9Z"/></a>', "javascript:"),
    "an xlink that runs": ('<a xlink:href="javascript:alert(1)"><path d="M0 0H9V9Z"/></a>',
                           "javascript:"),
    "a link in disguise": ('<a href=" &#9;jAvA&#10;sCr&#13;ipt&#58;alert(1)"><path d="M0 0H9V9Z"/>'
                           '</a>', "jAvA sCr ipt"),
    "a link with controls": ('<a href="&#x85;java&#x200b;script:alert(1)">'
    '<path d="M0 0H9V9Z"/></a>',
                             "href="),
    "a page as a link": ('<a href="data:text/html,&lt;script>alert(1)&lt;/script>"><path '
                         'd="M0 0H9V9Z"/></a>', "data:text/html"),
    "vbscript": ('<a href="vbscript:x"><path d="M0 0H9V9Z"/></a>', "vbscript:"),
    "an animation of a link": ('<a href="#x"><set attributeName="href" to="javascript:alert(1)"/>'
                               '<animate attributeName="xlink:href" values="javascript:alert(1)"/>'
                               '<path d="M0 0H9V9Z"/></a>', "<set>, <animate>"),
    "an animation of an event": ('<path d="M0 0H9V9Z"><set attributeName="onclick" to="alert(1)"/>'
                                 '</path>', "<set>"),
    "an animation that runs at its end": ('<path d="M0 0H9V9Z"><animate attributeName="x" '
                                          'onend="alert(1)"/></path>', "onend"),
    "XHTML in metadata": (f'<metadata {XHTML}><h:body><h:script>alert(1)</h:script></h:body>'
                          '</metadata>', "<body>"),
    "XHTML in a title": (f'<title {XHTML}>a<h:img src="x" onerror="alert(1)"/></title>', "<img>"),
    "foreign objects": (f'<foreignObject><h:iframe {XHTML} src="https://example.org/"/>'
                        '</foreignObject>', "<foreignObject>"),
    "iframe": ('<iframe src="https://example.org/"/>', "<iframe>"),
    "handler": ('<handler type="application/ecmascript">alert(1)</handler>', "<handler>"),
    "MathML": ('<math xmlns="http://www.w3.org/1998/Math/MathML" href="javascript:alert(1)"/>',
               "<math>"),
    "a sheet that is fetched": ('<style>@import "https://example.org/a.css"; @font-face{src:'
                                'url(https://example.org/f)} path{fill:red}</style>', "@import"),
    "a paint that is fetched": ('<path d="M0 0H9V9Z" fill="url(https://example.org/a.svg#x)"/>',
                                "fill="),
    "a style that fetches": ('<path d="M0 0H9V9Z" style="-moz-binding:url(https://example.org/x);'
                             'cursor:url(//example.org/c)"/>', "-moz-binding"),
    "a use of another file": ('<use href="https://example.org/a.svg#x"/>', "example.org"),
    "a gradient of another file": ('<linearGradient id="g" href="a.svg#g"/>', "'a.svg#g'"),
    "a filter that fetches": ('<filter id="f"><feImage href="https://example.org/"/></filter>',
                              "example.org"),
    "another base": ('<g xml:base="https://example.org/"><path d="M0 0H9V9Z"/></g>', "xml:base"),
    "what nobody uses": ('<symbol id="s"><a href="javascript:alert(1)"><path d="M0 0H9V9Z" '
                         'onclick="x"/></a></symbol>', "javascript:"),
    "what is hidden": ('<g display="none"><a href="javascript:alert(1)"/><path onclick="x" '
                       'd="M0 0H9V9Z"/></g>', "javascript:"),
    "what is copied": ('<g id="a"><path d="M0 0H9V9Z" onclick="x"/></g><use href="#a" '
                       'onclick="alert(1)"/>', "onclick (2×)"),
    "licences that run": ('<metadata><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
                          'onload="alert(1)"/></metadata>', "onload"),
}  # fmt: skip


def found_to_run(text: bytes) -> list[str]:
    """What a browser would run or fetch in a file, found without the code that removes it."""
    root = etree.fromstring(text, etree.XMLParser(resolve_entities=False))
    found = [str(n) for n in root.itersiblings(preceding=True)]
    found += ["DOCTYPE"] if root.getroottree().docinfo.doctype else []
    for element in root.iter():
        if not isinstance(element.tag, str):
            found.append(str(element))
            continue
        space, _, name = element.tag[1:].partition("}")
        drawn = name in ("svg", "g", "a", "defs", "path", "clipPath", "linearGradient", "stop",
                         "radialGradient", "title", "desc", "metadata", "animate")  # fmt: skip
        if not (space.endswith("/2000/svg") and drawn) and "rdf-syntax" not in space:
            found.append(element.tag)
        if name == "animate" and element.get("attributeName") not in ("d", "fill"):
            found.append(f"animate {element.get('attributeName')}")
        for key, value in element.attrib.items():
            own = key.rpartition("}")[2].lower()
            url = re.sub(r"[^\x21-\x7e]", "", value).lower()
            if own.startswith("on") or own in ("style", "base", "src"):
                found.append(key)
            if own == "href" and not url.startswith(("#", "https://", "http://", "mailto:")):
                found.append(url)
            if "url(" in url and not url.startswith("url(#"):
                found.append(url)
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_browser_would_run_or_fetch_is_removed_and_named(name: str) -> None:
    body, said = HOSTILE[name]
    drawing = parse_drawing(page(body + '<path d="M0 0H9V9Z"/>').encode())
    assert found_to_run(page(body).encode()), "the test would not see it"
    assert found_to_run(written(drawing).encode()) == []
    named = [w for w in drawing.warnings if w.startswith("removed, as a browser would run")]
    assert len(named) == 1 and said in named[0]


def test_what_is_harmless_stays() -> None:
    body = (
        '<title>a cat</title><metadata><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax'
        '-ns#" '
        'xmlns:cc="http://creativecommons.org/ns#"><cc:license r:resource="https://creativecommons'
        '.org/licenses/by/4.0/"/></r:RDF></metadata><a href="https://example.org/"><path id="p" '
        'class="c" data-part="1" d="M0 0H9V9Z"/></a><a href="#p"><path d="M0 0H9V9Z"/></a>'
    )
    drawing = parse_drawing(page(body).encode())
    text = written(drawing)
    assert drawing.warnings == []
    for kept in ("<title>a cat", "licenses/by/4.0", 'href="https://example.org/"', 'href="#p"',
                 'id="p"', 'class="c"', 'data-part="1"'):  # fmt: skip
        assert kept in text


def test_exports_are_clean_and_the_warning_comes_once(
    pds: Callable[..., Answer], tiny_backbone: Path, tmp_path: Path
) -> None:
    bodies = "".join(body for body, _ in HOSTILE.values())
    (tmp_path / "a.svg").write_text(
        '<?xml version="1.0"?><?xml-stylesheet href="https://example.org/a.css"?><!DOCTYPE svg ['
        '<!ATTLIST svg onload CDATA "alert(1)"> <!ATTLIST path onclick CDATA "alert(1)">]>'
        + page(f'<path d="M10 10H90V90Z" fill="#f00"/>{bodies}')
    )
    words = ["edit", "scene=svg", "scene.path=a.svg", "source=a cat", "prompt=a dog", "out=run"]
    answer = pds(*words, f"backbone.model={tiny_backbone}", "steps=2", "representation.animation=1")
    assert answer.code == 0, answer.err
    assert answer.err.count("removed, as a browser would run or fetch it") == 1
    assert "<?xml-stylesheet?>" in answer.err and "<script>" in answer.err
    for name in ("result.svg", "animation.svg"):
        text = (tmp_path / "run/exports" / name).read_bytes()
        assert found_to_run(text) == []
        assert (b"<animate" in text) == (name == "animation.svg")


# --- bombs and nonsense --------------------------------------------------------------------------

P = '<path d="M0 0H9V9Z"/>'
CLIPS = "".join(
    f'<clipPath id="c{i}">'
    + "".join(
        f'<path d="M0 0H9V9Z" transform="translate({j} {i})" clip-path="url(#c{i - 1})"/>'
        for j in range(10)
    )
    + "</clipPath>"
    for i in range(1, 9)
)
REFUSED = {
    "rules in rules": ("<style>" + "@media x{" * 9000 + f"</style>{P}", "nested too deep"),
    "calls in calls": ("<style>path{fill:" + "rgb(" * 9000 + f"}}</style>{P}", "nested too deep"),
    "a style of brackets": (f'<path style="fill:{"calc(" * 9000}"/>{P}', "nested too deep"),
    "rules for everything": (
        "<style>" + "*{fill:red}" * 2000 + f"</style>{P * 30_000}", "too large to match"),
    "steps through the tree": (
        "<style>" + "g " * 9 + "path.b{fill:red}</style>" + "<g>" * 100 + P + "</g>" * 100,
        "too large to match"),
    "a long path used often": (
        f'<path id="p" d="M0 0{"h1" * 50_000}z"/>' + '<use href="#p"/>' * 20_000,
        "characters once what it uses is copied"),
    "clips in clips": (
        f'{CLIPS}<clipPath id="c0">{P}</clipPath><path d="M0 0H9V9Z" clip-path="url(#c8)"/>',
        "steps to draw"),
    "a clip of many, used often": (
        f'<clipPath id="c">{P * 1000}</clipPath>'
        + '<path d="M0 0H9V9Z" clip-path="url(#c)"/>' * 1000, "steps to draw"),
    "stops that multiply": (
        '<linearGradient id="g">' + '<stop offset=".5"/>' * 5000 + "</linearGradient>"
        + "".join(f'<path d="M0 0H{i}V9Z" fill="url(#g)"/>' for i in range(1, 50)),
        "50000 elements"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_multiplies_or_never_ends_is_refused(name: str, tmp_path: Path) -> None:
    body, reason = REFUSED[name]
    path = tmp_path / "bomb.svg"
    path.write_text(page(body))
    with pytest.raises(UserError, match=reason) as caught:
        read_drawing(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        "<style>svg{--x0:red;"
        + "".join(f"--x{i}:var(--x{i - 1}) var(--x{i - 1});" for i in range(1, 60))
        + f"fill:var(--x59)}}</style>{P}",
        f'<path fill="{"var(" * 100_000}" d="M0 0H9V9Z"/>',
        f'<path fill="{"rgb(" * 9000}" d="M0 0H9V9Z"/>',
        f'<path transform="{"rotate(1)" * 100_000}" d="M0 0H9V9Z"/>',
        f'<path fill="url(#{"x " * 100_000}" d="M0 0H9V9Z"/>',
        "".join(f'<path fill="x{i}" d="M0 0H9V9Z"/>' for i in range(300)),
        "".join(f'<linearGradient id="g{i}" href="#g{i + 1}"/>' for i in range(9000))
        + f'<path d="M0 0H9V9Z" fill="url(#g0)"/>{P}',
    ],
)
def test_values_that_never_end_are_ignored(body: str) -> None:
    drawing = parse_drawing(page(body).encode())
    assert len(drawing.warnings) <= 200
    assert drawing.shapes


HUGE = ["nan", "NaN", "inf", "-inf", "1e400", "-1e400", "9" * 400, "1e308", "-1e308", "1e-320"]


@pytest.mark.parametrize("value", HUGE)
def test_sizes_that_make_no_sense_are_refused_with_the_files_name(
    value: str, tmp_path: Path
) -> None:
    path = tmp_path / "odd.svg"
    for attributes in (
        f'width="{value}" height="9"',
        f'viewBox="0 0 9 9" height="{value}"',
        f'width="{value}"',
        f'viewBox="0 0 {value} 9"',
        f'viewBox="0 0 {value} {value}"',
        f'viewBox="{value} 0 9 9"',
    ):
        if (attributes[:11], value) == ('viewBox="1e', "1e-320"):
            continue  # an offset of almost nothing is one
        path.write_text(page(P, attributes))
        with pytest.raises(UserError, match=r"odd\.svg") as caught:
            read_drawing(path)
        assert "\n" not in str(caught.value)


NUMBERS = {
    "path": ("transform=rotate({})", "opacity={}", "fill-opacity={}", "stroke-width={}",
             "d=M{} 0L1 1",
             "stroke-dasharray={} 3", "stroke-dashoffset={}", "stroke-miterlimit={}",
             "d=M0 0A{} 9 0 0 1 9 9", "d=M0 0A9 9 {} 0 1 9 9", "d=M0 0l{} 1 1 {}"),
    "rect": ("x={}", "width={}", "height={}", "rx={}", "transform=scale({})",
             "transform=matrix({} 0 0 1 0 {})"),
    "circle": ("r={}", "cx={}"),
    "polygon": ("points=0 0 9 {} 9 9",),
    "svg": ("x={}", "width={}", "viewBox=0 0 {} 9", "viewBox={} 0 9 9"),
    "use": ("x={}", "width={}"),
    "linearGradient": ("x1={}", "gradientTransform=scale({})", "gradientUnits=userSpaceOnUse"),
    "radialGradient": ("r={}", "cx={}", "fr={}", "gradientTransform=translate({} {})"),
    "stop": ("offset={}", "stop-opacity={}"),
}  # fmt: skip
PLAIN = (
    '<linearGradient id="a"><stop{stop}/><stop offset="1" stop-color="red"/></linearGradient>'
    '<linearGradient id="b" href="#a"{linearGradient}/><radialGradient id="c" href="#a"'
    '{radialGradient}/><rect id="r" width="50" height="40" fill="url(#b)"{rect}/><circle cx="60" '
    'cy="60" r="30" fill="url(#c)"{circle}/><path d="M5 5H50V50" stroke="red" stroke-width="2"'
    '{path}/><polygon points="0 0 9 9 0 9"{polygon}/><svg width="50" height="50"{svg}>{P}</svg>'
    '<use href="#r"{use}/><path d="M0 0H99V9Z" fill="#123456"/>'
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("element", NUMBERS)
def test_numbers_that_make_no_sense_leave_a_picture(element: str) -> None:
    for pattern in NUMBERS[element]:
        name, _, value = pattern.partition("=")
        for odd in HUGE:
            given = dict.fromkeys(NUMBERS, "") | {"P": P}
            given[element] = f' {name}="{value.replace("{}", odd)}"'
            body = PLAIN.format(**given)
            # Where the attribute was there before, the odd one takes its place.
            body = re.sub(rf' {name}="[^"]*"([^<>]*{re.escape(given[element])})', r"\1", body)
            drawing = parse_drawing(page(body).encode())
            assert np.isfinite(by_pds(drawing, 16, 16)).all(), (pattern, odd)
            assert not re.search(r"\b(nan|inf)\b", written(drawing)), (pattern, odd)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a" * 5000 + ".svg", "can not be read"),
        ("~nobody-of-that-name/a.svg", "can not be read"),
    ],
)
def test_files_that_are_none(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=reason):
        SVGScene(name, "a thing")


def test_templates_and_their_groups_are_not_written() -> None:
    body = (
        '<defs><g id="t"><path id="p" d="M0 0H9V9Z"/></g><g id="u"><linearGradient id="l">'
        f'{STOPS}</linearGradient></g></defs><use href="#t"/><path fill="url(#l)" d="M0 0H9V9Z"/>'
    )
    root = etree.fromstring(written(parse_drawing(page(body).encode())).encode())
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert ids == ["u", "l", "t-2", "p-2"]
