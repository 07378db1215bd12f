"""``Cuhk``: SWI-CMB of the Chinese University of Hong Kong (Dou et al. 2016, doi:10.1109/TMI.2016.2528129)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.conversion import ConvertConfig, Converter, Healthy, PointLabel, Problem, SourceCase
from cmb_plugin.errors import UserError
from cmb_plugin.images import image_stem
from cmb_plugin.plugins import register_task


@dataclass
class CuhkConfig(ConvertConfig):
    """Settings of ``cuhk``.

    Attributes:
        space: how ``cen`` counts: ``voxel1`` (from 1, as MATLAB does and the set has it) or ``voxel0``.
    """

    space: str = "voxel1"


@register_task
class Cuhk(Converter):
    """CUHK SWI-CMB: SWI of 20 subjects, points in MATLAB files"""

    needs = "a folder with nii/{id}.nii and ground_truth/{id}.mat, whose variable cen holds voxel centres, from 1"
    example = "cuhk --source cmb-3dcnn-data --task Task103_CUHK"
    config_class = CuhkConfig
    config: CuhkConfig

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """The scans of ``nii``, each with the points of its ground truth."""
        scans = sorted(p for p in source.glob("nii/*") if image_stem(p) is not None and not p.name.startswith("."))
        if not scans:
            raise UserError(f"{source / 'nii'}: holds no scan", remedy=f"it needs: {self.needs}")
        for scan in scans:
            stem = str(image_stem(scan))
            name = f"cuhk-{stem.zfill(2)}"
            file = source / "ground_truth" / f"{stem}.mat"
            try:
                points = read_centres(file)
            except UserError as error:
                yield Problem(name, file, error.message.removeprefix(f"{file}: "), error.remedy)
                continue
            label = PointLabel(file, tuple(map(tuple, points.tolist())), self.config.space)
            yield SourceCase(name, (scan,), label if len(points) else Healthy(), patient=name, domain="cuhk")


def read_centres(file: Path) -> np.ndarray:
    """``cen`` of a MATLAB file: float [N, 3] x, y, z.

    Raises:
        UserError: the file is missing or unreadable, or holds no such variable.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file", remedy="add the ground truth, or take its scan out of nii/")
    from scipy.io import loadmat

    try:
        content = loadmat(str(file))
    except Exception as error:  # SciPy passes on errors of several classes
        remedy = "copy it again; a file of MATLAB 7.3 must be saved with -v7"
        raise UserError(f"{file}: cannot be read as a MATLAB file ({type(error).__name__})", remedy=remedy) from None
    if "cen" not in content:
        found = ", ".join(key for key in content if not key.startswith("__")) or "nothing"
        raise UserError(f"{file}: holds no variable cen but {found}", remedy="give the ground truth of the data set")
    points = np.asarray(content["cen"], dtype=float)
    if points.size == 0:
        return np.zeros((0, 3))
    if points.ndim != 2 or points.shape[1] != 3:
        raise UserError(f"{file}: cen is {points.shape}, not N x 3", remedy="give one row x, y, z per lesion")
    return points
