"""nnDetection's rules for a Task folder, asserted one by one with nothing of ours but paths."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk


def assert_task_folder(root: Path) -> None:
    """Names, JSON, whole instances in sequence, a class for each, one geometry per case."""
    assert re.fullmatch(r"Task\d+(FG)?_[A-Za-z0-9_.-]+", root.name)
    data = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    assert data["task"] == root.name
    assert data["dim"] == 3
    assert isinstance(data["test_labels"], bool)
    assert data["target_class"] is None or isinstance(data["target_class"], int)
    modalities, classes = data["modalities"], data["labels"]
    assert list(modalities) == [str(i) for i in range(len(modalities))]
    assert list(classes) == [str(i) for i in range(len(classes))]
    names: dict[str, set[str]] = {}
    for split in ("Tr", "Ts"):
        images, labels = (root / "raw_splitted" / f"{kind}{split}" for kind in ("images", "labels"))
        files = sorted(p.name for p in images.glob("*")) if images.is_dir() else []
        names[split] = {re.fullmatch(r"(.+)_\d{4}\.nii\.gz", name)[1] for name in files}
        assert files == sorted(f"{n}_{m:04d}.nii.gz" for n in names[split] for m in range(len(modalities)))
        if split == "Ts" and not data["test_labels"]:
            continue
        found = sorted(p.name for p in labels.glob("*")) if labels.is_dir() else []
        assert found == sorted(f"{n}{ending}" for n in names[split] for ending in (".json", ".nii.gz"))
        for name in names[split]:
            _assert_case(images, labels, name, len(modalities), len(classes))
    assert names["Tr"]
    assert not names["Tr"] & names["Ts"]
    patients = data.get("session_id", {})
    assert not {patients.get(n, n) for n in names["Tr"]} & {patients.get(n, n) for n in names["Ts"]}


def _assert_case(images: Path, labels: Path, name: str, n_modalities: int, n_classes: int) -> None:
    mask = sitk.ReadImage(str(labels / f"{name}.nii.gz"))
    array = sitk.GetArrayFromImage(mask)
    assert np.issubdtype(array.dtype, np.integer)
    instances = np.unique(array)[1:].tolist()
    assert instances == list(range(1, len(instances) + 1))
    content = json.loads((labels / f"{name}.json").read_text(encoding="utf-8"))
    assert sorted(content["instances"], key=int) == [str(i) for i in instances]
    assert all(isinstance(c, int) and 0 <= c < n_classes for c in content["instances"].values())
    for modality in range(n_modalities):
        image = sitk.ReadImage(str(images / f"{name}_{modality:04d}.nii.gz"))
        assert image.GetSize() == mask.GetSize()
        np.testing.assert_allclose(image.GetSpacing(), mask.GetSpacing(), rtol=1e-6)
        np.testing.assert_allclose(image.GetOrigin(), mask.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), mask.GetDirection(), atol=1e-6)
        assert np.isfinite(sitk.GetArrayFromImage(image)).all()
