"""Names of a run folder's files stand once; test modules know nothing of each other."""

from __future__ import annotations

import ast
from pathlib import Path

from conftest import ROOT

from pds_cli.runs import layout

NAMES = {str(value) for name, value in vars(layout).items() if name.isupper()} - {"fit"}
NAMES = {name for name in NAMES if "." in name and "re.compile" not in name}
OTHERS = {
    # A file of the same name in another place.
    "scenes": {"cameras.json"},
    "views": {"cameras.json"},
    "results/exporting.py": {"cameras.json"},
}


def literals(path: Path) -> set[str]:
    """The texts in a module's code, without docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return {value for value in found if isinstance(value, str)}


def test_no_module_spells_the_name_of_a_runs_file() -> None:
    names = NAMES | {Path(name).name for name in NAMES}
    for path in sorted((ROOT / "pds_cli").rglob("*.py")):
        place = path.relative_to(ROOT / "pds_cli").as_posix()
        fine = set().union(*(OTHERS[part] for part in OTHERS if place.startswith(part)))
        if place != "runs/layout.py":
            assert not (literals(path) & names) - fine, place


def test_test_modules_do_not_import_each_other() -> None:
    for path in sorted((ROOT / "tests").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert not [name for name in found if str(name).startswith("test_")], path.name
