"""The 2D scene, its representation, and the figure made of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from pds_cli.backbones.mixture import CrescentMixture, MixtureBackbone
from pds_cli.errors import UserError
from pds_cli.figures import toy2d
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.sds import SDS
from pds_cli.representations.points import PointsRepresentation
from pds_cli.scenes.toy2d import Toy2DScene
from pds_cli.scripts import run
from pds_cli.toybox.crescents import crescents

ROOT = Path(__file__).parents[1]


def representation(**options: int) -> PointsRepresentation:
    return PointsRepresentation(Toy2DScene(points=40), CrescentMixture(40), **options)


def test_scene() -> None:
    scene = Toy2DScene(label="b", points=30)
    assert scene.source_prompt == "b" and scene.points.shape == (30, 2)
    assert [(v.name, v.image, v.camera) for v in scene.views] == [("points", None, None)]
    assert torch.equal(scene.points, crescents(30)["b"])
    assert not torch.equal(scene.points, crescents(30, seed=1)["b"])
    radius = (crescents(50, noise=0)["a"]).norm(dim=1)
    torch.testing.assert_close(radius, torch.ones(50, dtype=torch.float64))


def test_points_are_a_batch_of_latents() -> None:
    points, view = representation(n=10), Toy2DScene().views[0]
    x0 = points.render_latent(view)
    assert x0.shape == (10, 2, 1, 1) and x0.requires_grad
    assert torch.equal(x0.detach(), points.source_latent(view))
    assert not points.source_latent(view).requires_grad
    assert [p.shape for g in points.parameter_groups() for p in g["params"]] == [(10, 2)]


def test_drawing_shows_the_points_where_they_are() -> None:
    points, view = representation(n=2, raster=64), Toy2DScene().views[0]
    with torch.no_grad():
        points.points.copy_(torch.tensor([[2.5, 1.5], [0.5, 0.25]]))
    image = points.render(view)
    assert image.shape == (1, 3, 64, 64)
    assert float(image.detach().min()) >= 0 and float(image.detach().max()) <= 1
    blue = image[0, 2].detach()
    ink = (blue < 0.9).nonzero().double()
    # Right and up of the frame's centre, and the centre itself.
    assert bool((ink - torch.tensor([14.0, 60.0])).abs().sum(dim=1).min() < 3)
    assert bool((ink - torch.tensor([31.5, 31.5])).abs().sum(dim=1).min() < 3)
    grad = torch.autograd.grad(image.sum(), points.points)[0]
    assert bool(grad.isfinite().all())


def test_checkpoint_and_export(tmp_path: Path) -> None:
    points = representation()
    with torch.no_grad():
        points.points.add_(1)
    again = representation()
    again.load_state_dict(points.state_dict())
    assert torch.equal(again.points, points.points)
    (path,) = points.export(tmp_path / "exports")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    for row, source in zip(rows, Toy2DScene(points=40).points.tolist(), strict=True):
        assert float(row["x"]) - float(row["x_source"]) == pytest.approx(1, abs=1e-5)
        assert float(row["y_source"]) == pytest.approx(source[1], abs=1e-5)


def test_bad_input() -> None:
    scene, backbone = Toy2DScene(points=5), CrescentMixture(5)
    with pytest.raises(UserError, match="scene=toy2d"):
        PointsRepresentation(object(), backbone)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="backbone=mixture"):
        PointsRepresentation(scene, MixtureBackbone(torch.zeros(1, 3), ["a"]))
    with pytest.raises(UserError, match="between 1 and 5"):
        PointsRepresentation(scene, backbone, n=6)
    with pytest.raises(UserError, match="a, b"):
        Toy2DScene("c")
    with pytest.raises(UserError, match="points >= 1"):
        crescents(0)
    for words in (["step=3"], ["steps"], ["steps=many"], ["points=0"], ["lr=0"]):
        with pytest.raises(UserError):
            toy2d.parse(words)
    assert run(toy2d.main, ["colour=red"]) == 2


def test_yamls_build_what_they_name() -> None:
    from omegaconf import OmegaConf

    built = {}
    for group, name in (("scene", "toy2d"), ("backbone", "mixture"), ("representation", "points")):
        text = (ROOT / "conf" / group / f"{name}.yaml").read_text(encoding="utf-8")
        assert text.startswith("# ")
        container = OmegaConf.to_container(OmegaConf.create(text))
        assert isinstance(container, dict)
        options = {str(key): value for key, value in container.items()}
        options.pop("defaults", None)
        built[group] = (options.pop("_target_"), options)
    scene = Toy2DScene(**built["scene"][1])
    backbone = CrescentMixture(**built["backbone"][1])
    PointsRepresentation(scene, backbone, **built["representation"][1])
    assert [target.rsplit(".", 1)[-1] for target, _ in built.values()] == [
        "Toy2DScene",
        "CrescentMixture",
        "PointsRepresentation",
    ]
    # The scene's points are data of the backbone.
    assert float(torch.cdist(scene.points, backbone.means).min(dim=1).values.max()) < 1e-6


def test_the_papers_finding() -> None:
    """PDS halts near the border, SDS and DDS do not; identity decides; exact PDS is like DDS."""
    fast = CrescentMixture().float()
    source = Toy2DScene().points[::16].float()
    options = toy2d.Settings(steps=600)
    cases = {
        "sds": SDS(guidance=1.0),
        "dds": DDS(guidance=1.0),
        "exact": PDS(guidance=1.0, coefficients="exact"),
        "half": PDS(guidance=1.0, identity=0.5),
        "published": PDS(guidance=1.0),
        "double": PDS(guidance=1.0, identity=2.0),
    }
    numbers = {}
    for name, loss in cases.items():
        case = toy2d.Case(name, loss)
        path = toy2d.optimise(case, fast, source, options)
        numbers[name] = toy2d.measure(case, path, fast).numbers
    moved = {name: n["moved"] for name, n in numbers.items()}
    assert moved["double"] < moved["published"] < moved["half"] < moved["exact"]
    assert moved["published"] < 0.6 and min(moved["sds"], moved["dds"], moved["exact"]) > 1.0
    assert moved["exact"] == pytest.approx(moved["dds"], abs=0.25)
    assert numbers["published"]["to_border"] < numbers["dds"]["to_border"]
    assert numbers["published"]["to_border"] < numbers["double"]["to_border"]
    # SDS collapses to one place; the others keep the shape of the source.
    assert numbers["sds"]["spread"] < 0.2 < 0.5 < numbers["published"]["spread"]


def test_figure_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(toy2d, "CrescentMixture", lambda: CrescentMixture(40))
    assert run(toy2d.main, [f"out={tmp_path / 'figures'}", "steps=2", "points=5"]) == 0
    written = {path.name for path in (tmp_path / "figures").iterdir()}
    assert written == {"toy2d.webp", "toy2d.svg", "toy2d.md", "toy2d.json"}
    assert (tmp_path / "figures" / "toy2d.webp").read_bytes()[8:12] == b"WEBP"
    numbers = json.loads((tmp_path / "figures" / "toy2d.json").read_text())
    assert [n["identity"] for n in numbers["identity"]] == list(toy2d.IDENTITIES)
    assert [len(numbers[key]) for key in ("1", "7.5")] == [4, 4]
    page = (tmp_path / "figures" / "toy2d.md").read_text()
    assert "| PDS published | " in page and "5 source points" in page
    assert str(tmp_path / "figures" / "toy2d.svg") in capsys.readouterr().out


def test_committed_numbers_hold_the_papers_finding() -> None:
    """The documentation's table is of the default settings, and says what the page says."""
    numbers = json.loads((ROOT / "docs" / "figures" / "toy2d.json").read_text())
    one = {n["loss"]: n for n in numbers["1"]}
    assert one["PDS published"]["to_border"] < 0.2 < one["DDS"]["to_border"]
    moved = [n["moved"] for n in numbers["identity"]]
    assert moved == sorted(moved, reverse=True)
    for loss in ("SDS", "DDS", "PDS exact"):
        assert next(n for n in numbers["7.5"] if n["loss"] == loss)["to_target"] > 1
