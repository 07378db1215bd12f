"""``Valdo``: the microbleeds of the VALDO challenge (2021, task 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmb_plugin.conversion import ConvertConfig, Converter, Healthy, MaskLabel, Problem, SourceCase
from cmb_plugin.errors import UserError
from cmb_plugin.plugins import register_task


@dataclass
class ValdoConfig(ConvertConfig):
    """Settings of ``valdo``.

    Attributes:
        header_tolerance: T1 and T2 of the set lie on the voxels of T2S but have slightly other headers.
    """

    header_tolerance: float = 2.0


@register_task
class Valdo(Converter):
    """VALDO 2021 task 2: T2*, T1 and T2 of three cohorts, masks of microbleeds"""

    needs = (
        "the folder Task2 with sub-101/sub-101_space-T2S_desc-masked_T2S.nii.gz, ..._T1.nii.gz, ..._T2.nii.gz and "
        "sub-101_space-T2S_CMB.nii.gz; a subject without the CMB file is healthy"
    )
    example = "valdo --source VALDO/Task2 --task Task101_VALDO"
    config_class = ValdoConfig
    modalities = ("T2S", "T1", "T2")

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """The scans of each subject of task 2 with its mask."""
        subjects = sorted(path for path in source.glob("sub-*") if path.is_dir())
        subjects = subjects or sorted(path for path in source.glob("Task2/sub-*") if path.is_dir())
        if not subjects:
            raise UserError(f"{source}: holds no folder sub-101, sub-102, ...", remedy=f"it needs: {self.needs}")
        for folder in subjects:
            name = folder.name
            images = [_one(folder, f"{name}_space-T2S_desc-masked_{modality}") for modality in self.modalities]
            missing = [m for m, image in zip(self.modalities, images, strict=True) if not image.is_file()]
            if missing:
                remedy = f"add it, or leave {missing[0]} out with -o convert_cfg.modalities=[...]"
                yield Problem(name, images[self.modalities.index(missing[0])], "no such file", remedy)
                continue
            mask = _one(folder, f"{name}_space-T2S_CMB")
            healthy = not mask.is_file()
            yield SourceCase(
                name,
                tuple(images),
                Healthy() if healthy else MaskLabel(mask, connectivity=self.config.connectivity),
                patient=name,
                domain=f"valdo{name.removeprefix('sub-')[:1]}",
                notes=(f"{mask.name} is missing: taken for healthy, as the data set means it",) if healthy else (),
            )


def _one(folder: Path, stem: str) -> Path:
    """The file of that name, compressed or not."""
    plain = folder / f"{stem}.nii"
    return plain if plain.is_file() else folder / f"{stem}.nii.gz"
