"""What the README says exists and runs."""

from __future__ import annotations

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from region_task import make_region_task
from tiny_task import make_tiny_task

from cmb_plugin import __version__
from cmb_plugin.images import Grid, write_image

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
README = PAGES[0].read_text(encoding="utf-8")


def headings(page: Path) -> set[str]:
    """The names by which links lead to the headings of a page."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^a-z0-9_ -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        other = page.parent / file if file else page
        assert other.exists(), f"{page.name} links to {target}"
        assert not heading or heading in headings(other), f"{page.name} links to {target}"


LASTING = [page for page in PAGES if page.parent.name != "studies" and page.name != "CHANGELOG.md"]  # not dated


@pytest.mark.parametrize("page", LASTING, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    folders = "cmb_plugin|planners|trainers|tasks|tests|benchmarks|docs"
    named = re.findall(rf"`((?:{folders})/[\w./]+)`", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


def test_the_script_of_the_page_on_exchange_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "exchange.md").read_text(encoding="utf-8")
    (tmp_path / "script.py").write_text(page.partition("```python\n")[2].partition("```")[0], encoding="utf-8")
    (tmp_path / "scans").mkdir()
    noise = np.random.default_rng(0).normal(100, 9, (16, 24, 24)).astype(np.float32)
    write_image(tmp_path / "scans" / "a.nii.gz", noise, Grid(noise.shape, (2.0, 1.0, 1.0)))
    (tmp_path / "scans" / "empty.nii.gz").write_bytes(b"")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "empty.nii.gz: cannot be read as an image" in done.stdout
    assert (tmp_path / "derivatives" / "group_microbleeds.tsv").is_file()


def test_every_command_is_in_the_table_and_no_other() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = set(re.findall(r"^(nndet_\w+) =", config["options.entry_points"]["console_scripts"], re.M))
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(nndet_\w+)", table, re.M)) == scripts


def test_the_readme_is_a_first_page() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readme_gives_the_evidence_as_the_study_has_it() -> None:
    """The default against the plain detector: what is said on the first page is what was measured."""
    study = (ROOT / "docs" / "studies" / "ablation.md").read_text(encoding="utf-8")
    table = study.partition("| definite lesions, 3 seeds |")[2].partition("\n\n")[0]
    scores = dict(re.findall(r"^\| ([\w +]+) \| (0\.\d+) \(", table, re.M))
    assert f"{scores['dense + HSPL + hard negatives']} against {scores['RetinaUNetV001']}" in " ".join(README.split())


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what CFF 1.2.0 requires
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == __version__
    kinds = {"family-names", "given-names"}, {"name"}
    works = [citation, *citation["references"]]
    assert all(set(author) in kinds for work in works for author in work["authors"])
    assert all({"type", "title", "authors"} <= set(work) for work in citation["references"])


def python_blocks(page: Path) -> list[str]:
    """The Python code of a page, block by block."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S)
    return [re.sub(f"^{indent}", "", code, flags=re.M) for indent, code in blocks]


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_what_the_code_of_a_page_imports_is_there(page: Path) -> None:
    for code in python_blocks(page):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("cmb_plugin"):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], node.module


def modules_of(page: Path) -> dict[str, str]:
    """Name -> code of the files that a page shows: its Python blocks that begin with ``# name.py``."""
    return {name[1]: code for code in python_blocks(page) if (name := re.match(r"# (\w+)\.py\n", code))}


PLUGINS = [page for page in PAGES if re.search("@register_(trainer|planner)", "".join(modules_of(page).values()))]
SMALL = [f"planner_cfg.{word}" for word in ("patch_size=[16,16,16]", "base_features=4")]
SMALL_PYRAMID = "planner_cfg.pyramid_channels=8"
SHORT = [f"trainer_cfg.{word}" for word in ("epochs=1", "steps_per_epoch=3", "swa_epochs=0", "batch_size=2")]


def test_pages_show_plugins() -> None:
    assert {"write_a_trainer.md", "write_a_planner.md"} <= {page.name for page in PLUGINS}


@pytest.mark.parametrize("page", PLUGINS, ids=lambda page: page.name)
def test_the_plugins_of_a_page_go_through_the_commands(page: Path, tmp_path: Path) -> None:
    """The last trainer and the last planner that a page shows, which build on those before, are used."""
    modules = modules_of(page)
    code = "\n".join(modules.values())
    trainers, planners = (re.findall(rf"@register_{kind}\nclass (\w+)", code) for kind in ("trainer", "planner"))
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    imports = f"additional_imports=[{','.join(modules)}]"
    regions = 'target = "regions"' in code
    make_task = make_region_task if regions else make_tiny_task
    task = make_task(tmp_path / "data", n_train=5, n_test=1).name
    planner = planners[-1] if planners else "Anatomy" if regions else "D3CMB"
    module = trainers[-1] if trainers else "RetinaUNetV001"
    shown = re.findall(r"# -o (model_cfg\.\S+)", code)  # the settings that comments beside the code promise
    prep = [task, "-np", "0", "-o", imports, f"planner={planner}", *SMALL]
    prep += [] if regions else [SMALL_PYRAMID]
    train = [task, "-o", imports, f"module={module}", f"plan={planner}_3d", "train=demo", *SHORT, *shown]
    (tmp_path / "run.py").write_text(
        "from cmb_plugin.commands import eval, predict, prep, train\n"
        f"done = [prep.main({prep!r}), train.main({train!r}), predict.main([{task!r}, '-npp', '0'])]\n"
        f"print(*done, eval.main([{task!r}, '--test']))\n"
    )
    folders = {"det_data": str(tmp_path / "data"), "det_models": str(tmp_path / "models"), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, **folders},
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "0 0 0 0", result.stdout + result.stderr
    fold = tmp_path / "models" / task / f"{module}_{planner}_3d" / "fold0"
    assert list((fold / "test_predictions").glob("sub-51*"))
    assert (fold / "test_results" / "metrics.json").is_file()
    for own in re.findall(r'^    files = \("([\w.]+)",\)', code, re.M):  # what the trainer itself leaves behind
        assert (fold / own).is_file()
    for scheme in re.findall(r"@register_normalisation\nclass (\w+)", code):
        assert f'"scheme": "{scheme}"' in (fold / "plan.json").read_text(encoding="utf-8")
    settings = (fold / "settings.yaml").read_text(encoding="utf-8")
    for word in shown:
        key, _, value = word.partition("=")
        assert f"{key.partition('.')[2]}: {value}" in settings
