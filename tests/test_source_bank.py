"""The source bank: the same gradient for half the rows, and the same run after an interruption."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from albums import Album, Counting, Pages, gaussians, texts
from helpers import StopAt
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pds_cli.backbones.base import Text
from pds_cli.errors import UserError
from pds_cli.losses.base import Loss
from pds_cli.losses.dds import DDS
from pds_cli.losses.pds import PDS
from pds_cli.losses.sds import SDS
from pds_cli.losses.source_bank import SourceBank
from pds_cli.losses.timesteps import Walk
from pds_cli.runs.folder import RunFolder
from pds_cli.seeds import step_generator
from pds_cli.training.distillation import EditObjective
from pds_cli.training.trainer import Stage, Trainer
from pds_cli.views.view import View

LOSSES: dict[str, Callable[..., Loss]] = {
    "dds": lambda **o: DDS(guidance=3.0, source_guidance=1.5, **o),
    "pds": lambda **o: PDS(guidance=3.0, weighting="sigma", clip_norm=0.5, **o),
}


def random_images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)


def bank_of(
    loss: Loss, backbone: Counting, x0_src: Tensor, seed: int = 0, view: str = "front"
) -> SourceBank:
    return SourceBank(loss, backbone, x0_src, texts(backbone)[1], seed=seed, view=view)


def objective(loss: Loss, views: int = 1, backbone: Counting | None = None, **options: Any) -> Any:
    backbone = backbone or gaussians()
    scene = Album(views)
    return EditObjective(scene, Pages(scene), backbone, loss, *texts(backbone), **options)


# --- the gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("latents", "draws"), [(1, 1), (1, 3), (2, 3)])
def test_the_gradient_is_that_of_both_branches(name: str, latents: int, draws: int) -> None:
    backbone, loss = gaussians(), LOSSES[name](source_bank=5)
    x0_tgt, x0_src = random_images(latents, 1), random_images(latents, 2)
    bank = bank_of(loss, backbone, x0_src)
    for step in range(4):  # at first the bank is empty, later it is not
        t, eps, eps_src = bank.draw(draws, generator=step_generator(0, "edit", step))
        tgt, src = x0_tgt.repeat(draws, 1, 1, 1), x0_src.repeat(draws, 1, 1, 1)
        args = (backbone, tgt, src, *texts(backbone))
        direct = loss.evaluate(*args, t=t, eps=eps)
        banked = loss.evaluate(*args, t=t, eps=eps, eps_src=eps_src)
        torch.testing.assert_close(banked.grad, direct.grad, rtol=1e-6, atol=1e-9)
        assert banked.logs == pytest.approx(direct.logs)
        assert float(direct.grad.abs().max()) > 1e-3


@pytest.mark.parametrize("name", LOSSES)
def test_the_mean_over_the_bank_is_the_mean_without_it(name: str) -> None:
    backbone, loss = gaussians(), LOSSES[name](source_bank=7)
    x0_tgt, x0_src = random_images(1, 1), random_images(1, 2)
    bank = bank_of(loss, backbone, x0_src)
    t, eps, eps_src = bank.draw(7)
    pairs = [bank.pair(k) for k in range(7)]
    args = (x0_src.repeat(7, 1, 1, 1), *texts(backbone))
    many = x0_tgt.repeat(7, 1, 1, 1)
    banked = loss.evaluate(backbone, many, *args, t=t, eps=eps, eps_src=eps_src).grad.mean(0)
    t, eps = (torch.cat(column) for column in zip(*pairs, strict=True))
    direct = loss.evaluate(backbone, many, *args, t=t, eps=eps).grad.mean(0)
    torch.testing.assert_close(banked, direct, rtol=1e-9, atol=1e-12)


def test_a_large_bank_has_the_mean_of_fresh_draws() -> None:
    """The pairs stand for the same distribution of t and ε that the loss draws from."""
    backbone, size = gaussians(), 2000
    loss = DDS(guidance=1.0, weighting="sigma", source_bank=size)
    x0_tgt, x0_src = random_images(1, 1), random_images(1, 2)
    t, eps, eps_src = bank_of(loss, backbone, x0_src).draw(size)
    many = x0_tgt.repeat(size, 1, 1, 1)
    args = (backbone, many, x0_src, *texts(backbone))
    banked = loss.evaluate(*args, t=t, eps=eps, eps_src=eps_src).grad
    fresh = loss(*args, generator=torch.Generator().manual_seed(5)).grad
    error = (banked.var(0) / size + fresh.var(0) / size).sqrt()
    assert float(((banked.mean(0) - fresh.mean(0)).abs() / error).max()) < 4
    assert float((fresh.mean(0).abs() / error).max()) > 20, "else this could not fail"


# --- the work ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "rows"), [("dds", (2, 4)), ("pds", (2, 4))])
def test_rows_halve_once_the_bank_is_full(name: str, rows: tuple[int, int]) -> None:
    """Target: a text and a null row a draw; so for the source, the first time a pair comes."""
    both, draws = gaussians(), 2
    plain = objective(LOSSES[name](), backbone=both, batch_size=draws)
    plain.loss(0, 0.0, step_generator(0, "edit", 0))
    assert both.rows == [rows[1] * draws]

    backbone = gaussians()
    banked = objective(LOSSES[name](source_bank=3), backbone=backbone, batch_size=draws)
    for step in range(20):
        banked.loss(step, 0.0, step_generator(0, "edit", step))
    steps, fills = [r for r in backbone.rows if r > 2], [r for r in backbone.rows if r == 2]
    assert steps == [rows[0] * draws] * 20
    assert len(fills) == 3, "each pair once, in a call of its own"
    assert backbone.rows[-5:] == [rows[0] * draws] * 5


def test_each_view_has_a_bank_of_its_own() -> None:
    backbone = gaussians()
    banked = objective(LOSSES["pds"](source_bank=2), 3, backbone, batch_size=2)
    for step in range(40):
        banked.loss(step, 0.0, step_generator(0, "edit", step))
    assert [r for r in backbone.rows if r == 2] == [2] * (3 * 2)


# --- the pairs -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(1, 40),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_timesteps_are_spread_over_the_allowed_range(
    size: int, low: float, high: float, seed: int
) -> None:
    ratios = (min(low, high), max(low, high))
    loss = DDS(guidance=1.0, timesteps=ratios, source_bank=size)
    bank = bank_of(loss, gaussians(), random_images(2, 0), seed)
    walk = Walk(1000, 500)
    first, last = walk.indices(ratios)
    for k in range(size):
        t, eps = bank.pair(k)
        assert t.shape == (2,) and eps.shape == (2, 3, 4, 4)
        index = (t - 1) // 2
        assert torch.equal(walk.timestep(index), t), "a timestep of the walk"
        part = (last - first + 1) / size
        for i in index.tolist():
            assert first <= i <= last
            assert first + k * part - 1 <= i <= first + (k + 1) * part


def test_a_pair_depends_on_seed_view_and_number_only() -> None:
    loss, images = DDS(guidance=1.0, source_bank=4), random_images(1, 0)

    def pair(seed: int, view: str, k: int) -> tuple[Tensor, Tensor]:
        return bank_of(loss, gaussians(), images, seed, view).pair(k)

    t, eps = pair(1, "front", 2)
    again = pair(1, "front", 2)
    assert torch.equal(t, again[0]) and torch.equal(eps, again[1])
    for other in (pair(2, "front", 2), pair(1, "back", 2), pair(1, "front", 3)):
        assert not torch.equal(eps, other[1])


def test_a_step_draws_distinct_pairs_and_in_time_all_of_them() -> None:
    loss = DDS(guidance=1.0, source_bank=6)
    bank = bank_of(loss, gaussians(), random_images(1, 0))
    number = {float(bank.pair(k)[1].sum()): k for k in range(6)}
    seen = []
    for step in range(30):
        _, eps, _ = bank.draw(3, generator=step_generator(0, "edit", step))
        drawn = [number[float(noise.sum())] for noise in eps]
        assert len(set(drawn)) == 3
        seen += drawn
    counts = [seen.count(k) for k in range(6)]
    assert min(counts) >= 5, f"all pairs are drawn alike, but were drawn {counts} times"


def test_an_annealed_schedule_walks_the_bank_downwards() -> None:
    loss = DDS(guidance=1.0, schedule="annealed", source_bank=10)
    bank = bank_of(loss, gaussians(), random_images(1, 0))
    falling = [int(bank.draw(1, progress=p / 99)[0]) for p in range(100)]
    assert falling == sorted(falling, reverse=True)
    assert len(set(falling)) == 10 and falling[0] > 880 and falling[-1] < 118
    around = sorted(bank.draw(3, progress=0.5)[0].tolist())
    assert around[0] > 200 and around[-1] < 800


# --- resuming ------------------------------------------------------------------------------------


def run(folder: Path, at: int = -1, resume: bool = False) -> tuple[str, Tensor, str]:
    """24 steps on three views; stops after `at` of them."""
    torch.manual_seed(0)
    scene, backbone = Album(3), gaussians()
    pages = Pages(scene)
    loss = PDS(guidance=3.0, source_bank=3)
    edit = EditObjective(
        scene, pages, backbone, loss, *texts(backbone), batch_size=2, hold_view=2, seed=4
    )
    stage = Stage("edit", edit, 24, lambda groups: torch.optim.Adam(groups, lr=0.02))
    trainer = Trainer(
        [stage], RunFolder(folder), seed=4, checkpoint_every=100, observers=[StopAt(at)]
    )
    if resume:
        trainer.resume()
    status = trainer.run()
    metrics = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    return status, pages.theta.detach().clone(), metrics


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    assert whole[0] == "done"
    for at in (1, 5, 17):
        folder = tmp_path / str(at)
        assert run(folder, at)[0] == "stopped"
        status, theta, metrics = run(folder, resume=True)
        assert status == "done"
        assert torch.equal(theta, whole[1])
        assert metrics == whole[2]


def test_a_network_predicts_the_same_whatever_was_drawn_before(tiny_backbone: Path) -> None:
    from pds_cli.backbones.embedded import EmbeddedBackbone

    backbone = EmbeddedBackbone(model=str(tiny_backbone), device="cpu")
    text: Text = backbone.encode_prompt(["a photo of a man"])
    latent = backbone.encode_image(torch.rand(1, 3, 64, 64))
    loss = DDS(guidance=2.0, source_bank=3)
    up, down = (SourceBank(loss, backbone, latent, text) for _ in range(2))
    up.draw(3)
    for k in (2, 0, 1):
        down.source_prediction(k)
    for k in range(3):
        assert torch.equal(up.source_prediction(k), down.source_prediction(k))


# --- the objective's views -----------------------------------------------------------------------


def test_the_filmstrip_shows_the_first_view_alone() -> None:
    edit = objective(DDS(guidance=1.0), 5)
    for step in range(3):
        edit.loss(step, 0.0, step_generator(0, "edit", step))
        assert list(edit.renders()) == ["view0"]


def test_views_are_held_and_depend_on_the_seed() -> None:
    def order(seed: int, hold: int = 1) -> list[str]:
        edit = objective(DDS(guidance=1.0), 5, hold_view=hold, seed=seed)
        return [edit._pick(step)[0].name for step in range(60)]

    assert order(0) == order(0) != order(1)
    assert set(order(0)) == {f"view{i}" for i in range(5)}
    held = order(0, hold=4)
    assert all(len(set(held[i : i + 4])) == 1 for i in range(0, 60, 4))
    assert len(set(held)) > 2


def test_a_step_of_several_views_takes_their_mean() -> None:
    """Each distinct, by the same draws as a step that looks at it alone would have had."""
    edit = objective(DDS(guidance=1.0), 5, views_per_step=3)
    names = [view.name for view in edit._pick(7)]
    assert (
        len(set(names)) == 3 and len({tuple(v.name for v in edit._pick(s)) for s in range(9)}) > 3
    )
    assert len(objective(DDS(guidance=1.0), 2, views_per_step=3)._pick(0)) == 2

    edit = objective(DDS(guidance=1.0), 5)
    theta, generator = edit.parameter_groups()[0]["params"][0], step_generator(0, "edit", 7)

    def gradient(views: list[View], generator: torch.Generator) -> tuple[Tensor, set[str]]:
        edit._pick, theta.grad = lambda step: views, None
        scalar, logs = edit.loss(7, 0.0, generator)
        scalar.backward()
        return theta.grad.clone(), set(logs)

    together, logs = gradient(edit.views, step_generator(0, "edit", 7))
    alone, others = zip(*(gradient([view], generator) for view in edit.views), strict=True)
    torch.testing.assert_close(together, torch.stack(alone).mean(0))
    assert all(logs == other for other in others)


def test_the_latents_agree_though_the_render_has_another_size() -> None:
    class Own(Counting):
        """Takes any size that divides by 4, and nothing else."""

        def image_size(self, height: int, width: int) -> tuple[int, int]:
            return height // 4 * 4, width // 4 * 4

    backbone = Own(torch.zeros(1, 3, 4, 4), ["a"], 0.1)
    scene = Album(1, side=10)
    edit = EditObjective(
        scene, Pages(scene, side=23), backbone, DDS(guidance=1.0), *(2 * texts(gaussians())[:1])
    )
    view = scene.views[0]
    assert edit.target_latent(view).shape == edit.source_latent(view).shape == (1, 3, 8, 8)


# --- options, and the command line ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: SDS(guidance=1.0, source_bank=8), r"source_bank=8: SDS has no source branch"),
        (lambda: DDS(guidance=1.0, source_bank=-1), r"source_bank=-1 must be a whole number"),
        (lambda: DDS(guidance=1.0, source_bank=True), r"source_bank=True must be a whole"),
        (lambda: DDS(guidance=1.0, source_bank=2.5), r"source_bank=2.5 must be a whole"),  # type: ignore[arg-type]
        (
            lambda: objective(DDS(guidance=1.0, source_bank=2), batch_size=3),
            r"batch_size=3 asks for more draws a step than loss.source_bank=2 holds",
        ),
    ],
)
def test_a_bank_that_cannot_be_is_refused(make: Callable[[], Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize("size", [None, 0])
def test_no_bank_by_default(size: int | None) -> None:
    assert SDS(guidance=1.0, source_bank=size).source_bank == size
    backbone = gaussians()
    edit = objective(DDS(guidance=2.0, source_bank=size), backbone=backbone)
    for step in range(3):
        edit.loss(step, 0.0, step_generator(0, "edit", step))
    assert backbone.rows == [4] * 3


def test_pds_edit_takes_a_bank(pds: Callable[..., Any], tiny_backbone: Path) -> None:
    words = ["prompt=a photo of a robot", f"backbone.model={tiny_backbone}", "steps=4"]
    answer = pds("edit", *words, "loss.source_bank=2", "batch_size=2", "out=run")
    assert answer.code == 0, answer.err
    lines = Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    # Two draws of two pairs: every step looks at the same two timesteps.
    assert len({json.loads(line)["t"] for line in lines}) == 1 and len(lines) == 4
    refused = pds("edit", *words, "loss=sds", "loss.source_bank=2")
    assert refused.code == 2 and "SDS has no source branch" in refused.err
    negative = pds("edit", *words, "loss.source_bank=-2")
    assert negative.code == 2 and "loss.source_bank=-2 is out of range" in negative.err
