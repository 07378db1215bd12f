"""What the README says exists and runs."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_plugins_of_the_readme_register_and_take_their_settings(tmp_path: Path) -> None:
    names = []
    for block in re.findall(r"^( *)```python\n(.*?)^ *```", README, re.M | re.S):
        indent, code = block
        code = re.sub(f"^{indent}", "", code, flags=re.M)
        name = re.match(r"# (\w+)\.py\n", code)
        assert name, "a Python example begins with the name of its file"
        (tmp_path / f"{name[1]}.py").write_text(code, encoding="utf-8")
        names.append(name[1])
    assert names == ["my_trainers", "my_planners"]
    check = (
        "from cmb_plugin.plugins import import_additional, planners, trainers\n"
        f"import_additional({names!r})\n"
        "from cmb_plugin.settings import Overrides\n"
        "group = trainers.get('MyTrainer').model_config()\n"
        "print(Overrides.parse(['model_cfg.segmentation_weight=0.3']).apply(model_cfg=group)['model_cfg'].segmentation_weight)\n"
        "print(planners.get('Isotropic').plan_name())\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", check],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["0.3", "Isotropic_3d"]
