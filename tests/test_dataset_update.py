"""Iterative dataset update: turns, inputs, resuming, and refinement as a stage of the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from albums import Album, Counting, Pages, gaussians, texts
from helpers import SMALL_FIGURINE, StopAt, records
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from pds_cli.backbones.base import Backbone, Text
from pds_cli.backbones.embedded import EmbeddedBackbone
from pds_cli.backbones.shared_attention import ExtendedSelfAttention, self_attentions
from pds_cli.editors.base import Editor, decode, encode
from pds_cli.editors.sdedit import SDEdit
from pds_cli.errors import UserError
from pds_cli.options.catalogue import conf_dir
from pds_cli.runs.folder import RunFolder
from pds_cli.scenes.base import Scene
from pds_cli.seeds import step_generator
from pds_cli.training.dataset_update import DatasetUpdateObjective
from pds_cli.training.prompts import Prompts
from pds_cli.training.stages import Parts, refine_stage
from pds_cli.training.trainer import Objective, Stage, Trainer
from pds_cli.views.view import View


class Brighter(Editor):
    """Half way to white, with a little noise; keeps what it was given."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise
        self.given: list[tuple[Tensor, Tensor]] = []

    def edit(
        self,
        backbone: Backbone,
        image: Tensor,
        source: Tensor,
        text_tgt: Text,
        text_src: Text | None,
        *,
        generator: torch.Generator,
    ) -> Tensor:
        assert image.shape == source.shape and image.ndim == 4
        assert not image.requires_grad and not torch.is_grad_enabled()
        self.given.append((image.clone(), source.clone()))
        fresh = torch.randn(image.shape, generator=generator)
        return (0.5 * image + 0.5 + self.noise * fresh).clamp(0, 1)


def adam(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.05)


def objective(
    scene: Scene, editor: Editor | None = None, **options: Any
) -> tuple[DatasetUpdateObjective, Pages]:
    backbone = gaussians()
    pages = Pages(scene)  # type: ignore[arg-type]
    refinement = {"input": "stage", "initial": "renders", **options}
    found = DatasetUpdateObjective(
        scene, pages, backbone, editor or Brighter(), *texts(backbone), **refinement
    )
    return found, pages


def steps(update: DatasetUpdateObjective, count: int) -> Iterator[int]:
    """Takes `count` steps of Adam, as the trainer would."""
    update.begin()
    optimizer = adam(update.parameter_groups())
    for step in range(count):
        optimizer.zero_grad()
        loss, _ = update.loss(step, step / count, step_generator(0, "refine", step))
        loss.backward()
        optimizer.step()
        update.after_step(step + 1, optimizer)
        yield step


# --- turns ---------------------------------------------------------------------------------------


def test_every_so_many_steps_one_view_is_redrawn() -> None:
    editor = Brighter()
    update, _ = objective(Album(4), editor, every=3)
    edits = [len(editor.given) for _ in steps(update, 10)]
    assert edits == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]


def test_views_take_turns_in_an_order_of_the_seed() -> None:
    update, _ = objective(Album(5), seed=0)
    rounds = [[view for i in range(5) for view in update.turn(5 * r + i)] for r in range(6)]
    assert all(sorted(r) == list(range(5)) for r in rounds)
    assert len({tuple(r) for r in rounds}) > 3, "each round has an order of its own"
    other, _ = objective(Album(5), seed=1)
    assert [other.turn(i) for i in range(30)] != [[i] for r in rounds for i in r]


def test_one_view_at_a_time_follows_one_permutation_a_round() -> None:
    update, _ = objective(Album(5), seed=4)
    for edit in range(15):
        generator = step_generator(4, "rounds of views", edit // 5)
        assert update.turn(edit) == [int(torch.randperm(5, generator=generator)[edit % 5])]


@pytest.mark.parametrize(("count", "together"), [(10, 3), (9, 3), (7, 4), (5, 8), (1, 4)])
def test_views_that_are_drawn_together_come_from_all_along_the_path(
    count: int, together: int
) -> None:
    """Each view once a round, and one view at most of each part of the path in a call."""
    update, _ = objective(Album(count), together=together, sharing=0.0)
    size = min(together, count)
    calls = -(-count // size)
    parts = [part.tolist() for part in torch.arange(count).tensor_split(size)]
    for start in range(0, 5 * calls, calls):
        groups = [update.turn(start + i) for i in range(calls)]
        assert sorted(view for group in groups for view in group) == list(range(count))
        assert all(len(group) == size for group in groups[:-1]) and groups[-1]
        for group in groups:
            assert all(sum(view in part for view in group) <= 1 for part in parts)


def test_one_call_of_the_editor_redraws_the_views_of_its_turn() -> None:
    editor, scene = Brighter(noise=0.1), Album(7)
    update, _ = objective(scene, editor, every=3, together=3, sharing=0.0)
    for step in steps(update, 9):
        assert len(editor.given) == step // 3 + 1
        image, source = editor.given[-1]
        turn = update.turn(step // 3)
        assert len(image) == len(source) == len(turn)
        for view, shown in zip(turn, source, strict=True):
            assert torch.equal(shown, scene.views[view].image)  # type: ignore[arg-type]
    wanted = [update.training_image(index) for index in range(7)]
    assert len({float(image.mean()) for image in wanted}) == 7, "to each view its own picture"


def test_each_view_of_a_call_has_its_own_prompts() -> None:
    class Knows(Counting):
        """Sees the second view from behind: there the prompts change places."""

        def seen_from(self, text: Text, view: View) -> Text:
            return Text(text.null, text.cond) if view.name == "view1" else text

    class Reading(Brighter):
        def edit(self, backbone: Backbone, image: Tensor, source: Tensor, text_tgt: Text,
                 text_src: Text | None, *, generator: torch.Generator) -> Tensor:  # fmt: skip
            read.append((text_tgt, text_src))
            return super().edit(backbone, image, source, text_tgt, text_src, generator=generator)

    read: list[tuple[Text, Text | None]] = []
    scene, plain = Album(2), gaussians()
    backbone = Knows(torch.zeros(2, 3, 4, 4), ["a", "b"], 0.1)
    prompts = texts(plain)
    update = DatasetUpdateObjective(
        scene, Pages(scene), backbone, Reading(), *prompts, together=2, sharing=0.0
    )
    for _ in steps(update, 1):
        pass
    (found,) = read
    for text, prompt in zip(found, prompts, strict=True):
        assert text is not None and len(text) == 2
        for key, one in prompt.cond.items():
            assert torch.equal(text.cond[key], torch.cat([one, prompt.null[key]]))


def test_views_of_different_sizes_are_drawn_in_that_of_the_first() -> None:
    class Mixed(Pages):
        """Its second picture is twice as wide."""

        def render_full(self, view: View) -> Tensor:
            page = self.render(view)[0]
            return page.repeat_interleave(2, -1) if view.name == "view1" else page

    for keep in (True, False):
        scene, editor = Album(2), Brighter()
        backbone = Counting(torch.zeros(2, 3, 4, 4), ["a", "b"], 0.1)
        pages = Mixed(scene)
        pages.theta.data[:] = torch.rand(pages.theta.shape)
        start = [pages.render_full(view).detach() for view in scene.views]
        update = DatasetUpdateObjective(
            scene, pages, backbone, editor, *texts(backbone), together=2, sharing=0.0,
            keep_detail=keep,
        )  # fmt: skip
        update.begin()
        update.loss(0, 0.0, step_generator(0, "refine", 0))
        (image, source), first = editor.given[0], update.turn(0)[0]
        shape = start[first].shape if keep else (3, 4, 4)
        assert image.shape == source.shape == (2, *shape)
        if keep:
            for index, before in enumerate(start):
                found = update.training_image(index)
                assert found.shape == before.shape
                whiter = 0.5 + 0.5 * before
                assert float((found - whiter).abs().mean()) < 0.1


# --- what is redrawn, and what views are fitted to -----------------------------------------------


@pytest.mark.parametrize(("input", "seen"), [("stage", [0.5] * 4), ("current", [0.5, 0.75])])
def test_the_editor_gets_the_stages_first_render_or_the_present_one(
    input: str, seen: list[float]
) -> None:
    """With `stage` the pictures stand still at one edit, with `current` they go on to white."""
    editor = Brighter()
    update, pages = objective(Album(1), editor, every=60, input=input)
    for _ in steps(update, 240):
        pass
    given = [float(image.mean()) for image, _ in editor.given]
    assert given[: len(seen)] == pytest.approx(seen, abs=0.01)
    assert float(pages.theta.detach().mean()) == pytest.approx(
        0.75 if input == "stage" else 0.97, abs=0.015
    )


def test_views_begin_with_their_render_or_with_the_scenes_image() -> None:
    scene = Album(2)
    images = torch.stack([view.image for view in scene.views if view.image is not None])
    update, pages = objective(scene, every=10**6, initial="source")
    (redrawn,) = update.turn(0)
    for _ in steps(update, 300):
        pass
    other = 1 - redrawn
    torch.testing.assert_close(pages.theta.detach()[other], images[other], rtol=0, atol=0.02)
    # Half way to white from the grey that the stage began with.
    assert float(pages.theta.detach()[redrawn].mean()) == pytest.approx(0.75, abs=0.02)

    update, pages = objective(scene, every=10**6, initial="renders")
    for _ in steps(update, 300):
        pass
    assert float((pages.theta.detach()[other] - 0.5).abs().max()) < 0.02


def test_the_editor_sees_the_source_in_the_size_of_its_input() -> None:
    scene, editor = Album(2, side=9), Brighter()
    update, _ = objective(scene, editor, every=1)
    for _ in steps(update, 2):
        pass
    for number, (image, source) in enumerate(editor.given):
        shown = scene.views[update.turn(number)[0]].image
        assert shown is not None and image.shape == (1, 3, 4, 4)
        assert float(source.mean()) == pytest.approx(float(shown.mean()), abs=0.08)
        assert float(source.std()) > 0.05


def test_only_what_the_editor_changed_is_added_where_detail_is_kept() -> None:
    """A backbone of half the resolution: what it cannot hold comes back unchanged."""

    class Darker(Editor):
        def edit(self, backbone: Backbone, image: Tensor, *_: Any, **__: Any) -> Tensor:
            return decode(backbone, encode(backbone, image) * 0.9, image)

    scene, backbone = Album(2), Counting(torch.zeros(2, 3, 2, 2), ["a", "b"], 0.1)
    pages = Pages(scene)
    checks = torch.tensor([0.3, 0.5, 0.3, 0.5]).repeat(4, 1)
    pages.theta.data[:] = checks + 0.1 * torch.rand(pages.theta.shape)
    start = pages.theta.detach().clone()
    found = {}
    for keep in (True, False):
        update = DatasetUpdateObjective(
            scene, pages, backbone, Darker(), *texts(backbone), keep_detail=keep
        )
        update.begin()
        (index,) = update.turn(0)
        update.loss(0, 0.0, step_generator(0, "refine", 0))
        found[keep] = update.training_image(index) - start[index]
    small = decode(backbone, encode(backbone, start[index : index + 1]), start[index : index + 1])
    assert torch.allclose(found[True], -0.1 * small[0], atol=0.005)  # 8 bits a channel
    detail = float((start[index] - small[0]).abs().mean())
    assert detail > 0.05 and float((found[False] + 0.1 * small[0]).abs().mean()) > 0.9 * detail


def test_views_without_an_image_were_first_seen_as_the_stage_began() -> None:
    editor = Brighter()
    update, _ = objective(Album(2, pictures=False), editor, every=1, input="current")
    for _ in steps(update, 6):
        pass
    assert all(float((source - 0.5).abs().max()) < 0.005 for _, source in editor.given)
    assert float(editor.given[-1][0].mean()) > 0.52


def test_every_view_is_rendered_once_at_the_beginning_if_at_all() -> None:
    update, pages = objective(Album(3))
    update.begin()
    update.begin()
    assert pages.rendered == ["view0", "view1", "view2"]
    update, pages = objective(Album(3), input="current", initial="source")
    update.begin()
    assert pages.rendered == []


def test_the_filmstrip_shows_the_first_view_alone() -> None:
    update, _ = objective(Album(4))
    assert list(update.renders()) == ["view0"]
    assert update.renders()["view0"].shape == (3, 4, 4)


def test_a_mask_is_respected() -> None:
    class Half(Scene):
        source_prompt = "a"

        @property
        def views(self) -> list[View]:
            mask = torch.zeros(1, 4, 4)
            mask[:, :2] = 1
            return [View("view0", torch.ones(3, 4, 4), mask=mask)]

    update, pages = objective(Half(), every=10**6)
    for _ in steps(update, 100):
        pass
    theta = pages.theta.detach()[0]
    assert float(theta[:, :2].mean()) > 0.7 and torch.equal(
        theta[:, 2:], torch.full((3, 2, 4), 0.5)
    )


def test_transparency_of_the_source_is_no_part_of_a_redrawn_image() -> None:
    """What an edit adds may lie where the source was transparent."""

    class Cut(Scene):
        source_prompt = "a"
        alpha = torch.zeros(1, 4, 4)

        @property
        def views(self) -> list[View]:
            return [View(f"view{i}", torch.ones(3, 4, 4), alpha=self.alpha) for i in range(2)]

    class Looking(Pages):
        seen: list[tuple[str, bool]]

        def reconstruction_loss(self, pairs: Any, generator: torch.Generator) -> Any:
            self.seen += [(view.name, view.alpha is not None) for view, _ in pairs]
            return super().reconstruction_loss(pairs, generator)

    scene, backbone = Cut(), gaussians()
    for initial in ("source", "renders"):
        pages = Looking(scene)  # type: ignore[arg-type]
        pages.seen = []
        update = DatasetUpdateObjective(
            scene, pages, backbone, Brighter(), *texts(backbone),
            every=10**6, input="stage", initial=initial,
        )  # fmt: skip
        for _ in steps(update, 1):
            pass
        redrawn = f"view{update.turn(0)[0]}"
        assert dict(pages.seen)[redrawn] is False
        assert sum(has for _, has in pages.seen) == (initial == "source")


def test_a_step_looks_at_some_distinct_views() -> None:
    class Looking(Pages):
        def reconstruction_loss(self, pairs: Any, generator: torch.Generator) -> Any:
            names.append({view.name for view, _ in pairs})
            assert len(names[-1]) == len(pairs)
            return super().reconstruction_loss(pairs, generator)

    scene, backbone = Album(5), gaussians()
    for size, expected in ((2, 2), (5, 5), (8, 5)):
        names: list[set[str]] = []
        update = DatasetUpdateObjective(
            scene, Looking(scene), backbone, Brighter(), *texts(backbone), batch_size=size
        )
        for _ in steps(update, 12):
            pass
        assert {len(found) for found in names} == {expected}
        assert set().union(*names) == {f"view{i}" for i in range(5)}


def test_images_are_kept_with_eight_bits() -> None:
    update, _ = objective(Album(3), every=1)
    for _ in steps(update, 3):
        pass
    state = update.state_dict()
    kept = {name: tensor for name, tensor in state.items() if "theta" not in name}
    assert len(kept) == 6 and {tensor.dtype for tensor in kept.values()} == {torch.uint8}


# --- resuming ------------------------------------------------------------------------------------


class Darker(Objective):
    """A first stage: pulls all pages of an album to black."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages

    def parameter_groups(self) -> list[dict[str, Any]]:
        return self.pages.parameter_groups()

    def loss(self, *_: Any) -> tuple[Tensor, dict[str, float]]:
        return self.pages.theta.square().mean(), {}

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.pages.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.pages.load_state_dict(state)


def run(
    folder: Path, options: dict[str, Any], at: int = -1, resume: bool = False
) -> tuple[str, Tensor, str]:
    scene, backbone = Album(3), gaussians()
    pages = Pages(scene)
    editor = SDEdit(steps=10, guidance=2.0, strength=[0.2, 0.6], eta=0.5)
    update = DatasetUpdateObjective(
        scene, pages, backbone, editor, *texts(backbone), every=2, batch_size=2, seed=7, **options
    )
    stages = [Stage("edit", Darker(pages), 5, adam), Stage("refine", update, 21, adam)]
    stops = [StopAt(at, "refine") if at else StopAt(5, "edit")]
    trainer = Trainer(stages, RunFolder(folder), seed=7, checkpoint_every=8, observers=stops)
    if resume:
        trainer.resume()
    status = trainer.run()
    metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return status, pages.theta.detach().clone(), metrics


@pytest.mark.parametrize("input", ["stage", "current"])
@pytest.mark.parametrize(("initial", "together"), [("renders", 1), ("source", 1), ("source", 2)])
def test_a_resumed_run_is_the_uninterrupted_one(
    input: str, initial: str, together: int, tmp_path: Path
) -> None:
    options = {"input": input, "initial": initial, "together": together, "sharing": 0.0}
    whole = run(tmp_path / "whole", options)
    assert whole[0] == "done"
    for at in (0, 1, 9):
        folder = tmp_path / str(at)
        assert run(folder, options, at)[0] == "stopped"
        status, theta, metrics = run(folder, options, resume=True)
        assert status == "done"
        assert torch.equal(theta, whole[1])
        assert metrics == whole[2]


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scene", "options", "sentence"),
    [
        (Album(2), {"input": "before"}, "loss.input=before is unknown; choose one of stage, cur"),
        (Album(2), {"initial": "noise"}, "loss.initial=noise is unknown; choose one of renders"),
        (Album(2), {"every": 0}, "loss.every=0 must be"),
        (Album(2), {"batch_size": 0}, "loss.batch_size=0 must be"),
        (Album(2), {"together": 0}, "loss.together=0 must be"),
        (Album(2), {"sharing": 1.5}, "loss.sharing=1.5 must lie between 0 and 1"),
        (Album(2), {"together": 2}, "loss.sharing=1 shares the self-attention of a UNet, and"),
        (
            Album(2, pictures=False),
            {"initial": "source"},
            "loss.initial=source needs an image of every view, and view0 has none",
        ),
    ],
)
def test_an_option_that_cannot_be_is_refused(
    scene: Album, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        objective(scene, **options)


def test_a_backbone_of_points_cannot_redraw() -> None:
    from pds_cli.backbones.mixture import CrescentMixture

    scene, backbone = Album(1), CrescentMixture(points=4)
    prompts = texts(backbone)
    with pytest.raises(UserError, match=r"draws no images, which a dataset update needs"):
        DatasetUpdateObjective(scene, Pages(scene), backbone, Brighter(), *prompts)


# --- the stage of `pds edit` ---------------------------------------------------------------------


def config(option: str, *overrides: str) -> DictConfig:
    """The keys of `pds edit` that the stage reads, with `refine=<option>`."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        node = compose(f"refine/{option}", list(overrides))
        optimizer = compose("optimizer/adam")
    plain: Any = {**OmegaConf.to_container(node, resolve=True), **optimizer}  # type: ignore[dict-item]
    return OmegaConf.create({**plain, "seed": 3, "lr": 0.02, "allow_modules": []})


WORDS = {"prompt": "a photo of a robot", "source": "a photo of a man", "negative": ""}


def given(scene: Scene, representation: Any, backbone: Any) -> tuple[Parts, Prompts]:
    return Parts(scene, representation, backbone), Prompts(WORDS, *texts(backbone))


def test_no_refinement_by_default() -> None:
    scene, backbone = Album(2), gaussians()
    for cfg in (config("none"), OmegaConf.create({"refine": None, "allow_modules": []})):
        assert refine_stage(cfg, *given(scene, Pages(scene), backbone)) is None


def test_the_published_values_are_the_defaults_and_a_backbone_may_recommend_others() -> None:
    scene, backbone = Album(2), gaussians()

    def stage(*overrides: str) -> tuple[Stage, Any, Any]:
        cfg = config("sdedit", *overrides)
        found = refine_stage(cfg, *given(scene, Pages(scene), backbone))
        assert found is not None
        update: Any = found.objective
        return found, update, update.editor

    found, update, editor = stage()
    assert (found.name, found.steps, update.every, update.input) == ("refine", 15000, 10, "stage")
    assert (editor.steps, editor.guidance, editor.strength, editor.eta) == (20, 15, (0.1, 0.2), 0)
    assert found.optimizer(update.parameter_groups()).param_groups[0]["lr"] == 0.02
    assert update.seed == 3

    better = "+backbone.recommended.refine"
    found, update, editor = stage(
        f"{better}.steps=7", f"{better}.lr=0.5", f"{better}.input=current", f"{better}.every=4",
        f"{better}.editor.strength=0.3", f"{better}.editor.guidance=2", "refine.editor.eta=1",
    )  # fmt: skip
    assert (found.steps, update.every, update.input) == (7, 4, "current")
    assert (editor.guidance, editor.strength, editor.eta) == (2, (0.3, 0.3), 1)
    assert found.optimizer(update.parameter_groups()).param_groups[0]["lr"] == 0.5


def test_a_yaml_of_ones_own_needs_only_the_options_of_the_docs_example() -> None:
    page = (Path(__file__).parent.parent / "docs" / "refinement.md").read_text(encoding="utf-8")
    example = page.partition("```yaml\n")[2].partition("```")[0]
    node: Any = OmegaConf.to_container(OmegaConf.create(example))
    node["editor"] = {"_target_": "pds_cli.editors.sdedit.SDEdit"}
    optimizer = OmegaConf.to_container(config("sdedit").optimizer)
    cfg = OmegaConf.create(
        {"refine": node, "optimizer": optimizer, "seed": 0, "lr": 0.02, "allow_modules": []}
    )
    OmegaConf.set_struct(cfg, True)
    scene, backbone = Album(2), gaussians()
    stage = refine_stage(cfg, *given(scene, Pages(scene), backbone))
    assert stage is not None and stage.schedule == "constant" and stage.steps == 1000
    update: Any = stage.objective
    assert not update.keep_detail and update.input == "current"


def test_the_stage_runs_after_an_edit_on_a_network(tiny_backbone: Path, tmp_path: Path) -> None:
    """Edit, then refine: the picture is fitted to what SDEdit made of the edited one."""
    from pds_cli.losses.pds import PDS
    from pds_cli.representations.image import ImageRepresentation
    from pds_cli.scenes.figurine import FigurineScene
    from pds_cli.training.distillation import EditObjective

    backbone = EmbeddedBackbone(model=str(tiny_backbone), device="cpu")
    scene = FigurineScene()
    picture = ImageRepresentation(scene, backbone)
    prompts = [backbone.encode_prompt([p]) for p in ("a photo of a robot", scene.source_prompt)]
    edit = EditObjective(scene, picture, backbone, PDS(guidance=3.0, source_bank=2), *prompts)
    words = ["refine.steps=40", "refine.every=100", "refine.editor.strength=0.6"]
    parts = Parts(scene, picture, backbone)
    refine = refine_stage(config("sdedit", *words), parts, Prompts(WORDS, *prompts))
    assert refine is not None
    stages = [Stage("edit", edit, 3, adam), refine]
    trainer = Trainer(stages, RunFolder(tmp_path), seed=3, render_every=20)
    assert trainer.run() == "done" and trainer.total_steps == 43
    update: Any = refine.objective
    wanted, render = update.training_image(0), picture.render(scene.views[0])[0].detach()
    before = update._beginning[0].float() / 255
    assert float((wanted - before).abs().mean()) > 0.02
    assert float((render - wanted).abs().mean()) < 0.1 * float((before - wanted).abs().mean())
    names = sorted(path.name for path in (tmp_path / "renders").iterdir())
    assert names == [
        *(f"edit_{step:06d}_front.png" for step in (0, 3)),
        *(f"refine_{step:06d}_front.png" for step in (0, 20, 40)),
    ]


# --- on a network ---------------------------------------------------------------------------------

TOGETHER = [
    *SMALL_FIGURINE, "prompt=a photo of a robot", "loss=dataset_update", "editor=sdedit",
    "editor.steps=4", "editor.strength=[0.4,0.6]", "loss.every=1", "loss.together=2", "refine=none",
    "render_every=0", "turntable=0", "steps=2",
]  # fmt: skip


def test_views_are_drawn_together_from_the_command_line(
    pds: Callable, tiny_backbone: Path, tmp_path: Path
) -> None:
    """Three views: two in the first call and one in the second."""
    answer = pds("edit", *TOGETHER, f"backbone.model={tiny_backbone}", f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    found = [each["redrawn"] for each in records(tmp_path / "run") if "redrawn" in each]
    assert found == [2, 3]


@pytest.mark.parametrize(("together", "sharing"), [(2, 0.5), (2, 0.0), (1, 1.0)])
def test_the_network_that_the_editor_asks_shares_attention_during_its_calls(
    together: int, sharing: float, tiny_backbone: Path
) -> None:
    class Own(Brighter):
        """Has a network of its own, as InstructPix2Pix has."""

        def asks(self, backbone: Backbone) -> Backbone:
            return network

        def edit(self, backbone: Backbone, image: Tensor, *args: Any, **more: Any) -> Tensor:
            found = [layer.processor for layer in self_attentions(network).values()]
            shared.append([p for p in found if isinstance(p, ExtendedSelfAttention)])
            return super().edit(backbone, image, *args, **more)

    network = EmbeddedBackbone(str(tiny_backbone), device="cpu")
    layers, shared = len(self_attentions(network)), []  # type: ignore[var-annotated]
    update, _ = objective(Album(3), Own(), every=1, together=together, sharing=sharing)
    for _ in steps(update, 2):
        pass
    if together == 1 or not sharing:
        assert shared == [[], []]
    else:  # the second call has one view left
        assert [len(each) for each in shared] == [layers, 0]
        assert {(p.images, p.share) for p in shared[0]} == {(2, 0.5)}
