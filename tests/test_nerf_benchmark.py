"""`pds compare benchmark=nerf_toybox`, with tiny fields and a tiny backbone: plumbing only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import SMALL_FIGURINE
from PIL import Image

from pds_cli.benchmarks.nerf import NerfEditBenchmark, markdown
from pds_cli.errors import UserError
from pds_cli.toybox.probe import Probe, load_probe, save_probe

pytest.importorskip("pyvista", reason="PyVista renders the true edits")


@pytest.fixture
def bench(
    pds: Callable, tiny_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable:
    """Runs the benchmark with one edit and two methods, of two steps each, in `bench/`."""
    torch.manual_seed(0)
    save_probe(Probe(), tmp_path / "probe.safetensors")
    monkeypatch.setattr(
        "pds_cli.benchmarks.nerf.load_probe",
        lambda: load_probe(tmp_path / "probe.safetensors"),
    )
    words = [word for word in SMALL_FIGURINE if word != "scene=figurine"]
    words += ["representation.render_size=64", "steps=2", "refine=none", "turntable=0"]
    quoted = ", ".join(json.dumps(word) for word in [*words, f"backbone.model={tiny_backbone}"])
    return lambda *more: pds(
        "compare", "benchmark=nerf_toybox", "benchmark.edits=[add red ball]", "out=bench",
        "benchmark.cameras=2", "benchmark.size=64", "~benchmark.methods.sds",
        "~benchmark.methods.pds_refined", f"benchmark.overrides=['scene=figurine', {quoted}]",
        *more,
    )  # fmt: skip


def test_jobs_run_once_and_their_edits_are_scored(bench: Callable, warm_jobs: None) -> None:
    answer = bench()
    assert answer.code == 0, answer.err
    found = json.loads(Path("bench/results.json").read_text())
    assert found["rows"].keys() == {"dds", "pds", "sources", "true edits"}
    for name in ("dds", "pds"):
        (row,) = found["rows"][name]
        assert 0 <= row["success"] <= 1 and 0 <= row["kept"] <= 1
        assert row["lpips_truth"] > 0 and row["seconds"] > 0 and row["memory_mb"] > 50
    assert found["rows"]["true edits"][0]["lpips_truth"] < 1e-4
    assert Path("bench/edits.png").is_file()
    assert "| pds |" in Path("bench/table.md").read_text()
    logs = [Path(f"bench/add_red_ball/{name}/metrics.jsonl") for name in ("dds", "pds")]
    before = [log.stat().st_mtime_ns for log in logs]
    assert bench().code == 0
    assert [log.stat().st_mtime_ns for log in logs] == before, "done jobs are taken over"
    assert json.loads(Path("bench/results.json").read_text()) == found


def test_several_seeds_give_intervals(bench: Callable, warm_jobs: None) -> None:
    answer = bench("benchmark.seeds=2", "benchmark.only=[pds]")
    assert answer.code == 0, answer.err
    found = json.loads(Path("bench/results.json").read_text())["rows"]
    assert [len(found[name]) for name in ("pds", "sources")] == [2, 1]
    assert found["pds"][0]["lpips_truth"] != found["pds"][1]["lpips_truth"]
    for name, seed in (("pds", 0), ("pds/seed_1", 1)):
        words = json.loads(Path(f"bench/add_red_ball/{name}/run.json").read_text())["words"]
        assert f"seed={seed}" in words
    row = next(
        line for line in Path("bench/table.md").read_text().splitlines() if line.startswith("| pds")
    )
    assert row.count("[") >= 5
    # Source, result and truth, each from eight sides.
    for name in ("sources", "pds", "true edits"):
        assert Image.open(f"bench/add_red_ball/{name}.png").size == (8 * 64, 64)


def test_a_failing_job_names_its_log(bench: Callable) -> None:
    answer = bench("benchmark.methods.dds=['loss=dds','lr=-1']")
    assert answer.code == 2
    assert "dds.log ends with" in answer.err and "lr" in answer.err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"edits": ["fly"]}, "no kind of edit 'fly'"),
        ({"edits": []}, "leave something to run"),
        ({"methods": {}}, "leave something to run"),
        ({"cameras": 1}, "cameras=1 must be at least 2"),
        ({"seeds": 0}, "seeds=0 must be at least 1"),
        ({"only": ["dds"]}, "no method 'dds'"),
    ],
)
def test_wrong_settings_are_said(wrong: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        NerfEditBenchmark(**{"methods": {"pds": []}, "edits": ["crown"], **wrong})


def test_the_table_has_a_row_a_method_and_leaves_gaps() -> None:
    full = {"success": 0.5, "kept": 1.0, "lpips_truth": 0.25, "psnr_truth": 20.0}
    rows = {"pds": [{**full, "seconds": 200.0}, {**full, "seconds": 100.0}], "sources": [full] * 2}
    table = markdown(rows, ["crown", "add tree"])
    assert "| pds | 0.500 | 1.000 | 0.250 | 20.000 | – | – | – | 150 | – |" in table
    assert "| add tree | 0.50 / 0.250 | 0.50 / 0.250 |" in table
