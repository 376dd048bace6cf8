"""View-dependent prompts: directions of cameras, their words, and edits that say them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Answer
from helpers import FIELD, records, summary
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from posed_scene import Posed
from small_capture import capture
from torch import Tensor

from pds_cli.backbones.base import Text
from pds_cli.errors import UserError
from pds_cli.options.catalogue import conf_dir
from pds_cli.options.view_prompts import ABOVE, SIDES, VIEW_WORDS, ViewPromptsConf
from pds_cli.runs.checkpoint import load_checkpoint
from pds_cli.scenes.base import Scene, checked_front
from pds_cli.toybox.world import Figure, OrbitCamera, caption, parse_caption, unread, vocabulary
from pds_cli.training.dataset_update import DatasetUpdateObjective
from pds_cli.training.distillation import EditObjective
from pds_cli.training.one_shot import EditorObjective
from pds_cli.training.prompts import (
    ViewDependentText,
    ViewPrompts,
    encoded_prompts,
    idle,
    spread,
    words_of_views,
)
from pds_cli.training.settings import with_recommended
from pds_cli.training.trainer import Idle
from pds_cli.views.cameras import Camera, look_at
from pds_cli.views.directions import Compass, direction, towards
from pds_cli.views.view import Region, View

AZIMUTH = st.floats(-720, 720)
ELEVATION = st.floats(-80, 80)
SOME = settings(max_examples=25, deadline=None)


def apart(a: float, b: float) -> float:
    """Degrees between two azimuths."""
    return abs((a - b + 180) % 360 - 180)


def orbit(*azimuths: float, elevation: float = 10.0) -> dict[str, Camera]:
    """Cameras about one point, by their azimuth; the toybox says where they stand."""
    return {f"at {a:g}": OrbitCamera(a, elevation).camera(16) for a in azimuths}


# --- directions ----------------------------------------------------------------------------------


@SOME
@given(AZIMUTH, ELEVATION)
def test_a_camera_of_the_toybox_has_the_angles_that_it_was_made_with(
    azimuth: float, elevation: float
) -> None:
    seen = OrbitCamera(azimuth, elevation).camera(16)
    others = orbit(azimuth + 90, azimuth + 200)
    compass = Compass.of({"seen": seen, **others}, Region(), front=0)
    found = compass.angles(seen)
    assert 0 <= found[0] < 360
    assert apart(found[0], azimuth) < 1e-3 and found[1] == pytest.approx(elevation, abs=1e-3)


@given(AZIMUTH, st.sampled_from([4, 8]))
def test_sectors_are_the_sides_that_are_nearest(azimuth: float, sectors: int) -> None:
    name = direction(azimuth, sectors=sectors)
    assert apart(azimuth, 45 * SIDES.index(name)) <= 180 / sectors + 1e-9
    assert name in SIDES[:: 8 // sectors]


@pytest.mark.parametrize("sectors", [4, 8])
def test_sectors_are_equally_wide_and_all_of_the_circle(sectors: int) -> None:
    found = [direction(degree / 10 + 0.05, sectors=sectors) for degree in range(3600)]
    assert {name: found.count(name) for name in found} == dict.fromkeys(
        SIDES[:: 8 // sectors], 3600 // sectors
    )
    edges = [side * 360 / sectors + 180 / sectors for side in range(sectors)]
    assert len({direction(edge, sectors=sectors) for edge in edges}) == sectors


@given(AZIMUTH.filter(lambda a: apart(a % 45, 22.5) > 1e-6), ELEVATION)
def test_a_mirror_changes_left_and_right(azimuth: float, elevation: float) -> None:
    swap = {"left": "right", "right": "left"}
    there, back = direction(azimuth, elevation), direction(-azimuth, elevation)
    assert back == "_".join(swap.get(part, part) for part in there.split("_"))


def test_a_view_from_high_enough_is_from_above_whatever_its_side() -> None:
    assert {direction(a, 60.1) for a in range(0, 360, 30)} == {ABOVE}
    assert direction(0, 60) == "front"
    assert direction(0, 89, overhead=90) == "front"


@pytest.mark.parametrize(
    ("up", "azimuth", "wanted"),
    [
        ((0, 0, 1), 0, (0, -1, 0)),
        ((0, 0, 1), 90, (1, 0, 0)),
        ((0, 1, 0), 0, (0, 0, 1)),
        ((0, -1, 0), 0, (0, 0, -1)),
    ],
)
def test_azimuth_0_is_where_the_field_has_the_front(
    up: Sequence[float], azimuth: float, wanted: Sequence[float]
) -> None:
    found = towards(azimuth, torch.tensor(up, dtype=torch.float64))
    assert found.tolist() == pytest.approx(wanted, abs=1e-9)


def turned(axis: Sequence[float], degrees: float) -> Tensor:
    """The rotation [3,3] about an axis (the matrix exponential of its cross product)."""
    x, y, z = (value / math.hypot(*axis) for value in axis)
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    return torch.linalg.matrix_exp(math.radians(degrees) * cross)


def moved(camera: Camera, rotation: Tensor, shift: Tensor, scale: float) -> Camera:
    pose = camera.camera_to_world.double()
    place = scale * (rotation @ pose[:, 3] + shift)
    return camera.moved(torch.cat([rotation @ pose[:, :3], place[:, None]], -1))


@SOME
@given(
    st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda a: math.hypot(*a) > 0.1),
    st.floats(-180, 180),
    st.tuples(*[st.floats(-5, 5)] * 3),
    st.floats(0.1, 10),
    st.sampled_from(["at 130", None]),
)
def test_a_world_that_is_moved_with_its_front_has_the_same_directions(
    axis: Sequence[float], degrees: float, shift: Sequence[float], scale: float, front: str | None
) -> None:
    cameras = orbit(10, 60, 130, elevation=35)
    rotation, by = turned(axis, degrees), torch.tensor(shift, dtype=torch.float64)
    there = {name: moved(camera, rotation, by, scale) for name, camera in cameras.items()}
    up = tuple((rotation @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)).tolist())
    before = Compass.of(cameras, Region(), front)
    after = Compass.of(there, Region(up=up, radius=scale), front)  # type: ignore[arg-type]
    for name, camera in cameras.items():
        (a, high), (b, same) = before.angles(camera), after.angles(there[name])
        assert apart(a, b) < 1e-2 and high == pytest.approx(same, abs=1e-2)


@SOME
@given(AZIMUTH, AZIMUTH)
def test_turning_a_scene_and_its_front_changes_nothing(front: float, degrees: float) -> None:
    cameras, none = orbit(10, 60, 130), torch.zeros(3, dtype=torch.float64)
    about_up = turned((0, 0, 1), degrees)
    there = {name: moved(camera, about_up, none, 1.0) for name, camera in cameras.items()}
    before = Compass.of(cameras, Region(), front)
    after = Compass.of(there, Region(), front + degrees)
    for name in cameras:
        assert apart(before.angles(cameras[name])[0], after.angles(there[name])[0]) < 1e-2


# --- the front -----------------------------------------------------------------------------------


def test_the_front_is_where_the_edited_views_look_from_on_average() -> None:
    cameras = orbit(0, 30, 60, 180, 200)
    compass = Compass.of(cameras, Region(), edited=["at 0", "at 30", "at 60"])
    assert apart(compass.angles(cameras["at 30"])[0], 0) < 1e-3
    assert compass.angles(cameras["at 60"])[0] == pytest.approx(30, abs=1e-3)
    named = Compass.of(cameras, Region(), front="at 180")
    assert apart(named.angles(cameras["at 0"])[0], 180) < 1e-3


def test_views_from_all_around_have_their_front_at_the_first(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cameras = orbit(40, 130, 220, 310)
    compass = Compass.of(cameras, Region())
    assert compass.angles(cameras["at 130"])[0] == pytest.approx(90, abs=1e-3)
    assert "where at 40 looks from; scene.front=" in caplog.text
    caplog.clear()
    Compass.of(cameras, Region(), front="at 220")
    Compass.of(orbit(0, 120), Region())
    assert not caplog.text


def test_what_sees_no_front_is_refused() -> None:
    above = look_at((0, 0, 5), (0, 0, 0), (0, 1, 0))
    camera = Camera(above, 16.0, 16.0, 8.0, 8.0, 16, 16)
    for front in (None, "a"):
        with pytest.raises(UserError, match="a would be the front, seen from right above"):
            Compass.of({"a": camera}, Region(), front)
    outwards = [OrbitCamera(a).camera(16) for a in (0, 120, 240)]
    for camera in outwards:
        camera.camera_to_world[:, [0, 2]] *= -1
    views = [View(str(i), None, camera) for i, camera in enumerate(outwards)]
    scene: Any = SimpleNamespace(views=views, edit_views=views, region=Region(), front=None)
    with pytest.raises(UserError, match=r"not for this scene.*view_prompts\.enabled=false"):
        words_of_views(edit_config("view_prompts.enabled=true").view_prompts, scene)


@pytest.mark.parametrize("front", [True, math.nan, math.inf, 1e9, "view_9", [1], {}])
def test_a_front_that_is_none_is_refused(front: Any) -> None:
    with pytest.raises(UserError, match=r"scene\.front=.* is neither"):
        checked_front(front, Posed().views)


@pytest.mark.parametrize("front", [None, 0, -90.5, "view_1"])
def test_a_front_is_kept_as_it_is_said(front: Any) -> None:
    assert checked_front(front, Posed().views) == front


# --- words ---------------------------------------------------------------------------------------


def edit_config(*words: str, editor: str | None = None, refined: bool = False) -> Any:
    """As much of the config of `pds edit` as is asked for view-dependent prompts."""
    refine = {"editor": {"steps": 2}} if refined else None
    parts: dict[str, Any] = {
        "editor": {"_target_": editor},
        "refine": refine,
        "allow_modules": [],
        "backbone": {},
    }
    typed = OmegaConf.create({"view_prompts": OmegaConf.structured(ViewPromptsConf), **parts})
    return OmegaConf.merge(typed, OmegaConf.from_dotlist(list(words)))


def test_each_direction_has_words() -> None:
    assert [*VIEW_WORDS] == [*SIDES, ABOVE]
    options = edit_config().view_prompts
    assert dict(options.words) == VIEW_WORDS and not options.enabled


def seen(scene: Scene, *words: str) -> dict[str, str]:
    return words_of_views(edit_config(*words).view_prompts, scene)


def test_views_are_said_by_their_side() -> None:
    scene = Posed()  # its cameras stand at +x, +y and −x−y of what they see
    scene.front = 0
    assert seen(scene) == {}
    on = "view_prompts.enabled=true"
    assert [*seen(scene, on).values()] == ["left side view", "back view", "front right view"]
    scene.front = 90
    assert [*seen(scene, on).values()] == ["front view", "left side view", "back right view"]
    scene.front = 170
    four = seen(scene, on, "view_prompts.sectors=4", "view_prompts.words.front='face, close'")
    assert [*four.values()] == ["right side view", "face, close", "back view"]
    high = seen(scene, on, "view_prompts.overhead=15")
    assert [*high.values()] == ["right side view", "overhead view", "back left view"]
    with pytest.raises(UserError, match=r"view_prompts\.sectors=5 is unknown; choose one of 4, 8"):
        seen(scene, "view_prompts.sectors=5")
    assert spread({"a": "x", "b": "y", "c": "y"}) == {"y": 2, "x": 1}


def test_a_backbone_may_recommend_them_for_a_representation() -> None:
    advice = {"enabled": True, "sectors": 4, "words": {"back": "from behind"}}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("edit", ["prompt=x", "scene=figurine", "view_prompts.words.left=aside"])
    cfg.backbone.recommended = {"nerf": {"view_prompts": advice}}
    cfg = with_recommended(cfg, {"loss": "pds", "representation": "nerf"})
    scene = Posed()
    scene.front = -80
    found = words_of_views(cfg.view_prompts, scene)
    assert [*found.values()] == ["from behind", "right side view", "front view"]
    assert cfg.view_prompts.words.left == "aside"
    cfg.view_prompts.enabled = False
    assert words_of_views(cfg.view_prompts, scene) == {}


class Reader:
    """A backbone that only reads, and keeps what it read."""

    def __init__(self) -> None:
        self.read: list[tuple[str, str]] = []

    def encode_prompt(self, prompts: Sequence[str], negative: str = "") -> Text:
        (prompt,) = prompts
        self.read.append((prompt, negative))
        return Text({"number": torch.tensor([len(self.read)])}, {"number": torch.tensor([0])})

    def seen_from(self, text: Text, view: View) -> Text:
        return Text({**text.cond, "view": torch.tensor([int(view.name[-1])])}, text.null)


def test_each_wording_is_read_once_and_a_view_gets_its_own() -> None:
    reader: Any = Reader()
    words = {"view_0": "front view", "view_1": "", "view_2": "front view", "view_3": "back view"}
    cfg: Any = SimpleNamespace(prompt="a robot", suffix=" in oil", negative="blur")
    prompts = encoded_prompts(cfg, "a man", reader, words)
    wanted = [f"a {who} in oil{end}" for who in ("robot", "man")
              for end in ("", ", front view", ", back view")]  # fmt: skip
    assert reader.read == [(prompt, "blur") for prompt in wanted]
    assert prompts.words == {
        "prompt": "a robot in oil", "source": "a man in oil", "negative": "blur"
    }  # fmt: skip
    texts = ViewPrompts(reader, prompts.tgt, prompts.src)
    found = [texts(View(f"view_{i}")) for i in range(5)]
    assert [int(tgt.cond["number"]) for tgt, _ in found] == [2, 1, 2, 3, 1]
    assert [int(src.cond["number"]) for _, src in found] == [5, 4, 5, 6, 4]
    assert [int(tgt.cond["view"]) for tgt, _ in found] == list(range(5)), "the backbone is asked"


def test_without_words_prompts_are_plain() -> None:
    reader: Any = Reader()
    cfg: Any = SimpleNamespace(prompt="a robot", suffix="", negative="")
    for words in ({}, {"view_0": ""}):
        prompts = encoded_prompts(cfg, "a man", reader, words)
        assert type(prompts.tgt) is type(prompts.src) is Text
    assert ViewPrompts(reader, prompts.tgt, None)(View("view_3"))[1] is None


def test_every_objective_asks_for_the_prompts_of_its_view() -> None:
    reader: Any = Reader()
    reader.draws_images = True
    text = reader.encode_prompt(["plain"])
    worded = ViewDependentText(text.cond, text.null, {"view_2": reader.encode_prompt(["worded"])})
    scene, some = Posed(), SimpleNamespace(source_bank=None)
    built: Any = {"representation": None, "backbone": reader, "text_tgt": worded}
    edit = EditObjective(scene, **built, loss=some, text_src=text)  # type: ignore[arg-type]
    more = {**built, "editor": some, "text_src": None}
    update, once = DatasetUpdateObjective(scene, **more), EditorObjective(scene, **more)
    for objective in (edit, update, once):
        views = objective.views
        assert [int(objective.texts(view)[0].cond["number"]) for view in views] == [1, 1, 2]
    assert int(edit.texts(edit.views[2])[1].cond["number"]) == 1


INSTRUCT = "pds_cli.editors.instruct_pix2pix.InstructPix2Pix"
SDEDIT = "pds_cli.editors.sdedit.SDEdit"


def test_options_without_effect_are_said() -> None:
    on, said = "view_prompts.enabled=true", {"view_0": "front view"}
    for key in ("view_prompts.sectors", "view_prompts.words", "scene.front"):
        assert Idle(key, "view_prompts.enabled=false") in idle(edit_config(), said)
    assert idle(edit_config(on), {}) == [Idle("view_prompts", "a flat scene")]
    by_instruction = edit_config(on, editor=INSTRUCT)
    assert idle(by_instruction, said) == [Idle("view_prompts", "an editor by instruction")]
    for config in (
        edit_config(on),
        edit_config(on, editor=SDEDIT),
        edit_config(on, editor=INSTRUCT, refined=True),
    ):
        assert idle(config, said) == [Idle("view_prompts.camera", "what knows no cameras")]
        assert idle(config, said, {"view_0": (0.0, 10.0)}) == []
    assert Idle("view_prompts.camera", "what knows no cameras") in idle(edit_config(), {})
    told = idle(edit_config(), {}, {"view_0": (0.0, 10.0)})
    assert not {"scene.front", "view_prompts.camera"} & {remark.key for remark in told}


# --- captions of the toybox ----------------------------------------------------------------------


@given(AZIMUTH, st.floats(5, 89))
def test_a_caption_says_from_where_a_camera_looks(azimuth: float, elevation: float) -> None:
    figure, camera = Figure(hat="crown"), OrbitCamera(azimuth, elevation)
    text = caption(figure, ["hat"], camera)
    plain, _, words = text.partition(", ")
    assert plain == caption(figure, ["hat"])
    assert words == VIEW_WORDS[direction(azimuth, elevation)]
    assert parse_caption(text) == parse_caption(plain) and unread(text) == []
    assert {*text.replace(",", "").split()} <= {*vocabulary()}


# --- an edit -------------------------------------------------------------------------------------


@pytest.fixture
def edit(pds: Callable[..., Answer], tiny_backbone: Path, tmp_path: Path) -> Callable[..., Answer]:
    """`pds edit` of a small capture on the tiny backbone; the fit is kept for the next."""
    folder, _ = capture(tmp_path / "photos")
    words = ["scene=nerfstudio", f"scene.path={folder}", "scene.eval_interval=0", *FIELD,
             "source=a photo of a man", "prompt=a photo of a robot", "device=cpu",
             f"backbone.model={tiny_backbone}", "representation.render_size=64", "steps=3",
             "render_every=0", "refine=none", "turntable=0"]  # fmt: skip
    return lambda *more: pds("edit", *words, *more)


def test_an_edit_says_from_where_its_views_look(
    edit: Callable[..., Answer],
    pds: Callable[..., Answer],
    stopping: Callable[[str, int], None],
) -> None:
    assert edit("out=off", "view_prompts.enabled=false").code == 0
    on = ["view_prompts.enabled=true", "view_prompts.sectors=4", "view_prompts.words.back=zyx"]
    answer = edit("out=on", *on)
    assert answer.code == 0, answer.err
    assert "view prompts: " in answer.out
    assert "never saw the word 'zyx'" in answer.err and "'front'" not in answer.err
    assert "taken to be where 0 looks from" in answer.err
    assert summary("on")["view_prompts"] == {
        "left side view": 2, "right side view": 2, "front view": 1, "zyx": 1
    }  # fmt: skip
    assert "left side view (2)" in Path("on/report.html").read_text(encoding="utf-8")
    assert "view_prompts" not in summary("off")
    assert records("on") != records("off")
    stopping("edit", 2)
    assert edit("out=stopped", *on).code == 130
    refused = pds("edit", "resume=stopped", "view_prompts.sectors=8")
    assert refused.code == 2 and "view_prompts.sectors differs from the run" in refused.err
    assert pds("edit", "resume=stopped").code == 0
    assert records("stopped") == records("on")
    results = [Path(run) / "exports/result.safetensors" for run in ("on", "stopped")]
    whole, stopped = (load_checkpoint(path)[0] for path in results)
    assert all(torch.equal(value, stopped[key]) for key, value in whole.items())
