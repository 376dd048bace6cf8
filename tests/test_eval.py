"""`pds eval` and `pds study`: scores of finished runs, tables, blinded comparisons."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_runs import write_run
from helpers import SMALL_FIGURINE
from small_pipelines import LENGTH, fill, write_tokenizer
from torch import Tensor

from pds_cli.errors import UserError
from pds_cli.evaluation.scores import RunScores
from pds_cli.evaluation.table import ScoreTable, bootstrap
from pds_cli.metrics.clip import Clip
from pds_cli.metrics.consistency import view_consistency
from pds_cli.metrics.lpips import lpips
from pds_cli.metrics.psnr import psnr
from pds_cli.pages.study import Answer, preferences
from pds_cli.pictures.ssim import ssim
from pds_cli.results.path_rendering import load_result
from pds_cli.runs.record import RunRecord
from pds_cli.views.paths import turntable


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


def small_run(
    folder: Path,
    method: str,
    seed: int = 0,
    prompt: str = "a man",
    settings: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """A finished run of one view; `settings` are keys of its own, `more` is in its summary."""
    source = picture(0)
    result = (0.7 * source + 0.3 * picture(seed + 1)).clamp(0, 1)
    pictures = {"source_front": source, "result_front": result}
    said = {"prompt": prompt, "scene.source_prompt": "a boy", "out": None, **(settings or {})}
    found = {"loss": method, "prompt": prompt, "source_prompt": "a boy", **more}
    found = {"seconds": 2.0 + seed, "memory_mb": 100.0, **found}
    write_run(folder, pictures, config=said, summary=found)
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
        small_run(tmp_path / "runs" / str(seed), method, seed)
    done = pds("eval", str(tmp_path / "runs"), f"out={tmp_path}/eval")
    assert done.code == 0, done.err
    found = results(tmp_path / "eval")
    assert [row["method"] for row in found["runs"]] == ["sds", "dds", "dds"]
    from pds_cli.pictures.files import read_image

    shown = [
        read_image(tmp_path / "runs" / "1" / "renders" / f"{name}_front.png").image
        for name in ("result", "source")
    ]
    a, b = (image[None] for image in shown if image is not None)
    row = found["runs"][1]
    assert row["lpips_source"] == pytest.approx(float(lpips(a, b)), rel=1e-4)
    assert row["psnr_source"] == pytest.approx(float(psnr(a, b)), rel=1e-5)
    assert row["ssim_source"] == pytest.approx(float(ssim(a, b)), rel=1e-5)
    assert [group["loss"] for group in found["groups"]] == ["sds", "dds"]
    dds = found["groups"][1]["scores"]["seconds"]
    assert (dds["mean"], dds["low"], dds["high"], dds["n"]) == (3.5, 3.0, 4.0, 2)
    text = (tmp_path / "eval" / "table.md").read_text()
    assert "| dds | 2 |" in text and "No CLIP scores: give clip=" in text


def test_clip_scores_name_their_model_and_do_not_mix(
    pds: Callable, clip_folder: Path, tmp_path: Path
) -> None:
    a, b = (small_run(tmp_path / name, name) for name in ("sds", "dds"))
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
    good = small_run(tmp_path / "good", "pds")
    torn = small_run(tmp_path / "torn", "pds")
    (torn / "summary.json").write_text('{"verb": "ed')
    empty = small_run(tmp_path / "empty", "pds")
    (empty / "renders" / "result_front.png").unlink()
    broken = small_run(tmp_path / "broken", "pds")
    (broken / "renders" / "result_front.png").write_bytes(b"no picture")
    failed = small_run(tmp_path / "failed", "pds")
    (failed / "error.txt").write_text("the loss became nan\n")
    small_run(tmp_path / "halted", "pds", status="stopped")
    small_run(tmp_path / "fitted", "pds", verb="fit")
    killed = small_run(tmp_path / "killed", "pds")
    (killed / "summary.json").unlink()
    bare = small_run(tmp_path / "bare", "pds")
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
        small_run(tmp_path / "sweep" / name, "pds", seed)
        # What a job fitted first, and what Hydra notes, are no runs of their own.
        for part in ("fit",):
            (tmp_path / "sweep" / name / part).mkdir()
            (tmp_path / "sweep" / name / part / "config.yaml").write_text("prompt: x\n")
    small_run(tmp_path / "sweep" / "fitted", "none", verb="fit")
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
    words = ["scene=figurine2d", "prompt=a photo of a robot", "steps=8", f"out={tmp_path}/run"]
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
    words = [
        *SMALL_FIGURINE,
        "prompt=a photo of a robot",
        f"backbone.model={tiny_backbone}",
        "steps=2",
    ]
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
    (tmp_path / "run/exports/result.safetensors").write_bytes(b"torn")
    torn = pds("eval", str(tmp_path / "run"), f"out={tmp_path}/torn")
    assert torn.code == 2 and "result.safetensors" in torn.err and "Traceback" not in torn.err


def test_bootstrap_covers_the_mean() -> None:
    """Of 200 samples of 40 normal numbers about nine in ten intervals or more hold the mean."""
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        low, high = bootstrap(generator.normal(2.0, 1.0, 40).tolist())
        hits += low <= 2.0 <= high
    assert 0.88 <= hits / 200 <= 0.99
    assert bootstrap([3.0]) == (3.0, 3.0)


# --- groups --------------------------------------------------------------------------------------


def scored(value: float, loss: str = "pds", prompt: str = "a man", **config: Any) -> RunScores:
    """A run with one score, LPIPS to its source, and with these settings."""
    scene = config.pop("scene", "figurine2d")
    settings = {"prompt": prompt, "seed": 0, "scene": {"_target_": f"x.{scene}"}, **config}
    summary = {"loss": loss, "prompt": prompt, "scene": scene}
    record = RunRecord(Path(f"runs/{loss}"), config=settings, summary=summary)
    return RunScores(record, {"lpips_source": value}, 1)


def grouped(table: ScoreTable) -> dict[tuple[str, ...], list[float]]:
    """The values of each group: the keys' texts → the LPIPS of its runs."""
    return {
        tuple(group.values.values()): [table.runs[i].scores["lpips_source"] for i in group.members]
        for group in table.groups
    }


SWEEP = [
    scored(n, loss, prompt, guidance=guidance, seed=seed, out=f"out{seed}", render_every=seed)
    for n, (prompt, loss, guidance, seed) in enumerate(
        itertools.product(["a man", "a robot"], ["dds", "pds"], [3, 7.5], [0, 1])
    )
]


def test_groups_are_what_differs_and_only_seeds_are_pooled() -> None:
    found = ScoreTable(SWEEP)
    # `out` and how often it renders change no result.
    assert found.keys == ["prompt", "loss", "guidance"] and found.grouping.mixed == {}
    assert grouped(found) == {
        (prompt, loss, guidance): [2.0 * n, 2 * n + 1]
        for n, (prompt, loss, guidance) in enumerate(
            itertools.product(["a man", "a robot"], ["dds", "pds"], ["3", "7.5"])
        )
    }
    assert "Pooled" not in found.markdown()
    rows = found.results()["groups"]
    assert rows[0]["scores"]["lpips_source"] == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 2}


def test_scenes_representations_and_backbones_are_groups() -> None:
    flat: dict[str, Any] = {"representation": {"_target_": "pds_cli.representations.image.X"}}
    solid: dict[str, Any] = {"representation": {"_target_": "pds_cli.representations.nerf.X"}}
    runs = [scored(1, **flat), scored(2, scene="figurine", **solid)]
    found = ScoreTable(runs)
    assert found.keys == ["scene", "representation", "loss"] and len(found.groups) == 2
    assert found.pairs == [], "runs of two scenes are no pair"


def test_what_by_pools_is_said() -> None:
    found = ScoreTable(SWEEP, by=["method"])
    assert {key: len(values) for key, values in grouped(found).items()} == {
        ("dds",): 8, ("pds",): 8
    }  # fmt: skip
    text = found.markdown()
    assert "prompt (a man, a robot)" in text and "guidance (3, 7.5)" in text
    assert found.results()["mixed"] == {"prompt": ["a man", "a robot"], "guidance": ["3", "7.5"]}
    assert "% Pooled within a group" in found.latex()
    assert ScoreTable(SWEEP, by="guidance").keys == ["guidance"]
    assert [len(group.members) for group in ScoreTable(SWEEP, by=[]).groups] == [16]
    for wrong in ("guidence", ["prompt", 3], [""]):
        with pytest.raises(UserError, match="by="):
            ScoreTable(SWEEP, by=wrong)


def test_what_follows_from_another_setting_is_named_and_not_mixed() -> None:
    runs = [scored(s, loss, guidance=g, seed=s) for loss, g in (("dds", 3), ("pds", 9))
            for s in (0, 1)]  # fmt: skip
    found = ScoreTable(runs)
    assert found.keys == ["loss"] and found.grouping.along == {"loss": ["guidance"]}
    assert "With method goes guidance." in found.markdown()
    assert ScoreTable(runs, by=["loss"]).grouping.mixed == {}


def test_runs_of_the_same_edit_and_seed_are_compared_as_pairs() -> None:
    """Prompts differ a hundred times more than methods do; pairs see the methods."""
    hard = {"a man": 0.0, "a robot": 50.0, "a bear": 100.0}
    runs = [
        scored(base + seed + gain, loss, prompt, seed=seed)
        for loss, gain in (("pds", 0.0), ("dds", 0.25))
        for prompt, base in hard.items()
        for seed in (1, 0)
    ]
    (pair,) = ScoreTable(runs[::-1], by=["loss"]).pairs
    names = (pair.first.values["loss"], pair.second.values["loss"])
    difference = pair.scores["lpips_source"]
    assert names == ("dds", "pds") and difference["n"] == 6
    assert difference["mean"] == pytest.approx(0.25)
    assert difference["low"] == difference["high"] == pytest.approx(0.25)
    assert (
        "| dds − pds | 6 | +0.250 [+0.250, +0.250] |"
        in ScoreTable(runs[::-1], by="loss").markdown()
    )
    # By prompt and method: one pair a prompt, never across prompts.
    pairs = ScoreTable(runs).pairs
    assert [p.scores["lpips_source"]["n"] for p in pairs] == [2, 2, 2]
    assert all(p.first.values["prompt"] == p.second.values["prompt"] for p in pairs)
    # A seed that one method lacks is no pair.
    (pair,) = ScoreTable(runs[:-1], by=["loss"]).pairs
    assert pair.scores["lpips_source"]["n"] == 5


def test_repeated_runs_are_said_to_say_nothing_new() -> None:
    text = ScoreTable([scored(1.0), scored(1.0), scored(2.0, seed=1)]).markdown()
    assert "1 of the runs repeat another" in text


def test_tables_for_spreadsheets_and_latex(pds: Callable, tmp_path: Path) -> None:
    prompt = '[50% of $5, "a_b" & {c}~^\\\nx'
    for seed, method in enumerate(["sds", "dds"]):
        small_run(tmp_path / method, method, seed, prompt)
        more = {"settings": {"seed": seed + 1}}
        small_run(tmp_path / f"{method}2", method, seed + 2, prompt, **more)
        small_run(tmp_path / f"{method}3", method, seed, "a robot")
    names = [str(tmp_path / f"{m}{n}") for n in ("", "2", "3") for m in ("sds", "dds")]
    done = pds("eval", *names, "by=[prompt,loss]", f"out={tmp_path}/eval")
    assert done.code == 0, done.err
    with (tmp_path / "eval" / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups = results(tmp_path / "eval")["groups"]
    assert [(row["prompt"], row["method"]) for row in rows] == [
        (p, m) for p in (prompt, "a robot") for m in ("sds", "dds")
    ]
    for row, group in zip(rows, groups, strict=True):
        score = group["scores"]["lpips_source"]
        assert float(row["lpips_source"]) == score["mean"]
        assert float(row["lpips_source_low"]) == score["low"]
        assert (row["runs"], row["lpips_source_n"]) == (str(group["runs"]), str(score["n"]))
    text = (tmp_path / "eval" / "table.tex").read_text(encoding="utf-8")
    body = text.split("\\midrule\n")[1].split("\\bottomrule")[0].splitlines()
    assert len(body) == 4 and all(line.endswith(r" \\") for line in body)
    assert body[0].startswith(
        r"{[}50\% of \$5, \textquotedbl{}a\_b\textquotedbl{} \& \{c\}\textasciitilde{}"
        r"\textasciicircum{}\textbackslash{} x & sds & 2 & "
    )
    columns = re.search(r"tabular\}\{([lr]+)\}", text)
    assert columns and {len(columns[1]) - 1} == {
        len(re.findall(r"(?<!\\)&", line)) for line in body
    }
    assert "LPIPS to source $\\downarrow$" in text and "\\toprule" in text
    lines = (tmp_path / "eval" / "table.md").read_text(encoding="utf-8").splitlines()
    assert {line.count(" | ") for line in lines[:6]} == {lines[0].count(" | "), 0}
    (tmp_path / "sds" / "eval.json").unlink()
    wrong = pds("eval", *names, "by=[los]", f"out={tmp_path}/wrong")
    assert wrong.code == 2 and "by=los" in wrong.err and "loss" in wrong.err
    assert not (tmp_path / "sds" / "eval.json").exists(), "refused before anything is scored"


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
            folders.append(small_run(tmp_path / prompt / method, method, seed, prompt))
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


def swept(folder: Path, **axes: list[Any]) -> list[str]:
    """Runs of every combination of settings and losses."""
    names = []
    for n, values in enumerate(itertools.product(*axes.values())):
        config = dict(zip(axes, values, strict=True))
        loss, prompt = config.pop("loss", "pds"), config.pop("prompt", "a man")
        names.append(str(small_run(folder / str(n), loss, n, prompt, settings=config)))
    return names


def test_a_study_compares_by_what_differs(pds: Callable, tmp_path: Path) -> None:
    names = swept(tmp_path, guidance=[3, 7.5], out=["a", "b"][:1], prompt=["a man", "a robot"])
    made = pds("study", *names, f"out={tmp_path}/study")
    assert made.code == 0 and "differ in guidance\n" in made.out, made.err
    key = json.loads((tmp_path / "study" / "key.json").read_text())
    assert len(key["questions"]) == 2
    assert {o["method"] for o in key["options"].values()} == {"guidance 3", "guidance 7.5"}
    assert "7.5" not in re.sub(
        r"data:image/[^\"]+", "", (tmp_path / "study/study.html").read_text()
    )


def test_a_study_by_one_key_never_pools_the_others(pds: Callable, tmp_path: Path) -> None:
    names = swept(tmp_path, loss=["dds", "pds"], guidance=[3, 7.5], seed=[0, 1])
    folder = tmp_path / "study"
    both = pds("study", *names, f"out={tmp_path}/both")
    assert both.code == 0 and "differ in loss, guidance\n" in both.out, both.err
    made = pds("study", *names, "by=guidance", f"out={folder}")
    assert made.code == 0, made.err
    assert "questions differ in loss: answers are counted apart" in made.out
    key = json.loads((folder / "key.json").read_text())
    assert len(key["questions"]) == 4 and key["within"] == ["loss"]
    for question in key["questions"].values():
        shown = [key["options"][mark] for mark in question["options"]]
        assert sorted(option["method"] for option in shown) == ["guidance 3", "guidance 7.5"]
        losses = {json.loads(Path(o["run"], "summary.json").read_text())["loss"] for o in shown}
        assert losses == {question["within"]}
    sheet = answer(folder, "v1", "guidance 3")
    for question in json.loads(sheet.read_text())["answers"][:1]:
        assert question["chosen"] != "none"
    done = pds("study", f"collect=[{sheet}]", f"key={folder}/key.json", f"out={tmp_path}/answers")
    assert done.code == 0, done.err
    assert "With dds:" in done.out and "With pds:" in done.out
    found = results(tmp_path / "answers")
    assert {loss: row["guidance 3"]["shown"] for loss, row in found.items()} == {"dds": 2, "pds": 2}
    for wrong, right in (("prompt", "share scene, prompt and seed"), ("guidence", "guidance")):
        refused = pds("study", *names, f"by={wrong}", f"out={tmp_path}/wrong")
        assert refused.code == 2 and f"by={wrong}" in refused.err and right in refused.err


def test_a_guidance_of_each_loss_goes_along_in_a_study(pds: Callable, tmp_path: Path) -> None:
    names = [
        str(small_run(tmp_path / loss, loss, n, settings={"guidance": 3 + n, "out": loss}))
        for n, loss in enumerate(["dds", "pds"])
    ]
    made = pds("study", *names, "by=method", f"out={tmp_path}/study")
    assert made.code == 0 and "differ in loss, and with these in guidance" in made.out, made.err


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
