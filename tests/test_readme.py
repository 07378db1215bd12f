"""What the README says exists and runs."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from region_task import make_region_task
from tiny_task import make_tiny_task

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, f"{page.name} links to {target}"
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name} links to {target}"


def test_every_command_is_in_the_table_and_no_other() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = set(re.findall(r"^(nndet_\w+) =", config["options.entry_points"]["console_scripts"], re.M))
    table = README.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(nndet_\w+)", table, re.M)) == scripts


def modules_of(page: Path) -> dict[str, str]:
    """Name -> code of the files that a page shows: its Python blocks that begin with ``# name.py``."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.M | re.S)
    dedented = [re.sub(f"^{indent}", "", code, flags=re.M) for indent, code in blocks]
    return {name[1]: code for code in dedented if (name := re.match(r"# (\w+)\.py\n", code))}


PLUGINS = [page for page in PAGES if re.search("@register_(trainer|planner)", "".join(modules_of(page).values()))]
SMALL = [f"planner_cfg.{word}" for word in ("patch_size=[16,16,16]", "base_features=4", "pyramid_channels=8")]
SHORT = [f"trainer_cfg.{word}" for word in ("epochs=1", "steps_per_epoch=3", "swa_epochs=0", "batch_size=2")]


def test_the_readme_or_another_page_shows_plugins() -> None:
    assert PLUGINS


@pytest.mark.parametrize("page", PLUGINS, ids=lambda page: page.name)
def test_the_plugins_of_a_page_prepare_train_and_predict(page: Path, tmp_path: Path) -> None:
    modules = modules_of(page)
    code = "\n".join(modules.values())
    trainers, planners = (re.findall(rf"@register_{kind}\nclass (\w+)", code) for kind in ("trainer", "planner"))
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    imports = f"additional_imports=[{','.join(modules)}]"
    regions = 'target = "regions"' in code
    make_task = make_region_task if regions else make_tiny_task
    task = make_task(tmp_path / "data", n_train=5, n_test=1).name
    planner = planners[0] if planners else "Anatomy" if regions else "D3CMB"
    module = trainers[0] if trainers else "RetinaUNetV001"
    shown = re.findall(r"# -o (model_cfg\.\S+)", code)  # the settings that comments beside the code promise
    prep = [task, "-np", "0", "-o", imports, f"planner={planner}", *SMALL]
    train = [task, "-o", imports, f"module={module}", f"plan={planner}_3d", "train=demo", *SHORT, *shown]
    (tmp_path / "run.py").write_text(
        "from cmb_plugin.commands import predict, prep, train\n"
        f"print(prep.main({prep!r}), train.main({train!r}), predict.main([{task!r}, '-npp', '0']))\n"
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
    assert result.stdout.splitlines()[-1] == "0 0 0", result.stdout + result.stderr
    fold = tmp_path / "models" / task / f"{module}_{planner}_3d" / "fold0"
    assert list((fold / "test_predictions").glob("sub-51*"))
    settings = (fold / "settings.yaml").read_text(encoding="utf-8")
    for word in shown:
        key, _, value = word.partition("=")
        assert f"{key.partition('.')[2]}: {value}" in settings
