"""Everything that needs a GPU, in one script of under eight minutes for a bare machine.

    python3 benchmarks/gpu_check.py [size=sd] [device=cuda] [out=outputs/gpu]
                                    [wheels=outputs/wheels] [seconds=460]

The machine has Python with torch and the usual scientific packages, no network, and this
repository with the wheels of `make gpu-wheels`. They are unpacked into a folder of the moment that
goes before the machine's own packages (a virtual environment would not see those of a Python that
stands in one itself); `wheels=` with nothing behind it takes the packages as they are.

Parts run one after the other, each with its own time limit; one that fails or takes too long
never stops the rest. After each, `out` holds `gpu.json` (machine, versions, parts with exit code,
seconds and rows), `gpu.md` (tables to paste into docs/performance.md) and a log of each part.
Exit code 1 where a part did not end well. `size=tiny device=cpu` tries the script itself; on a slow
CPU it needs more than 460 `seconds`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _words import choice, number, options, refuse, write_json

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("torch", "triton", "numpy", "numba", "diffusers", "transformers", "tokenizers", "peft"),
    *("accelerate", "safetensors", "hydra-core", "omegaconf", "pytest", "tinycudann"),
)
SECONDS = 460  # of everything, where the parts' own limits are as they stand; else in proportion
_LAST = 8  # lines of a failure that are kept
_OUTCOME = re.compile(r"^(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


@dataclass
class Part:
    """A command with its time limit.

    rows: a file that the command writes its rows to; its output is Markdown then.
    told: the share of its time that it gets as `seconds=`, to begin nothing later; 0: none.
    """

    name: str
    seconds: float
    command: list[str]
    rows: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    told: float = 0.0


def run(part: Part, log: Path, left: float) -> dict[str, Any]:
    """Runs a part, and everything it started is ended with it; what came of it."""
    limit = max(1.0, min(part.seconds, left))
    started, code = time.monotonic(), None
    told = [f"seconds={max(1, int(part.told * limit))}"] if part.told else []
    environment = {**os.environ, **part.environment, "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [*part.command, *told],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    found: dict[str, Any] = {"part": part.name, "rc": code, "seconds": time.monotonic() - started}
    found |= {"limit": limit, "timed_out": code is None}
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if code != 0:
        found["last_lines"] = [line[:300] for line in lines if line.strip()][-_LAST:]
    if part.name == "tests":
        found |= test_results(lines)
    if part.rows is not None and part.rows.is_file():
        found["rows"] = json.loads(part.rows.read_text(encoding="utf-8"))["rows"]
        found["markdown"] = "\n".join(line for line in lines if line.startswith("|"))
    return found


def test_results(lines: list[str]) -> dict[str, Any]:
    """Counts of outcomes, and what failed, from the lines of `pytest -v`."""
    rows = [(hit[1], hit[2]) for line in lines if (hit := _OUTCOME.match(line))]
    counts = {kind: sum(kind == outcome for _, outcome in rows) for _, kind in rows}
    reasons = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    failed = [name for name, outcome in rows if outcome in ("FAILED", "ERROR")]
    return {"counts": counts, "failed": failed, "reasons": [line[:300] for line in reasons]}


def machine(python: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The processor, the GPU, and the versions of packages, as the parts will see them."""
    script = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "import torch\n"
        "there = torch.cuda.is_available()\n"
        "gpu = torch.cuda.get_device_properties(0) if there else None\n"
        "print(json.dumps({'packages': found, 'cuda': torch.version.cuda,\n"
        "    'gpu': gpu and gpu.name, 'gpu_gb': gpu and gpu.total_memory / 1e9}))\n"
    )
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
    }
    try:
        done = subprocess.run(
            [*python, "-c", script, *PACKAGES],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
        return found | json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        told = str(getattr(error, "stderr", None) or error).strip()
        return found | {"error": told.splitlines()[-1] if told else type(error).__name__}


def parts(found: dict[str, str], scratch: Path, environment: dict[str, str]) -> list[Part]:
    """What is run: short and certain things first, and last what may use all the time left."""
    device, size, python = found["device"], found["size"], sys.executable
    tests = [python, "-m", "pytest", "-v", "-ra", "--tb=short", "--durations=10", "-p"]
    tests += ["no:cacheprovider", "tests/test_devices.py"]
    tests += ["-k", "cuda" if device == "cuda" else "not cuda"]
    grid, steps = scratch / "grid.json", scratch / "steps.json"
    bench = {"repeats": "3"} if size == "tiny" else {"repeats": "10"}
    each = [f"{key}={value}" for key, value in bench.items()]
    return [
        Part(
            "hash grid",
            60,
            [python, "benchmarks/gpu_hash_grid.py", f"device={device}", f"json={grid}", *each],
            grid,
            environment,
        ),
        Part("tests", 220, tests, None, environment),
        Part(
            "edit step",
            1e9,  # what is left of the whole
            [
                *(python, "benchmarks/gpu_edit_step.py", f"size={size}", f"device={device}"),
                *(f"json={steps}", *each),
            ],
            steps,
            environment,
            told=0.8,
        ),
    ]


def markdown(content: dict[str, Any]) -> str:
    """The tables of `gpu.md`."""
    where = content["machine"]
    names = ("torch", "diffusers", "transformers", "numba")
    versions = where.get("packages", {})
    told = [f"{n} {versions[n]}" for n in names if n in versions]
    title = where.get("gpu") or f"no GPU, {where['cores']} cores"
    lines = [f"{title}, CUDA {where.get('cuda')}, Python {where['python']}, {', '.join(told)}.", ""]
    lines += ["| part | result | seconds |", "|---|---|---|"]
    for part in content["parts"]:
        lines.append(f"| {part['part']} | {verdict(part)} | {part['seconds']:.0f} |")
    for part in content["parts"]:
        if part.get("markdown"):
            lines += ["", f"### {part['part'].capitalize()}", "", part["markdown"]]
        if part.get("last_lines"):
            lines += ["", f"### The end of {part['part']}", "", "```text"]
            lines += [*part.get("reasons", []), *part["last_lines"], "```"]
    return "\n".join(lines) + "\n"


def verdict(part: dict[str, Any]) -> str:
    """A part's result in words."""
    if part["timed_out"]:
        result = f"stopped after {part['limit']:.0f} s"
    else:
        result = "well" if part["rc"] == 0 else f"exit code {part['rc']}"
    counts = [f"{count} {kind.lower()}" for kind, count in part.get("counts", {}).items()]
    wrong = sum("error" in row for row in part.get("rows", []))
    counts += [f"{wrong} of {len(part['rows'])} rows failed"] if wrong else []
    return ", ".join([result, *counts])


def check(found: dict[str, str], out: Path, scratch: Path, until: float) -> bool:
    """Runs everything; whether all of it ended well."""
    environment = {"NUMBA_CACHE_DIR": str(scratch / "numba"), "PYTHONPATH": str(ROOT)}
    environment |= {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"), "MPLBACKEND": "Agg"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(scratch / "hub")}
    chosen: list[Part] = []
    if found["wheels"]:
        site = scratch / "site"
        chosen.append(unpacking(Path(found["wheels"]).resolve(), site))
        environment["PYTHONPATH"] = f"{site}{os.pathsep}{ROOT}"
    chosen += parts(found, scratch, environment)
    done: list[dict[str, Any]] = []
    content = {"size": found["size"], "device": found["device"], "parts": done}
    for part in chosen:
        part.seconds *= int(found["seconds"]) / SECONDS
        log = out / f"{part.name.replace(' ', '_')}.log"
        done.append(run(part, log, until - time.monotonic()))
        print(f"{part.name}: {verdict(done[-1])} in {done[-1]['seconds']:.0f} s", flush=True)
        if "machine" not in content:
            content["machine"] = machine([sys.executable], environment)
        write_json(out / "gpu.json", content)
        (out / "gpu.md").write_text(markdown(content), encoding="utf-8")
    rows = [row for part in done for row in part.get("rows", [])]
    return all(part["rc"] == 0 for part in done) and not any("error" in row for row in rows)


def check_wheels(folder: str) -> None:
    """Refuses a folder without wheels; with no name, the machine's packages are taken."""
    if folder and not list(Path(folder).glob("*.whl")):
        refuse(
            f"{folder} holds no wheels: run make gpu-wheels where there is network, or give "
            "wheels= to use the packages that are there"
        )


def unpacking(wheels: Path, site: Path) -> Part:
    """The part that puts the wheels' packages into a folder."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", f"--target={site}"]
    return Part("install", 60, command + [str(file) for file in sorted(wheels.glob("*.whl"))])


def main(argv: list[str]) -> None:
    """Checks the words, runs the parts, and prints the tables."""
    defaults = {"size": "sd", "device": "cuda", "out": "outputs/gpu", "wheels": "outputs/wheels"}
    found = options(argv, {**defaults, "seconds": str(SECONDS)})
    choice(found, "size", ("sd", "tiny"))
    choice(found, "device", ("cuda", "cpu"))
    until = time.monotonic() + number(found, "seconds")
    check_wheels(found["wheels"])
    out = Path(found["out"]).resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pds-gpu-") as scratch:
        well = check(found, out, Path(scratch), until)
    print((out / "gpu.md").read_text(encoding="utf-8"))
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
