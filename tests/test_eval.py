"""`pds eval` and `pds study`: scores of finished runs, tables, blinded comparisons."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_fit import SMALL
from test_stable_diffusion import LENGTH, fill, write_tokenizer
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.evaluation.study import Answer, preferences
from pds_cli.evaluation.table import bootstrap
from pds_cli.images import write_image
from pds_cli.metrics import lpips, psnr, ssim
from pds_cli.metrics.clip import Clip
from pds_cli.metrics.consistency import view_consistency
from pds_cli.path_rendering import load_result
from pds_cli.scenes.paths import turntable


def save_clip(folder: Path, seed: int = 0) -> Path:
    """A tiny random CLIP in transformers format."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = write_tokenizer(folder / "tokenizer_files")
    vocab = len(tokenizer)
    config = CLIPConfig(
        text_config={
            "vocab_size": vocab,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": LENGTH,
            "bos_token_id": vocab - 2,
            "eos_token_id": vocab - 1,
            "pad_token_id": vocab - 1,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=12,
    )
    fill(CLIPModel(config), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def picture(seed: int, side: int = 40) -> Tensor:
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")[0]


def make_run(folder: Path, method: str, seed: int = 0, prompt: str = "a man", **more: Any) -> Path:
    """A finished run of one view, as `pds edit` leaves it."""
    source = picture(0)
    result = (0.7 * source + 0.3 * picture(seed + 1)).clamp(0, 1)
    (folder / "renders").mkdir(parents=True)
    write_image(folder / "renders" / "source_front.png", source)
    write_image(folder / "renders" / "result_front.png", result)
    config = f"prompt: {prompt}\nseed: 0\nscene: {{source_prompt: a boy}}\n"
    (folder / "config.yaml").write_text(config)
    summary: dict[str, Any] = {"verb": "edit", "loss": method, "prompt": prompt}
    summary |= {"source_prompt": "a boy"}
    summary |= {"status": "done", "seconds": 2.0 + seed, "memory_mb": 100.0, **more}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


# --- CLIP ----------------------------------------------------------------------------------------


def test_clip_is_transformers_own(clip_folder: Path) -> None:
    """Embeddings equal those of the library's whole model on pixels prepared by hand."""
    from transformers import CLIPModel

    clip, image = Clip(str(clip_folder), device="cpu"), picture(3, 32)
    network: Any = CLIPModel.from_pretrained(clip_folder).eval()
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).reshape(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).reshape(3, 1, 1)
    tokens = clip.tokenizer(["a man"], padding="max_length", max_length=LENGTH, return_tensors="pt")
    with torch.no_grad():
        whole = network(pixel_values=((image - mean) / std)[None], **tokens)
    torch.testing.assert_close(clip.image(image[None]), whole.image_embeds)
    torch.testing.assert_close(clip.text(["a man"]), whole.text_embeds)
    expected = float((whole.image_embeds * whole.text_embeds).sum())
    assert clip.score(image, "a man") == pytest.approx(expected, abs=1e-5)


def test_clip_direction(clip_folder: Path) -> None:
    clip, a, b = Clip(str(clip_folder), device="cpu"), picture(3), picture(4)
    there = clip.direction(a, b, "a man", "a boy")
    assert -1 <= there <= 1 and abs(there) > 1e-4
    assert clip.direction(b, a, "a boy", "a man") == pytest.approx(there, abs=1e-5)
    assert clip.direction(b, a, "a man", "a boy") == pytest.approx(-there, abs=1e-5)
    assert clip.direction(a, a, "a man", "a boy") == 0
    wide = torch.cat([a, a.flip(-1)], -1)
    assert clip.image(wide[None]).shape == (1, 12)


def test_a_model_that_is_none_gets_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be loaded .*hf download"):
        Clip(str(tmp_path), device="cpu")


# --- scores and tables ---------------------------------------------------------------------------


def test_scores_of_runs(pds: Callable, tmp_path: Path) -> None:
    for seed, method in enumerate(["sds", "dds", "dds"]):
        make_run(tmp_path / "runs" / str(seed), method, seed)
    done = pds("eval", str(tmp_path / "runs"), f"out={tmp_path}/eval")
    assert done.code == 0, done.err
    found = results(tmp_path / "eval")
    assert [row["method"] for row in found["runs"]] == ["sds", "dds", "dds"]
    from pds_cli.images import read_image

    shown = [
        read_image(tmp_path / "runs" / "1" / "renders" / f"{name}_front.png").image
        for name in ("result", "source")
    ]
    a, b = (image[None] for image in shown if image is not None)
    row = found["runs"][1]
    assert row["lpips_source"] == pytest.approx(float(lpips(a, b)), rel=1e-4)
    assert row["psnr_source"] == pytest.approx(float(psnr(a, b)), rel=1e-5)
    assert row["ssim_source"] == pytest.approx(float(ssim(a, b)), rel=1e-5)
    dds = found["methods"]["dds"]["seconds"]
    assert (dds["mean"], dds["low"], dds["high"], dds["n"]) == (3.5, 3.0, 4.0, 2)
    text = (tmp_path / "eval" / "table.md").read_text()
    assert "| dds | 2 |" in text and "No CLIP scores: give clip=" in text


def test_clip_scores_name_their_model_and_do_not_mix(
    pds: Callable, clip_folder: Path, tmp_path: Path
) -> None:
    a, b = (make_run(tmp_path / name, name) for name in ("sds", "dds"))
    first = pds("eval", f"run={a}", f"clip={clip_folder}", "device=cpu", f"out={tmp_path}/one")
    assert first.code == 0, first.err
    clip = Clip(str(clip_folder), device="cpu")
    assert clip.fingerprint in (tmp_path / "one" / "table.md").read_text()
    # One run has scores, the other none: no table.
    half = pds("eval", str(a), str(b), f"out={tmp_path}/half")
    assert half.code == 2 and "has no CLIP scores" in half.err
    other = save_clip(tmp_path / "other_clip", seed=5)
    assert pds("eval", str(b), f"clip={other}", "device=cpu", f"out={tmp_path}/two").code == 0
    mixed = pds("eval", str(a), str(b), f"out={tmp_path}/mixed")
    assert mixed.code == 2 and "different CLIP models" in mixed.err
    assert not (tmp_path / "mixed" / "table.md").exists()
    same = pds("eval", str(a), str(b), f"clip={clip_folder}", "device=cpu", f"out={tmp_path}/all")
    assert same.code == 0, same.err
    rows = results(tmp_path / "all")["runs"]
    assert rows[0]["clip_score"] == pytest.approx(
        results(tmp_path / "one")["runs"][0]["clip_score"]
    )
    # Scores that are there are taken over where no model is given.
    again = pds("eval", str(a), str(b), f"out={tmp_path}/again")
    assert again.code == 0
    assert results(tmp_path / "again")["runs"] == rows


def test_damaged_and_unknown_runs_are_named_and_skipped(pds: Callable, tmp_path: Path) -> None:
    good = make_run(tmp_path / "good", "pds")
    torn = make_run(tmp_path / "torn", "pds")
    (torn / "summary.json").write_text('{"verb": "ed')
    empty = make_run(tmp_path / "empty", "pds")
    (empty / "renders" / "result_front.png").unlink()
    broken = make_run(tmp_path / "broken", "pds")
    (broken / "renders" / "result_front.png").write_bytes(b"no picture")
    failed = make_run(tmp_path / "failed", "pds")
    (failed / "error.txt").write_text("the loss became nan\n")
    make_run(tmp_path / "halted", "pds", status="stopped")
    make_run(tmp_path / "fitted", "pds", verb="fit")
    killed = make_run(tmp_path / "killed", "pds")
    (killed / "summary.json").unlink()
    bare = make_run(tmp_path / "bare", "pds")
    for name in ("summary.json", "config.yaml"):
        (bare / name).unlink()
    wrong = ("torn", "empty", "broken", "failed", "halted", "fitted", "killed", "bare", "missing")
    names = [str(good), *(str(tmp_path / name) for name in wrong)]
    done = pds("eval", *names, f"out={tmp_path}/eval")
    assert done.code == 0, done.err
    assert [row["run"] for row in results(tmp_path / "eval")["runs"]] == [str(good)]
    for name in wrong:
        assert re.search(rf"skipped: .*{name}", done.err), name
    assert "the loss became nan" in done.err and "Traceback" not in done.err
    assert "made by pds fit" in done.err and f"pds edit resume={tmp_path / 'halted'}" in done.err
    nothing = pds("eval", str(torn), f"out={tmp_path}/nothing")
    assert nothing.code == 2 and "none of these folders" in nothing.err
    assert pds("eval", f"out={tmp_path}/none").code == 2


def test_a_sweep_names_its_jobs_that_are_not_done(pds: Callable, tmp_path: Path) -> None:
    for seed, name in enumerate(("done", "stopped", "killed", "failed")):
        make_run(tmp_path / "sweep" / name, "pds", seed)
        # What a job fitted first, and what Hydra notes, are no runs of their own.
        for part in ("fit", ".hydra"):
            (tmp_path / "sweep" / name / part).mkdir()
            (tmp_path / "sweep" / name / part / "config.yaml").write_text("prompt: x\n")
    make_run(tmp_path / "sweep" / "fitted", "none", verb="fit")
    summary = tmp_path / "sweep" / "stopped" / "summary.json"
    summary.write_text(summary.read_text().replace('"done"', '"stopped"'))
    (tmp_path / "sweep" / "killed" / "summary.json").unlink()
    (tmp_path / "sweep" / "failed" / "error.txt").write_text("no memory\n")
    answer = pds("eval", str(tmp_path / "sweep"), f"out={tmp_path}/eval")
    assert answer.code == 0, answer.err
    assert [row["run"] for row in results(tmp_path / "eval")["runs"]] == [
        str(tmp_path / "sweep/done")
    ]
    skipped = re.findall(r"skipped: \S*sweep/(\w+): (\w+)", answer.err)
    assert skipped == [("failed", "failed"), ("killed", "unfinished"), ("stopped", "unfinished")]


def test_a_real_edit_is_scored(pds: Callable, tmp_path: Path) -> None:
    words = ["scene=figurine2d", "prompt=a photo of a robot", "steps=2", f"out={tmp_path}/run"]
    assert pds("edit", *words).code == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["memory_mb"] > 50
    done = pds("eval", str(tmp_path / "run"), f"out={tmp_path}/eval")
    assert done.code == 0, done.err
    row = results(tmp_path / "eval")["runs"][0]
    for key in ("lpips_source", "psnr_truth", "ssim_source"):
        assert row[key] == pytest.approx(summary["metrics"][key], rel=0.02)


def test_a_nerf_is_scored_for_its_consistency(
    pds: Callable, tmp_path: Path, tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pds_cli.evaluation.scores.TURNTABLE", (24, 48))
    words = [*SMALL, "prompt=a photo of a robot", f"backbone.model={tiny_backbone}", "steps=2"]
    words += ["representation.render_size=64", "refine=none", "turntable=0"]
    words.append("representation.fit.steps=60")  # enough for surfaces
    assert pds("edit", *words, f"out={tmp_path}/run").code == 0
    done = pds("eval", str(tmp_path / "run"), f"out={tmp_path}/eval")
    assert done.code == 0, done.err
    found = results(tmp_path / "eval")["runs"][0]["consistency"]
    nerf = load_result(tmp_path / "run")
    cameras = turntable(list(nerf.cameras["train"].values()), nerf.region, frames=24, size=48)
    seen = [nerf.render_camera(camera) for camera in cameras]
    # From one side alone, views agree but for bilinear sampling; from many sides less well.
    assert found == pytest.approx(view_consistency(seen, cameras), abs=1e-3)
    assert found < view_consistency([seen[0], seen[0]], [cameras[0], cameras[0]])
    (tmp_path / "run/exports/nerf.safetensors").write_bytes(b"torn")
    torn = pds("eval", str(tmp_path / "run"), f"out={tmp_path}/torn")
    assert torn.code == 2 and "nerf.safetensors" in torn.err and "Traceback" not in torn.err


def test_bootstrap_covers_the_mean() -> None:
    """Of 200 samples of 40 normal numbers about nine in ten intervals or more hold the mean."""
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(generator.normal(2.0, 1.0, 40).tolist())
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 0.99
    assert bootstrap([3.0]) == (3.0, 3.0)


# --- the study -----------------------------------------------------------------------------------


def marks(page: str) -> list[str]:
    return re.findall(r'role="radio"[^>]*data-mark="([0-9a-f]+)"', page)


def answer(folder: Path, name: str, method: str | None) -> Path:
    """What a viewer who always prefers one method saves."""
    key = json.loads((folder / "key.json").read_text())
    chosen = {
        question: next(
            (m for m in entry["options"] if key["options"][m]["method"] == method), "none"
        )
        for question, entry in key["questions"].items()
    }
    answers = [{"question": q, "shown": [], "chosen": c} for q, c in chosen.items()]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"study": key["study"], "viewer": name, "answers": answers}))
    return path


def test_a_study_is_blind_and_collects(pds: Callable, tmp_path: Path) -> None:
    folders = []
    for prompt in ("a man", "a robot"):
        for seed, method in enumerate(["sds", "dds", "dreamcatalyst"]):
            folders.append(make_run(tmp_path / prompt / method, method, seed, prompt))
    folder = tmp_path / "study"
    made = pds("study", *map(str, folders), f"out={folder}")
    assert made.code == 0, made.err
    page = (folder / "study.html").read_text()
    assert len(marks(page)) == 6 and len(set(marks(page))) == 6
    for name in ("sds", "dds", "dreamcatalyst", str(tmp_path)):
        assert name not in re.sub(r"data:image/[^\"]+", "", page), "the page says who made what"
    assert "http://" not in re.sub(r"data:image/[^\"]+", "", page)
    sheets = [answer(folder, "v1", "dds"), answer(folder, "v2", "dds"), answer(folder, "v3", None)]
    twice = json.loads(sheets[1].read_text())  # an answer that is there twice counts once
    twice["answers"] *= 2
    sheets[1].write_text(json.dumps(twice))
    other = folder / "other.json"
    other.write_text('{"study": "another", "viewer": "x", "answers": []}')
    names = ",".join(map(str, [*sheets, sheets[0], other, folder / "missing.json"]))
    done = pds("study", f"collect=[{names}]", f"key={folder}/key.json", f"out={tmp_path}/answers")
    assert done.code == 0, done.err
    assert "another study" in done.err and "missing.json" in done.err
    found = results(tmp_path / "answers")
    assert {m: (row["votes"], row["shown"]) for m, row in found.items()} == {
        "dds": (4, 6),
        "sds": (0, 6),
        "dreamcatalyst": (0, 6),
    }
    assert "6 answers, 2 of them for none" in done.out


def test_preferences_have_intervals() -> None:
    answers = [Answer(("a", "b"), "a")] * 8 + [Answer(("a", "b"), "b")] * 2
    found = preferences(answers)
    assert list(found) == ["a", "b"] and found["a"]["share"] == 0.8
    assert 0.4 < found["a"]["low"] < 0.8 < found["a"]["high"] < 1
    assert found["b"]["low"] > 0


@pytest.mark.parametrize(
    ("words", "right"),
    [
        ([], "there is nothing to show"),
        (["collect=[a.json]"], "key= is missing"),
        (["collect=[a.json]", "key=nowhere.json"], "key=nowhere.json is no key"),
        (["nowhere"], "a study compares results of two methods"),
    ],
)
def test_bad_studies_get_a_sentence(
    pds: Callable, tmp_path: Path, words: list[str], right: str
) -> None:
    found = pds("study", *words, f"out={tmp_path}/study")
    assert found.code == 2 and right in found.err and "Traceback" not in found.err
    assert not (tmp_path / "study" / "study.html").exists()
