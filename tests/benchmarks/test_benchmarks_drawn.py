"""The drawn phantoms: every lesion has its mask, lies in the brain and is darker than what surrounds it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.accuracy import drawn_phantoms
from cmb_plugin.dataset import Dataset, check_dataset
from cmb_plugin.images import read_stored
from cmb_plugin.paths import TaskFolder


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("det_data", str(tmp_path))
    monkeypatch.setattr(drawn_phantoms, "FINE", 1.2)
    monkeypatch.setattr(drawn_phantoms, "SPACINGS", {"even": (1.5, 1.5, 1.5)})


def test_lesions_are_darker_than_what_surrounds_them_and_every_fourth_case_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn_phantoms.main(["Task800_Drawn", "--test", "4"]) == 0
    task = TaskFolder(tmp_path / "Task800_Drawn")
    dataset = Dataset.load(task)
    assert [f.message for f in check_dataset(dataset, workers=0).findings] == ["holds no training case"]
    darker = []
    for number in range(4):
        image, mask = (
            read_stored(path / f"case_{number:03d}{end}.nii.gz")[0]
            for path, end in ((task.images("Ts"), "_0000"), (task.labels("Ts"), ""))
        )
        instances = np.unique(mask)[1:]
        assert len(instances) == 0 if number == 3 else list(instances) == list(range(1, len(instances) + 1))
        for instance in instances:
            lesion = mask == instance
            around = ndimage.binary_dilation(lesion, iterations=3) & ~ndimage.binary_dilation(lesion)
            darker.append(image[lesion].min() < 0.85 * np.median(image[around]))
    assert len(darker) > 3
    assert np.mean(darker) > 0.8


def test_what_was_found_is_told_by_diameter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn_phantoms.main(["Task800_Drawn", "--test", "1"])
    task = TaskFolder(tmp_path / "Task800_Drawn")
    table = tmp_path / "evaluation" / "detections.tsv"
    table.parent.mkdir()
    table.write_text("case\tstatus\tlesion\ncase_000\tfound\t1\ncase_000\tfalse\t\n", encoding="utf-8")
    capsys.readouterr()
    drawn_phantoms.print_sizes(task, table.parent)
    rows = capsys.readouterr().out.splitlines()
    assert sum("| 1 | 1.00 |" in row for row in rows) == 1
