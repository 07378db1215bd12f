"""Every command explains itself."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def console_scripts() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options.entry_points"]["console_scripts"].strip().splitlines()
    return [line.partition("=")[0].strip() for line in lines]


@pytest.mark.parametrize("script", console_scripts())
def test_help_shows_examples(script: str) -> None:
    command = [Path(sys.executable).parent / script, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert f"usage: {script}" in result.stdout
    examples = result.stdout.partition("Examples:")[2].strip().splitlines()
    assert examples, "the docstring of main() has no Examples"
    assert script in examples[0]
    assert result.stderr == ""


@pytest.mark.parametrize("script", console_scripts())
def test_an_unknown_flag_is_the_users_error(script: str) -> None:
    command = [Path(sys.executable).parent / script, "--no-such-flag"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_env_names_versions_devices_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    monkeypatch.setenv("det_models", str(tmp_path / "absent"))
    command = [Path(sys.executable).parent / "nndet_env"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    rows = dict(line.split("  ", 1) for line in result.stdout.splitlines() if "  " in line)
    rows = {name: value.strip() for name, value in rows.items()}
    import torch

    assert rows["torch"] == torch.__version__
    assert "trains at" in rows["cpu"]
    assert rows["det_data"] == str(tmp_path)
    assert rows["det_models"] == f"{tmp_path / 'absent'} (does not exist)"
