"""Every script of benchmarks/ loads, says how it is run and answers ``--help``."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from benchmarks.accuracy import brain_crop
from benchmarks.tools import code_numbers

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "benchmarks").rglob("*.py"))
    if path.name != "__init__.py"
}
SCRIPTS = [name for name, text in MODULES.items() if "__main__" in text]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_how_it_is_run_and_answers_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = importlib.import_module(name)
    assert f"    python -m {name}" in script.__doc__
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    assert script.__doc__.partition("\n")[0] in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", [name for name in MODULES if name not in SCRIPTS])
def test_what_is_no_script_loads_and_is_described(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_scripts_lie_in_folders_by_purpose() -> None:
    assert {name.split(".")[1] for name in MODULES} == {"accuracy", "speed", "studies", "tools"}
    assert not [name for name in MODULES if name.count(".") != 2]


def test_scripts_import_in_no_circle() -> None:
    known = code_numbers.modules(ROOT)
    graph = {name: code_numbers.imports(known[name], known) & MODULES.keys() for name in MODULES}
    assert graph["benchmarks.studies.ablation"], "no import was seen"
    assert code_numbers.circles(graph) == []


def test_no_phantoms_are_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert brain_crop.main(["--cases", "0"]) == 2
    assert "give 1 or more" in " ".join(capsys.readouterr().err.split())
