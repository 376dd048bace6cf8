"""report.html and the comparison page, read back with an HTML parser."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from finished_runs import write_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pds_cli.errors import UserError
from pds_cli.metrics.names import metric, parts
from pds_cli.pages.charts import build_chart, short, thin, ticks
from pds_cli.pages.comparison import write_comparison
from pds_cli.pages.page import duration, precise
from pds_cli.pages.plan import make_plan
from pds_cli.pages.report import subsample, write_report
from pds_cli.pictures.video import write_gif
from pds_cli.runs.differences import all_settings, clean, differing_keys
from pds_cli.runs.record import parse_metrics, read_run
from pds_cli.runs.settings import FREE

NASTY = '<script>alert("x")</script> & \'quotes\' </title> {{ 7*7 }} "é 猫 😀"'
FILES = ("config.yaml", "environment.json", "metrics.jsonl", "summary.json")


# ---------------------------------------------------------------------------- fixtures


def drawing(arms: float, hat: bool = False, size: int = 64) -> Image.Image:
    """A toy figure; arms in [0,1] from hanging to raised."""
    big = Image.new("RGB", (4 * size, 4 * size), "#bcd7ee")
    pen, u = ImageDraw.Draw(big), 4 * size / 64
    pen.rectangle((0, 38 * u, 64 * u, 64 * u), fill="#868a93")
    pen.ellipse((44 * u, 46 * u, 58 * u, 60 * u), fill="#f2c21b")
    hand = 40 - 26 * arms
    for side in (-1, 1):
        points = [((30 + 6 * side) * u, 28 * u), ((30 + 14 * side) * u, hand * u)]
        pen.line(points, fill="#2f8a34", width=round(4 * u))
    pen.ellipse((22 * u, 22 * u, 38 * u, 44 * u), fill="#37a03c")
    pen.rectangle((25 * u, 42 * u, 35 * u, 54 * u), fill="#2d3a63")
    pen.ellipse((24 * u, 8 * u, 36 * u, 22 * u), fill="#e0b48c")
    if hat:
        pen.polygon([(22 * u, 11 * u), (38 * u, 11 * u), (30 * u, 0)], fill="#5a2d9c")
    return big.resize((size, size), Image.Resampling.LANCZOS)


def long_run(folder: Path, **changes: Any) -> Path:
    """An edit of 200 steps that follows its prompt the better, the higher the guidance.

    changes: keys of its config; `loss` and `scene` are options, `identity` is the loss's, `views`
        names of views, and `frames` how many pictures of the way each has.
    """
    loss, views = changes.pop("loss", "pds"), changes.pop("views", ["front"])
    frames, identity = changes.pop("frames", 17), changes.pop("identity", 1.0)
    scene, guidance = changes.pop("scene", "figurine"), changes.setdefault("guidance", 7.5)
    config = {"steps": 200, "out": None, "loss.guidance": guidance, **changes}
    config |= {"loss.identity": identity} if loss == "pds" else {}
    strength = guidance / (guidance + 12)
    pictures = {}
    for view in views:
        pictures[f"source_{view}"], pictures[f"truth_{view}"] = drawing(0), drawing(1)
        pictures[f"result_{view}"] = drawing(strength)
        for i in range(frames):
            step = i * 200 // max(1, frames - 1)
            pictures[f"edit_{step:06d}_{view}"] = drawing(strength * i / frames)
    metrics = {
        "psnr_source": 31.2 - strength * 9,
        "ssim_source": 0.97 - strength * 0.1,
        "lpips_source": 0.02 + strength * 0.09,
        "psnr_truth": 17.5 + strength * 5,
        "ssim_truth": 0.81 + strength * 0.1,
        "lpips_truth": 0.19 - strength * 0.11,
    }
    summary = {"scene": scene, "seconds": 41.3, "steps": 200, "metrics": metrics}
    summary |= {"source_prompt": "a photo of a man next to a yellow ball"}
    summary |= {"prompt": changes["prompt"]} if "prompt" in changes else {}
    write_run(folder, pictures, loss=loss, config=config, summary=summary)
    lines = []
    for step in range(1, 201):
        loss_value = 4 * math.exp(-step / 60) + 0.4 + 0.3 * math.sin(step * 1.7)
        norm = 0.02 * math.exp(-step / 80) * (1 + 0.5 * math.sin(step * 2.3))
        lines.append(json.dumps({"stage": "edit", "step": step, "loss": loss_value, "lr": 0.01,
                                 "grad_norm": norm}))  # fmt: skip
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def make_sweep(folder: Path, **axes: list[Any]) -> list[Path]:
    """A full sweep, one numbered folder a job, the last axis fastest."""
    jobs: list[dict[str, Any]] = [{}]
    for key, values in axes.items():
        jobs = [{**job, key: value} for job in jobs for value in values]
    return [long_run(folder / str(i), **job, frames=2) for i, job in enumerate(jobs)]


class Page(HTMLParser):
    """A parsed page: elements with their attributes, and the text of each element by tag."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text("utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.stack: list[str] = []
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in ("meta", "link", "img", "input", "br", "path"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.stack:
            while self.stack.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        self.texts.append((self.stack[-1] if self.stack else "", data))

    def all(self, tag: str, cls: str = "") -> list[dict[str, str]]:
        return [
            a for t, a in self.tags if t == tag and (not cls or cls in a.get("class", "").split())
        ]

    def text(self, tag: str) -> str:
        return "".join(text for t, text in self.texts if t == tag)

    @property
    def visible(self) -> str:
        return " ".join(text for t, text in self.texts if t not in ("style", "script"))

    def images(self) -> list[Image.Image]:
        out: list[Image.Image] = []
        for attrs in self.all("img"):
            head, _, data = attrs["src"].partition(",")
            assert re.fullmatch(r"data:image/(png|jpeg);base64", head)
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            image.load()
            out.append(image)
        return out


def check_self_contained(page: Page, links: bool = False) -> None:
    """Nothing on the page loads or leads anywhere outside of it (relative links if `links`)."""
    allowed = {"script", "style", "html", "head", "body", "svg", "path", "input", "img", "a"}
    assert not {"iframe", "object", "embed", "base", "form", "audio", "video"} & {
        tag for tag, _ in page.tags if tag not in allowed
    }
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
            value = attrs.get(name, "data:")
            if tag == "a" and links:
                assert value.startswith("./") or value.startswith("data:"), value
            else:
                assert value.startswith("data:"), (tag, name, value)
        assert "url(" not in attrs.get("style", "")
    css = page.text("style")
    assert "url(" not in css and "@import" not in css
    assert "://" not in page.text("script")
    policy = next(a for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return long_run(tmp_path / "run")


# ---------------------------------------------------------------------------- the report


def test_report_shows_the_whole_run(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    check_self_contained(page)
    assert page.text("h1") == page.text("title") == "a photo of a man raising his arms"
    assert "a photo of a man next to a yellow ball" in page.visible
    # slider 2, stills 3, filmstrip at most 12 of 17
    assert len(page.images()) == 2 + 3 + 12
    assert len(page.all("div", "slider")) == 1
    slider = next(a for t, a in page.tags if t == "input")
    assert slider["type"] == "range" and slider["aria-label"]
    assert len(page.all("svg")) == 1 + 2  # the slider's knob, two charts
    for text in ("PSNR", "↑", "LPIPS", "↓", "41 s", "2.13.0", "_target_: pds_cli.losses.pds.PDS"):
        assert text in page.visible
    assert "log scale" not in page.visible or "linear scale" in page.visible
    assert "step 200" in page.visible and "step 0" in page.visible
    assert page.stack == []


def test_turntables_are_on_the_page_as_they_are(run: Path) -> None:
    assert "From all sides" not in Page(write_report(run)).visible
    exports = run / "exports"
    exports.mkdir(exist_ok=True)
    film = write_gif(exports / "turntable.gif", [drawing(i / 2) for i in range(3)], fps=8)
    (exports / "turntable_before.gif").write_bytes(film.read_bytes()[:20])  # damaged: left out
    page = Page(write_report(run))
    check_self_contained(page)
    assert "From all sides" in page.visible
    uri = "data:image/gif;base64," + base64.b64encode(film.read_bytes()).decode()
    assert [image["alt"] for image in page.all("img") if image["src"] == uri] == [
        "After: turntable"
    ]
    assert page.source.count("data:image/gif") == 1


def test_report_is_written_atomically_and_again(run: Path) -> None:
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not [p for p in run.iterdir() if p.name.endswith(".tmp")]


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    folder = long_run(tmp_path / "<b>&run", prompt=NASTY, frames=2)
    lines: list[dict[str, Any]] = [
        {"stage": "</script><script>alert(1)</script>", "step": i, "loss": i} for i in (1, 2)
    ]
    lines.append({"stage": "<!--", "step": 3, "loss": 3.0})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "error.txt").write_text("Traceback\n</pre><script>alert(2)</script>")
    (folder / "environment.json").write_text(json.dumps({"<img src=x>": "<img src=http://x>"}))
    Image.new("RGB", (8, 8)).save(folder / "renders" / 'result_"><svg onload=x>.png')
    page = Page(write_report(folder))
    check_self_contained(page)
    assert page.text("h1") == page.text("title") == NASTY
    assert len(page.all("script")) == 2
    data = json.loads(page.text("script").split('"use strict"')[0])
    assert data["readouts"][0]["points"][0][5] == lines[0]["stage"]
    assert "<!--" not in page.source and "49" not in page.text("h1")


@given(prompt=st.text(max_size=300), name=st.text(max_size=30))
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_prompt_comes_back_unharmed(tmp_path: Path, prompt: str, name: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").write_text(json.dumps({"prompt": prompt, "loss": name, "verb": name}))
    (folder / "metrics.jsonl").write_text(json.dumps({"stage": prompt, "step": 1, "loss": 2.0}))
    page = Page(write_report(folder))
    check_self_contained(page)
    expected = clean(prompt).encode("utf-8", "replace").decode()
    assert page.text("h1") == (expected or "Run run")
    assert len(page.all("script")) == 2 and len(page.all("h1")) == 1
    assert json.loads(page.text("script").split('"use strict"')[0])["readouts"]


@pytest.mark.parametrize("missing", [*FILES, "renders"])
def test_report_without_one_of_the_files(run: Path, missing: str) -> None:
    target = run / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = Page(write_report(run))
    check_self_contained(page)
    assert page.text("h1")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"[1, 2", b"\xff\xfe\x00{", b"[]", b'{"metrics": 3}'])
def test_report_with_damaged_files(run: Path, name: str, content: bytes) -> None:
    (run / name).write_bytes(content)
    check_self_contained(Page(write_report(run)))


def test_damage_is_named_on_the_page(run: Path) -> None:
    (run / "summary.json").write_text('{"verb": ')
    (run / "renders" / "truth_front.png").write_bytes(b"\x89PNG torn")
    page = Page(write_report(run))
    assert "summary.json is damaged" in page.visible
    assert "True edit" not in page.visible


def test_a_stopped_run_shows_its_latest_render(run: Path) -> None:
    (run / "renders" / "result_front.png").unlink()
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "status": "stopped", "metrics": {}}))
    page = Page(write_report(run))
    assert "After step 200" in page.visible and "resume=" in page.visible
    assert "No metrics were written" in page.visible
    (run / "summary.json").unlink()
    assert "still running, or it was interrupted" in Page(write_report(run)).visible


def test_several_views_and_stages(tmp_path: Path) -> None:
    folder = long_run(tmp_path / "run", views=["front", "left_0", "back"], frames=3)
    drawing(0).save(folder / "renders" / "fit_000010_left_0.png")
    page = Page(write_report(folder))
    assert [a["data-view"] for a in page.all("button")] == ["0", "1", "2"]
    assert len(page.all("div", "slider")) == 3
    assert len([a for a in page.all("div", "view") if "hidden" in a]) == 3 * 2
    assert "fit 10" in page.visible and "edit 200" in page.visible


def test_large_renders_are_scaled_down(run: Path) -> None:
    Image.new("RGB", (2400, 1200), "teal").save(run / "renders" / "result_front.png")
    page = Page(write_report(run))
    assert max(max(image.size) for image in page.images()) == 1600


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="there is no run folder"):
        write_report(tmp_path / "absent")


# ---------------------------------------------------------------------------- its parts


def test_metrics_lines_are_read_leniently() -> None:
    text = '{"step": 1, "loss": NaN}\n[1]\n{"loss": 2}\n{"step": 2, "loss": 3}\n{"step": 3, "lo'
    assert [record["step"] for record in parse_metrics(text)] == [1, 2]


def test_curves_skip_nan_join_stages_and_keep_the_later_of_two() -> None:
    records = [{"stage": "fit", "step": i, "loss": 10.0 - i} for i in range(5)]
    records += [{"stage": "edit", "step": i, "loss": 1.0 + i} for i in range(3)]
    records += [
        {"stage": "edit", "step": 3, "loss": value} for value in (math.nan, math.inf, 1e200)
    ]
    records += [{"stage": "edit", "step": 2, "loss": 9.0}]
    chart = build_chart("Loss", records, "loss")
    assert chart is not None and chart.scale == "linear"
    points = chart.readout["points"]
    assert [p[2:4] for p in points] == [
        *[[str(i), short(10.0 - i)] for i in range(5)], ["0", "1"], ["1", "2"], ["2", "9"]
    ]  # fmt: skip
    places = [p[0] for p in points]
    assert places == sorted(places) and places[0] == 0 and places[-1] == 100
    assert [name for _, name in chart.stages] == ["fit", "edit"]
    assert "nan" not in "".join(p.data for p in chart.paths)


def test_curves_over_many_decades_are_logarithmic() -> None:
    records = [{"step": i, "loss": 10 ** (-i / 50)} for i in range(300)]
    chart = build_chart("Loss", records, "loss")
    assert chart is not None and chart.scale == "log"
    assert build_chart("Loss", [{"step": 1, "loss": math.nan}], "loss") is None
    assert build_chart("Loss", [], "loss") is None


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.floats() | st.none() | st.integers()), max_size=40)
)
@settings(max_examples=150, deadline=None)
def test_any_numbers_give_a_drawable_chart(pairs: list) -> None:
    records = [{"stage": "edit", "step": step, "loss": value} for step, value in pairs]
    chart = build_chart("Loss", records, "loss")
    if chart is None:
        return
    coordinates = [float(x) for p in chart.paths for x in re.findall(r"[-\d.]+", p.data)]
    assert all(-1 <= x <= 1001 for x in coordinates)
    assert 1 <= len(chart.y_ticks) <= 12 and all(-1 <= y <= 101 for y, _ in chart.y_ticks)
    json.dumps(chart.readout, allow_nan=False)


def test_thinning_keeps_ends_low_and_high() -> None:
    points = [(float(i), 100.0 if i == 7777 else -5.0 if i == 42 else 0.0) for i in range(20_000)]
    kept = thin(points)
    assert len(kept) <= 700 and {(7777.0, 100.0), (42.0, -5.0)} <= set(kept)
    assert kept == sorted(kept)


def test_ticks_are_round() -> None:
    assert ticks(0, 200, False, whole=True) == [0, 50, 100, 150, 200]
    assert ticks(0.001, 10, True) == pytest.approx([0.001, 0.01, 0.1, 1, 10])
    assert ticks(3, 3, False) == [3]
    assert len(ticks(2.0, 7.0, True)) >= 1


def test_numbers_are_short() -> None:
    shown = [short(x) for x in (0.0, 0.01234, -3.5, 1234.4, 2.5e7, 1e-7, math.inf, math.nan, None)]
    assert shown == ["0", "0.0123", "−3.5", "1234", "2.5e7", "1e−7", "∞", "–", "–"]
    assert [precise(x) for x in (24.123, 0.0814, 1e-9)] == ["24.12", "0.081", "1e−9"]
    assert [duration(x) for x in (None, 4.56, 59.7, 3605.0)] == ["", "4.6 s", "1 min", "1 h 0 min"]


def test_metric_names_are_understood() -> None:
    assert parts("psnr_truth") == ("psnr", "truth")
    assert parts("truth") == ("truth", "")
    assert metric("lpips_source").better == -1 and metric("ssim").better == 1
    assert metric("clip_direction").label == "CLIP direction"
    assert metric("something_else").better == 0


def test_subsample_keeps_the_ends() -> None:
    assert subsample(list(range(100)), 12)[0] == 0 and subsample(list(range(100)), 12)[-1] == 99
    assert len(subsample(list(range(100)), 12)) == 12 and subsample([1, 2], 12) == [1, 2]


# ---------------------------------------------------------------------------- the comparison


def grid_texts(page: Page) -> tuple[list[str], list[str]]:
    """Column and row headings of the grid."""
    table = page.source.split('<table class="matrix">')[1].split("</table>")[0]
    columns = re.findall(r'<th scope="col"[^>]*>([^<]*)', table)
    return columns, re.findall(r'<th scope="row"[^>]*>([^<]*)', table)


def test_a_sweep_becomes_a_grid(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path / "sweep", loss=["sds", "dds", "pds"], guidance=[30.0, 7.5, 100.0])
    for folder in runs[:4]:
        write_report(folder)
    path = write_comparison(runs, tmp_path / "sweep")
    assert path == tmp_path / "sweep" / "comparison.html"
    page = Page(path)
    check_self_contained(page, links=True)
    columns, rows = grid_texts(page)
    assert columns == ["source", "guidance 7.5", "guidance 30", "guidance 100", "true edit"]
    assert rows == ["SDS", "DDS", "PDS"]
    assert len(page.images()) == 9 + 3 + 3
    links = [a["href"] for a in page.all("a")]
    assert sorted(set(links)) == [f"./{i}/report.html" for i in range(4)]
    assert all((path.parent / unquote(link)).is_file() for link in links)
    assert "not run" not in page.visible
    # every metric has its best marked: runs of one guidance are equal, so three ties a column
    best = page.all("td", "best")
    assert len(best) == 6 * 3
    with Image.open(path.with_name("grid.png")) as grid:
        assert grid.width > 5 * 192 and grid.height > 3 * 192
    table = path.with_name("table.md").read_text("utf-8").splitlines()
    assert table[2].startswith("| loss | guidance | PSNR to source, dB ↑ |")
    assert len([line for line in table if line.startswith("| ")]) == 1 + 9
    assert "**" in table[4 + 1] + table[4]


def test_rows_and_columns_can_be_asked_for(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, loss=["sds", "pds"], guidance=[7.5, 30.0])
    page = Page(write_comparison(runs, tmp_path / "page.html", rows="guidance", columns="loss"))
    columns, rows = grid_texts(page)
    assert columns[1:3] == ["SDS", "PDS"] and rows == ["guidance 7.5", "guidance 30"]
    with pytest.raises(UserError, match=r"'guidence'.*guidance"):
        write_comparison(runs, tmp_path, rows="guidence")
    with pytest.raises(UserError, match="two different"):
        write_comparison(runs, tmp_path, rows="loss", columns="loss")


def test_more_than_two_keys_join_into_row_labels(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, prompt=["a man", "a <b>bear</b>"], loss=["dds", "pds"], seed=[0, 1])
    columns, rows = grid_texts(Page(write_comparison(runs, tmp_path)))
    assert columns == ["source", "DDS", "PDS", "true edit"]
    assert rows == ["a man, seed 0", "a man, seed 1"] + [
        f"a &lt;b&gt;bear&lt;/b&gt;, seed {i}" for i in (0, 1)
    ]


def test_keys_of_a_group_count_only_if_swept_on_their_own(tmp_path: Path) -> None:
    runs = [long_run(tmp_path / "s", loss="sds", guidance=10.0, frames=1)]
    runs += [long_run(tmp_path / f"p{i}", guidance=30.0, identity=i, frames=1) for i in (0.5, 2.0)]
    nodes = all_settings([read_run(path) for path in runs])
    plan = make_plan(nodes, None, None)
    assert sorted(plan.rows + plan.columns) == ["loss", "loss.identity"]
    assert plan.along == {"loss": ["guidance"]}
    page = Page(write_comparison(runs, tmp_path))
    columns, rows = grid_texts(page)
    assert rows == ["SDS", "PDS"]
    assert columns == ["source", "identity 0.5", "identity 2", "identity —", "true edit"]
    assert "guidance 30" in page.visible


def test_each_loss_with_its_own_guidance_is_one_axis(tmp_path: Path) -> None:
    pairs = [("sds", 7.5), ("dds", 10.0), ("pds", 30.0)]
    runs = [long_run(tmp_path / loss, loss=loss, guidance=g, frames=1) for loss, g in pairs]
    columns, rows = grid_texts(Page(write_comparison(runs, tmp_path)))
    assert columns[1:4] == ["SDS", "DDS", "PDS"] and rows == []


def test_copies_of_a_setting_make_no_axis() -> None:
    nodes = [{"guidance": g, "loss.guidance": g, "seed": s} for g in (3, 7.5) for s in (0, 1)]
    assert differing_keys(nodes) == ["guidance", "seed"]
    plan = make_plan(nodes, None, None)
    assert (plan.rows, plan.columns, plan.along) == (["seed"], ["guidance"], {})


def test_the_best_is_among_runs_of_one_prompt_and_scene(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, prompt=["a man", "a bear"], loss=["dds", "pds"])
    for folder, value in zip(runs, (0.1, 0.2, 0.4, 0.3), strict=True):
        facts = json.loads((folder / "summary.json").read_text())
        (folder / "summary.json").write_text(
            json.dumps({**facts, "metrics": {"lpips_source": value, "kept": 1.0}})
        )
    page = Page(write_comparison(runs, tmp_path / "page"))
    best = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r'best" [^>]*>([^<]*)', page.source)]
    assert best == ["0.100", "0.300"], "one of each prompt"
    assert "among the runs of its prompt and scene" in page.visible
    table = (tmp_path / "page" / "table.md").read_text("utf-8")
    assert re.findall(r"\*\*([0-9.]+)\*\*", table) == ["0.100", "0.300"]
    one = Page(write_comparison(runs[:2], tmp_path / "one"))
    assert "among the runs" not in one.visible


def test_what_changes_no_result_is_no_setting(tmp_path: Path) -> None:
    free: dict[str, Any] = {
        key: f"{key}_b" for key in FREE if key not in ("logger", "allow_modules")
    }
    runs = [long_run(tmp_path / "a", frames=1), long_run(tmp_path / "b", frames=1, **free)]
    assert differing_keys(all_settings([read_run(path) for path in runs])) == []
    page = Page(write_comparison(runs, tmp_path / "page"))
    assert grid_texts(page)[0] == ["source", "a", "b", "true edit"]


def test_failed_and_damaged_runs_are_shown_as_such(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, loss=["sds", "pds"], guidance=[7.5, 30.0])
    (runs[0] / "error.txt").write_text(
        "Traceback (most recent call last):\n  x\nValueError: <oops>\n"
    )
    (runs[0] / "summary.json").unlink()  # its loss is known by the others' _target_
    (runs[1] / "summary.json").write_text("{")
    (runs[2] / "config.yaml").write_text("a: [")
    shutil.rmtree(runs[3] / "renders")
    page = Page(write_comparison(runs, tmp_path))
    check_self_contained(page, links=True)
    columns, rows = grid_texts(page)
    assert rows == ["SDS", "PDS"] and columns[1:3] == ["guidance 7.5", "guidance 30"]
    assert "ValueError: <oops>" in page.visible and "failed" in page.visible
    assert "summary.json is damaged" in page.visible and "config.yaml is damaged" in page.visible
    assert "no picture" in page.visible and "not run" in page.visible
    chips = [a["class"].split()[-1] for a in page.all("span", "chip")]
    assert chips == ["failed", "incomplete", "done", "incomplete"]
    assert "failed, 0: ValueError" in (tmp_path / "table.md").read_text("utf-8")


def test_runs_that_hold_almost_nothing(tmp_path: Path) -> None:
    for name, file in (("a", "error.txt"), ("b", "metrics.jsonl"), ("c", "config.yaml")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("")
    page = Page(write_comparison([tmp_path / name for name in "abc"], tmp_path))
    check_self_contained(page, links=True)
    assert "left no message" in page.visible and (tmp_path / "grid.png").is_file()


def test_one_run_and_equal_runs(tmp_path: Path) -> None:
    one, two = long_run(tmp_path / "one", frames=1), long_run(tmp_path / "two", frames=1)
    columns, rows = grid_texts(Page(write_comparison([one, one], tmp_path)))
    assert columns == ["source", "one", "true edit"] and rows == []
    page = Page(write_comparison([one, two], tmp_path, title="Twice"))
    assert grid_texts(page)[0] == ["source", "one", "two", "true edit"]
    assert page.text("h1") == "Twice" and page.all("td", "best") == []


def test_scenes_keep_their_own_sources(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, scene=["man", "bear"], loss=["dds", "pds"])
    drawing(0, hat=True).save(runs[2] / "renders" / "source_front.png")
    drawing(0, hat=True).save(runs[3] / "renders" / "source_front.png")
    page = Page(write_comparison(runs, tmp_path))
    assert grid_texts(page)[1] == ["man", "bear"]
    page = Page(write_comparison(runs, tmp_path, columns="scene"))
    columns, rows = grid_texts(page)
    assert columns == ["man", "bear", "true edit"] and rows == ["source", "DDS", "PDS"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        write_comparison([], tmp_path)
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        write_comparison([long_run(tmp_path / "run", frames=1), tmp_path / "other"], tmp_path)


def test_odd_folder_names_are_linked(tmp_path: Path) -> None:
    folder = long_run(tmp_path / 'loss=pds,a b?#%é:"<', frames=1)
    write_report(folder)
    page_path = write_comparison([folder], tmp_path / "deep" / "er" / "x.html")
    page = Page(page_path)
    check_self_contained(page, links=True)
    for attrs in page.all("a"):
        assert (page_path.parent / unquote(attrs["href"])).is_file()


def wide_sweep(folder: Path) -> Path:
    """A comparison of nine losses by two keys, with thirteen metrics."""
    prompts = ["a photo of a man raising his arms and wearing a very tall hat", "a_word" * 12]
    losses = ["sds", "dds", "pds", "ids", "cds", "csd", "nfsd", "ism", "sdi"]
    runs = make_sweep(folder, prompt=prompts, loss=losses)
    for run in runs:
        facts = json.loads((run / "summary.json").read_text())
        facts["metrics"] |= {f"a_metric_of_mine_{i}": 0.1 for i in range(7)}
        (run / "summary.json").write_text(json.dumps({**facts, "seconds": 12345.0}))
    return write_comparison(runs, folder)


def test_many_columns_stand_below_each_other(tmp_path: Path) -> None:
    page = Page(wide_sweep(tmp_path))
    grids = re.findall(r'<table class="matrix">(.*?)</table>', page.source, re.DOTALL)
    heads = [re.findall(r'<th scope="col"[^>]*>([^<]*)', grid) for grid in grids]
    assert all(len(head) <= 6 for head in heads)
    assert all(head[0] == "source" and head[-1] == "true edit" for head in heads)
    shown = [name for head in heads for name in head[1:-1]]
    assert shown == ["SDS", "DDS", "PDS", "IDS", "CDS", "CSD", "NFSD", "ISM", "SDI"]
    tables = re.findall(r'<table class="results">(.*?)</table>', page.source, re.DOTALL)
    titles = [re.findall(r'<button type="button">([^<]*)', table) for table in tables]
    assert len(tables) > 1 and all(title[:2] == ["prompt", "loss"] for title in titles)
    after = [name for title in titles for name in title[2:]]
    assert len(after) == len(set(after)) == 13 + 2, "each metric once, and time and status"
    for table in tables:
        widths = [float(w) for w in re.findall(r"col style=.width:([\d.]+)%", table)]
        assert sum(widths) == pytest.approx(100, abs=0.1)
        assert min(widths[2:]) * 852 / 100 > 75, "a number has room at 900 pixels"


def test_many_settings_share_a_column(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {"guidance": [3.0, 7.5], "lr": [0.1, 0.2], "steps": [1, 2]}
    axes |= {"hold_view": [1, 2], "batch_size": [1, 2], "lr_schedule": ["cosine", "constant"]}
    page = Page(write_comparison(make_sweep(tmp_path, **axes)[::9], tmp_path))
    assert re.findall(r'<button type="button">([^<]*)', page.source)[0] == "settings"
    (first,) = re.findall(r'<tbody>\n<tr><td class="" data-sort="([^"]*)"', page.source)[:1]
    assert set(first.split(", ")) == {
        *("guidance 3", "lr 0.1", "steps 1", "hold view 1", "batch size 1", "lr schedule cosine")
    }


# ---------------------------------------------------------------------------- in a browser


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_a_browser_runs_the_page_without_complaint(run: Path, tmp_path: Path) -> None:
    path = write_report(run)
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--dump-dom"),
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("chromium does not start here")
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    assert re.search(r'class="slider" style="[^"]*--at: ?50%', done.stdout)


MEASURE = """<script>addEventListener("load", () => {
  const wide = [...document.querySelectorAll("html, main, .scroll, .gridwrap")].filter(
    e => e.scrollWidth > e.clientWidth || (e.matches("div") && e.scrollHeight > e.clientHeight));
  const cut = [...document.querySelectorAll("table, th, td, .cell, .chip")].filter(
    e => e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1);
  const names = [...wide, ...cut].map(e => e.tagName + "." + e.className);
  document.documentElement.dataset.measured = innerWidth + ":" + names.join(",");
})</script></body>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
@pytest.mark.parametrize("width", [900, 1400])
def test_no_table_is_cut_or_scrolls_by_itself(tmp_path: Path, width: int) -> None:
    page = wide_sweep(tmp_path / "sweep")
    page.write_text(page.read_text("utf-8").replace("</body>", MEASURE), "utf-8")
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1200", "--dump-dom"),
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        pytest.skip("chromium does not start here")
    found = re.search(r'data-measured="([^"]*)"', done.stdout)
    assert found and found[1] == f"{width}:"
