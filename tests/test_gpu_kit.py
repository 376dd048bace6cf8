"""What runs on a GPU machine, as far as it can be tried without one: words, limits, tables."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from pds_cli.errors import UserError
from pds_cli.pictures.captioned import load_captioned_images
from pds_cli.pictures.files import write_image
from pds_cli.pretraining.album import pack as album_of
from pds_cli.pretraining.album import unpack

sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_check
import gpu_edit_step
import gpu_hash_grid
import gpu_toybox
import gpu_wheels


@pytest.mark.parametrize(
    ("script", "word", "said"),
    [
        (gpu_check, "size=huge", "size=huge is not known; choose one of sd, tiny"),
        (gpu_check, "device=tpu", "device=tpu is not known"),
        (gpu_check, "seconds=0", "seconds=0 must be a whole number of at least 1"),
        (gpu_check, "wheels=nowhere", "nowhere holds no wheels: run make gpu-wheels"),
        (gpu_edit_step, "repeats=many", "repeats=many must be a whole number"),
        (gpu_edit_step, "sizes=sd", "'sizes=sd' is not understood: give key=value"),
        (gpu_edit_step, "only=sd3", "only=sd3 is not known"),
        (gpu_hash_grid, "points=-1", "points=-1 must be a whole number of at least 1"),
        (gpu_toybox, "size=huge", "size=huge is not known; choose one of sd, tiny"),
        (gpu_toybox, "steps=0", "steps=0 must be a whole number of at least 1"),
        (gpu_toybox, "data=nowhere.zip", "nowhere.zip is not there: make toybox-pictures"),
        (gpu_wheels, "here", "'here' is not understood"),
    ],
)
def test_wrong_words_get_a_sentence(
    script: Any, word: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        script.main([word])
    assert error.value.code == 2
    assert said in capsys.readouterr().err


def test_wheels_are_pinned_and_never_take_the_place_of_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = gpu_wheels.pinned(gpu_wheels.LACKING)
    assert len(pins) == len(gpu_wheels.LACKING) and all("==" in pin for pin in pins)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit):
        gpu_wheels.main([f"into={tmp_path}"])
    assert (tmp_path / "thesis.txt").is_file()
    assert "holds other files than wheels" in capsys.readouterr().err


def part(name: str, code: str, seconds: float = 30, **options: Any) -> gpu_check.Part:
    return gpu_check.Part(name, seconds, [sys.executable, "-c", code], **options)


def test_a_part_that_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(mark)!r}).touch()"
    code = "import subprocess, sys, time\n"
    code += f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    found = gpu_check.run(part("slow", code, seconds=1), tmp_path / "log", 99)
    assert found["timed_out"] and found["rc"] is None and found["seconds"] < 20
    assert gpu_check.verdict(found) == "stopped after 1 s"
    time.sleep(3)
    assert not mark.exists()


def test_a_part_that_fails_leaves_its_last_lines_and_its_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows.json"
    code = f'import pathlib; pathlib.Path({str(rows)!r}).write_text(\'{{"rows": [{{"a": 1}}]}}\')\n'
    code += "print('| a |'); raise ValueError('no such kernel')"
    found = gpu_check.run(part("steps", code, rows=rows), tmp_path / "log", 99)
    assert found["rc"] == 1 and found["rows"] == [{"a": 1}] and found["markdown"] == "| a |"
    assert found["last_lines"][-1] == "ValueError: no such kernel"
    content = {"machine": {"python": "3", "cores": 1}, "parts": [found]}
    assert "ValueError: no such kernel" in gpu_check.markdown(content)


def test_outcomes_of_tests_are_counted() -> None:
    lines = [
        "tests/test_devices.py::test_a[cuda-x y] PASSED      [ 10%]",
        "tests/test_devices.py::test_b[cuda] FAILED [ 20%]",
        "tests/test_devices.py::test_c[cuda] SKIPPED (no GPU) [ 30%]",
        "FAILED tests/test_devices.py::test_b[cuda] - RuntimeError: CUDA error",
    ]
    found = gpu_check.test_results(lines)
    assert found["counts"] == {"PASSED": 1, "FAILED": 1, "SKIPPED": 1}
    assert found["failed"] == ["tests/test_devices.py::test_b[cuda]"]
    assert found["reasons"] == lines[3:]


def test_rows_that_fail_say_so_and_the_rest_go_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(bench: Any, setting: gpu_edit_step.Setting) -> dict[str, Any]:
        if setting.dtype == "float16":
            raise RuntimeError("CUDA out of memory | try less")
        numbers = {"ms": 1.5, "gb": None, "first_s": 2.0, "finite": setting.bank}
        return {f"{name}_{k}": v for name in ("latent", "nerf") for k, v in numbers.items()}

    monkeypatch.setattr(gpu_edit_step, "write_pipeline", lambda *args: None)
    monkeypatch.setattr(gpu_edit_step.Bench, "measure", measure)
    file = tmp_path / "rows.json"
    gpu_edit_step.main(["size=tiny", "device=cpu", f"json={file}"])
    out, rows = capsys.readouterr().out, json.loads(file.read_text())["rows"]
    assert len(rows) == len(gpu_edit_step.SIZES["tiny"]) > 8
    assert "| tiny | float16 | no | no | RuntimeError: CUDA out of memory / try less | | | |" in out
    assert "| tiny | bfloat16 | no | yes | 2 | – | 2 | – |" in out
    assert "| tiny | bfloat16 | no | no | 2 (not finite) | – | 2 (not finite) | – |" in out


def test_a_backbone_is_trained_from_packed_pictures(tmp_path: Path) -> None:
    """Everything that `make toybox-gpu` does, on a model of a few thousand numbers."""
    lines = []
    for i in range(12):
        image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(i))
        write_image(tmp_path / f"{i}.png", image)
        lines.append(json.dumps({"file": f"{i}.png", "caption": f"a photo of {i}", "n": i}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    album = album_of(tmp_path, tmp_path / "album.zip", 32)
    back = load_captioned_images(unpack(album, tmp_path / "back"), 32)
    assert back.captions[3] == ["a photo of 3"] and back.records[3]["n"] == 3
    words = [f"data={album}", f"out={tmp_path / 'out'}", "wheels=", "device=cpu", "seconds=300",
             "steps=1", "decode=1", "batch=2", "size=tiny"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        gpu_toybox.main(words)
    told = json.loads((tmp_path / "out/toybox.json").read_text())
    assert ended.value.code == 0, told["parts"]
    assert [part["part"] for part in told["parts"]] == ["pictures", "denoise", "decode", "packing"]
    assert (tmp_path / "out/toybox/unet/weights.safetensors").is_file()
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="no packed folder"):
        unpack(tmp_path / "broken.zip", tmp_path / "none")
