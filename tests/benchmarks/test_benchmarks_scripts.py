"""Every script of benchmarks/ loads, says how it is run and answers ``--help``."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accuracy import brain_crop, phantom_density
from cmb_plugin.phantom import PhantomConfig, make_case

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
    assert {name.split(".")[1] for name in MODULES} == {"accuracy", "pretraining", "speed", "studies", "tools"}
    assert not [name for name in MODULES if name.count(".") != 2]


def test_no_phantoms_are_nothing_to_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert brain_crop.main(["--cases", "0"]) == 2
    assert "give 1 or more" in " ".join(capsys.readouterr().err.split())


def test_density_counts_small_dark_things_deep_in_the_head_alone(tmp_path: Path) -> None:
    spacing = (1.5, 1.2, 1.2)
    z, y, x = np.meshgrid(
        *((np.arange(n) - n / 2) * s for n, s in zip((90, 120, 120), spacing, strict=True)), indexing="ij"
    )
    radius = np.sqrt(z**2 + y**2 + x**2)
    scan = np.where(radius < 60, 100.0, 0.0)
    for spot in ((45, 60, 60), (45, 40, 60), (30, 60, 70)):
        scan[spot[0] : spot[0] + 2, spot[1] : spot[1] + 2, spot[2]] = 30
    scan[45, 60, 15:17] = 30  # within 20 mm of the surface
    scan[50, 50, 50] = 30  # one voxel is smaller than a microbleed
    scan[20:70, 74:77, 60:62] = 30  # and this is larger
    density = phantom_density.dark_density(scan, spacing)
    assert density.litres == pytest.approx(4 / 3 * np.pi * 40**3 / 1e6, rel=0.08)
    assert density.per_litre * density.litres == pytest.approx(3)


def test_a_healthy_phantom_has_as_many_small_dark_things_as_a_real_brain() -> None:
    case = make_case(900, 0, PhantomConfig(("demo",), ("swi",)), healthy=True)
    density = phantom_density.dark_density(case.images["swi"], case.grid.spacing)
    assert 200 < density.per_litre < 400
    assert 1.0 < density.percent < 2.4
