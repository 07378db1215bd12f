"""Task folders made of the scans of another, without copying them."""

from __future__ import annotations

import os
import shutil

from cmb_plugin.dataset import Case
from cmb_plugin.paths import TaskFolder

EXTRAS = ("mimics", "lesions", "regions", "brain")


def link_case(case: Case, target: TaskFolder, split: str, labels: bool = True) -> None:
    """Puts the files of a case into another Task folder, its mask and classes with ``labels`` only."""
    files = [(path, target.images(split)) for path in case.images]
    if labels:
        files += [(path, target.labels(split)) for path in (case.label, case.classes_file) if path is not None]
    files += [(path, target.extra(kind, split)) for kind in EXTRAS if (path := case.extra(kind)) is not None]
    for path, folder in files:
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / path.name
        if link.exists():
            continue
        try:
            os.link(path.resolve(), link)
        except OSError:  # another file system
            shutil.copy2(path, link)
