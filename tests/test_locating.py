"""`mask=auto`: where the prompts disagree is found, kept to, written down and taken up again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.schedule import Schedule
from pds_cli.benchmarks.methods import method
from pds_cli.benchmarks.side_by_side import edit_cases
from pds_cli.benchmarks.toybox_scores import pictures
from pds_cli.config import composed
from pds_cli.errors import UserError
from pds_cli.losses.dds import DDS
from pds_cli.reading import read_yaml
from pds_cli.results.outcome import save_masks
from pds_cli.runs.folder import RunFolder
from pds_cli.toybox.cases import FIGURES, make_case
from pds_cli.training.locating import Located, locate
from pds_cli.training.settings import settle_mask
from pds_cli.views.view import View

ROBOT = "a photo of a robot"


class _Placed(Backbone):
    """ε̂ is the noisy image, and what the prompt says at the places that it names."""

    resolution = 16

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(torch.linspace(0.99, 0.01, 100))

    def image_size(self, height: int, width: int) -> tuple[int, int]:
        return 16, 16

    def encode_image(self, image: Tensor) -> Tensor:
        return image

    def decode_latent(self, x0: Tensor) -> Tensor:
        return x0

    def encode_prompt(self, prompts: Any, negative: str = "") -> Text:
        said = torch.zeros(len(prompts), 1, 16, 16)
        for k, prompt in enumerate(prompts):
            for word in prompt.split():
                said[k, :, int(word)] = 1
        return Text({"said": said}, {"said": torch.zeros_like(said)})

    def predict_eps(self, x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        return x_t + cond["said"]


def test_it_is_where_the_prompts_differ_and_one_place_about() -> None:
    backbone = _Placed()
    x0 = torch.rand(2, 3, 16, 16)
    tgt, src = backbone.encode_prompt(["3 9", "3"]), backbone.encode_prompt(["3"])
    found = locate(backbone, x0, tgt, src, torch.Generator().manual_seed(0))
    assert found.shape == (2, 1, 16, 16)
    rows = found[0, 0].nonzero()[:, 0].unique().tolist()
    assert rows == [8, 9, 10] and bool(found[0, 0, 8:11].all())
    assert bool(found[1].all())  # prompts that say the same limit nothing


def test_what_changes_everywhere_is_not_limited() -> None:
    """In the first picture the rest of the rows differ somewhat, too: none stays as it is."""
    backbone = _Placed()
    x0 = torch.rand(2, 3, 16, 16)
    tgt, src = (backbone.encode_prompt([text] * 2) for text in ("8 9 10 11 12 13", "3"))
    tgt.cond["said"][0] += 0.2
    for everywhere in (0.1, None):
        found = locate(backbone, x0, tgt, src, torch.Generator().manual_seed(0), everywhere)
        assert bool(found[0].all()) == (everywhere is not None) and not bool(found[1].all())


def test_limits_that_are_given_hold_besides() -> None:
    backbone = _Placed()
    given = torch.zeros(1, 32, 32)
    given[:, :, :7] = 1
    view, bare = View("front", torch.rand(3, 32, 32)), View("bare")
    tgt, src = (backbone.encode_prompt([text]) for text in ("9", "3"))
    found = Located([view, bare], backbone, tgt, src, {"front": given}, seed=0)
    assert list(found) == ["front"] and found.get("bare") is None and not found.found
    rows, columns = found["front"][0].nonzero().unbind(1)
    assert columns.max() == 6 and sorted(set(rows.tolist())) == [*range(4, 10), *range(16, 22)]
    again = Located([view], backbone, tgt, src, {}, seed=0)
    assert torch.equal(again["front"] * given, found["front"])


def test_the_toybox_knows_where_its_edits_are() -> None:
    """Of the places that the true edit changes hardly one is missed, and most of others are not."""
    kinds = ("raise arms", "wizard hat", "to bear", "blue clothes", "add tree", "add red ball")
    cases = [make_case(kind, *FIGURES[0]) for kind in kinds]
    backbone = EmbeddedBackbone("toybox")
    sources, truths = (pictures(cases, which, 128) for which in ("source", "target"))
    tgt = backbone.encode_prompt([case.prompt for case in cases])
    src = backbone.encode_prompt([case.source_prompt for case in cases])
    generator = torch.Generator().manual_seed(0)
    found = locate(backbone, backbone.encode_image(sources), tgt, src, generator).bool()
    changed = (truths - sources).abs().amax(1, keepdim=True) > 0.06
    places = F.adaptive_max_pool2d(changed.float(), 16).bool()
    for case, where, true in zip(cases, found, places, strict=True):
        assert float((where & true).sum() / true.sum()) > 0.9, case.kind
        assert float(where.float().mean()) < 0.55, case.kind


def test_a_floor_and_a_sky_are_found_whole() -> None:
    prompts = ["a photo of a man on wood", "a photo of a robot on grass under a pink sky"]
    case = make_case("wizard hat", *FIGURES[0])
    backbone = EmbeddedBackbone("toybox")
    x0 = backbone.encode_image(pictures([case] * 2, "source", 128))
    tgt = backbone.encode_prompt(prompts)
    src = backbone.encode_prompt(["a photo of a man"] * 2)
    advice = composed("edit", ["backbone=toybox"]).backbone.recommended.mask_everywhere
    wood, both = locate(backbone, x0, tgt, src, torch.Generator().manual_seed(0), advice)
    assert bool(both.all())
    assert bool(wood[:, 12:].all()) and not bool(wood[:, :2].any())


def test_a_picture_is_edited_there_and_the_mask_can_be_given_again(
    pds: Callable[..., Any], stopping: Callable[[str, int], None], tiny_backbone: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    words = ["edit", "scene=image", "scene.path=a.png", "source=a photo of a man",
             f"prompt={ROBOT}", f"backbone.model={tiny_backbone}", "steps=4", "lr=0.5",
             "render_every=0", "device=cpu", "mask_everywhere=1000"]  # fmt: skip
    answer = pds(*words, "mask=auto", "out=auto")
    assert answer.code == 0, answer.err
    mask = np.asarray(Image.open("auto/exports/masks/a.png").convert("L"))
    assert mask.shape == (64, 64) and set(np.unique(mask)) == {0, 255}
    after = np.asarray(Image.open("auto/exports/result.png"))
    assert (after[mask == 0] == pixels[mask == 0]).all()
    assert (after[mask == 255] != pixels[mask == 255]).any()
    assert "White may change" in Path("auto/report.html").read_text()
    stopping("edit", 2)
    assert pds(*words, "mask=auto", "out=parts", "checkpoint_every=0").code == 130
    assert pds("edit", "resume=parts").code == 0
    assert pds(*words, "mask=auto/exports/masks", "out=given").code == 0
    whole = Path("auto/exports/result.png").read_bytes()
    assert Path("parts/exports/result.png").read_bytes() == whole
    assert Path("given/exports/result.png").read_bytes() == whole


def test_a_mask_is_recommended_where_there_is_something_to_find(
    pds: Callable[..., Any], tiny_backbone: Path
) -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("a.png")
    words = ["edit", f"prompt={ROBOT}", f"backbone.model={tiny_backbone}", "steps=1",
             "render_every=0", "device=cpu"]  # fmt: skip
    photo = ["scene=image", "scene.path=a.png"]
    drawn = ["scene=figurine2d", "scene.size=64"]
    for k, (more, mask) in enumerate([
        (drawn, "auto"),
        ([*drawn, "mask=none"], None),
        ([*drawn, "~backbone.recommended.image.mask"], None),
        ([*photo, "source=a photo of a man"], "auto"),
    ]):  # fmt: skip
        answer = pds(*words, *more, f"out=run{k}")
        assert answer.code == 0, answer.err
        assert read_yaml(Path(f"run{k}/config.yaml"))["mask"] == mask, more
        assert Path(f"run{k}/exports/masks").exists() == (mask is not None)
        assert pds("edit", f"resume=run{k}").code == 0


def test_no_mask_is_recommended_beside_a_box_nor_where_nothing_can_be_found() -> None:
    for words, possible, mask in [
        ([], True, "auto"), ([], False, None), (["mask=none"], True, None),
        (["mask_box=[0,0,0,1,1,1]"], True, None), (["resume=run"], True, None),
        (["mask=a.png"], False, "a.png"),
    ]:  # fmt: skip
        cfg = composed("edit", ["prompt=x", "+backbone.recommended.mask=auto", *words])
        settle_mask(cfg, possible)
        assert cfg.mask == mask, words


def test_each_view_of_a_scene_has_its_own(pds: Callable[..., Any], tiny_backbone: Path) -> None:
    pytest.importorskip("pyvista")
    words = ["edit", "scene=figurine", "scene.size=64", "scene.count=3", "scene.held_out=1",
             "representation=splats", "representation.budget=50", "representation.fit.steps=2",
             f"representation.fit.cache={Path('fits').resolve()}", "turntable=0", "refine=none",
             f"prompt={ROBOT}", f"backbone.model={tiny_backbone}", "steps=12", "render_every=0",
             "device=cpu"]  # fmt: skip
    answer = pds(*words, "mask=auto", "mask_box=[-1,-1,0,1,1,3]", "out=auto")
    assert answer.code == 0, answer.err
    masks = [np.asarray(Image.open(path)) for path in sorted(Path("auto/exports/masks").iterdir())]
    assert len(masks) >= 2 and not (masks[0] == masks[1]).all()


def test_what_has_nothing_to_look_at_is_refused(pds: Callable[..., Any]) -> None:
    words = ["scene=toy2d", "backbone=mixture", "representation=points", "prompt=b"]
    answer = pds("edit", *words, "mask=auto", "out=a")
    assert answer.code == 2 and "mask=auto looks at what the scene shows" in answer.err
    assert not Path("a").exists()


def test_a_benchmark_keeps_each_case_to_its_own_place(tiny_backbone: Path, tmp_path: Path) -> None:
    cases = [make_case(kind, *FIGURES[0]) for kind in ("wizard hat", "add tree")]
    backbone = EmbeddedBackbone(str(tiny_backbone))
    made = method("dds", ["loss=dds", "mask=auto"])
    assert made.where == {"located": True, "everywhere": 0.008}
    assert not method("dds", ["loss=dds", "mask=none"]).where["located"]
    options: dict[str, Any] = {"steps": 2, "lr": 0.5, "seed": 0, "located": True}
    sources = pictures(cases, "source", backbone.resolution)
    images, _ = edit_cases(cases, backbone, DDS(guidance=3.0), RunFolder(tmp_path), **options)
    same = (images == sources).all(1)
    assert all(0.1 < float(part.float().mean()) < 0.99 for part in same)
    with pytest.raises(UserError, match="share no mask"):
        method("dds", ["loss=dds", "mask=a.png"])


def test_a_mask_of_a_photo_in_a_folder_is_written_there(tmp_path: Path) -> None:
    save_masks(RunFolder(tmp_path), {"left/f0": torch.ones(1, 4, 6)})
    assert Image.open(tmp_path / "exports/masks/left/f0.png").size == (6, 4)
