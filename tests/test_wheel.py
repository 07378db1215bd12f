"""A wheel holds the package and its data and nothing else, and runs where the source tree is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_task import make_tiny_task

ROOT = Path(__file__).parents[1]
SOURCES = ("cmb_plugin", "planners", "trainers", "tasks")
WEIGHTS = "cmb_plugin/models/weights/pretrained.cmb"
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What the command printed; fails with its error output when it does not end with 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources, so that no build folder is left in the tree, and none is taken from it."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        shutil.copytree(ROOT / name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source" / name)
    # What a release brings; in a checkout it may not have been trained yet.
    (folder / "source" / WEIGHTS).parent.mkdir(parents=True, exist_ok=True)
    (folder / "source" / WEIGHTS).touch()
    pip = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*pip, "--wheel-dir", folder, folder / "source", cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_every_module_and_all_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    held = {name for name in names if ".dist-info/" not in name}
    expected = set()
    for source in SOURCES:
        package = Path("cmb_plugin") if source == "cmb_plugin" else Path("cmb_plugin") / source
        for path in (ROOT / source).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add((package / path.relative_to(ROOT / source)).as_posix())
    assert held == expected | {WEIGHTS}
    assert any(name.endswith(".nii.gz") for name in held)  # the atlas
    assert any(name.endswith("/LICENSE") for name in names)


def interpreters() -> list[object]:
    """The running Python, and every other one on the path."""
    others = [shutil.which(name) for name in PYTHONS if name != f"python3.{sys.version_info.minor}"]
    found = [pytest.param(Path(sys.executable), id=f"python3.{sys.version_info.minor}")]
    return found + [pytest.param(Path(path), id=Path(path).name) for path in others if path]


@pytest.mark.parametrize("python", interpreters())
def test_an_installed_wheel_prepares_a_task_far_from_the_source_tree(python: Path, wheel: Path, tmp_path: Path) -> None:
    needs = "import torch, lightning, SimpleITK, nnunetv2"
    if subprocess.run([python, "-c", needs], cwd=tmp_path, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{python} lacks one of torch, lightning, SimpleITK and nnunetv2")
    # Beside the dependencies of ``python``, and before them: an editable install there must not answer.
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-qq", "--no-deps", "--no-index", "--target", site, wheel, cwd=tmp_path)
    make_tiny_task(tmp_path / "data", n_train=3, n_test=1)

    def command(name: str, *words: str) -> str:
        return run(
            *(python, site / "bin" / name, *words),
            cwd=tmp_path,
            PYTHONPATH=str(site),
            det_data=str(tmp_path / "data"),
            det_models=str(tmp_path / "models"),
            OMP_NUM_THREADS="1",
        )

    where = "import cmb_plugin.planners, cmb_plugin; print(cmb_plugin.__file__, cmb_plugin.planners.__file__)"
    for file in run(python, "-c", where, cwd=tmp_path, PYTHONPATH=str(site)).split():
        assert Path(file).is_relative_to(site)
    assert "phantom" in command("nndet_example", "--help")
    assert "cmb_plugin" in command("nndet_env")
    command("nndet_prep", "900", "-np", "0", "-o", "planner_cfg.patch_size=[16,16,16]")
    assert (tmp_path / "data" / "Task900_Tiny" / "preprocessed" / "D3CMB_3d" / "plan.json").is_file()
