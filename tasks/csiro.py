"""``Csiro``: real and synthetic microbleeds on SWI of AIBL (Momeni et al. 2021, CSIRO data access portal)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmb_plugin.conversion import (
    ConvertConfig,
    Converter,
    Healthy,
    PointLabel,
    Problem,
    SourceCase,
    number,
    read_cells,
)
from cmb_plugin.errors import UserError
from cmb_plugin.images import image_stem
from cmb_plugin.plugins import register_task

# Folder -> table of its lesions and what they are; the table of the real ones holds for their synthetic copies too.
REAL = "rCMBInformationInfo.xlsx"
FOLDERS = {
    "rCMB_DefiniteSubject": ("", "real"),
    "NoCMBSubject": ("", "none"),
    "sCMB_DefiniteSubject": ("sCMBInformationInfo.xlsx", "real and synthetic"),
    "sCMB_NoCMBSubject": ("sCMBLocationInformationInfoNocmb.xlsx", "synthetic"),
}
Points = dict[str, list[tuple[float, ...]]]


@dataclass
class CsiroConfig(ConvertConfig):
    """Settings of ``csiro``.

    Attributes:
        space: how the tables count: ``voxel1`` (from 1, as the set has it) or ``voxel0``.
        synthetic: take the scans with synthetic lesions too.
    """

    space: str = "voxel1"
    synthetic: bool = True


@register_task
class Csiro(Converter):
    """CSIRO (AIBL, Momeni): SWI with real and with synthetic microbleeds, points in Excel tables"""

    needs = (
        "PublicDataShare_2020 with the folders rCMB_DefiniteSubject, NoCMBSubject, sCMB_DefiniteSubject, "
        "sCMB_NoCMBSubject (files such as 242_T1_MRI_SWI_BFC_50mm_HM.nii.gz, ..._rsCMB_V1.nii.gz, ..._sCMB_V1.nii.gz) "
        f"and the tables {REAL}, sCMBInformationInfo.xlsx, sCMBLocationInformationInfoNocmb.xlsx"
    )
    example = "csiro --source PublicDataShare_2020 --task Task104_CSIRO"
    config_class = CsiroConfig
    config: CsiroConfig

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """The scans of the folders ``FOLDERS``, each with the positions that the tables list of it."""
        root = source / "PublicDataShare_2020" if (source / "PublicDataShare_2020").is_dir() else source
        if not any((root / folder).is_dir() for folder in FOLDERS):
            raise UserError(f"{source}: holds none of {', '.join(FOLDERS)}", remedy=f"it needs: {self.needs}")
        real = read_positions(root / REAL) if (root / "rCMB_DefiniteSubject").is_dir() else {}
        for folder, (table, kind) in FOLDERS.items():
            scans = [p for p in sorted((root / folder).glob("*")) if image_stem(p) and not p.name.startswith(".")]
            if not scans or ("synthetic" in kind and not self.config.synthetic):
                continue
            synthetic = read_positions(root / table) if table else {}
            for scan in scans:
                yield self._case(scan, kind, root / (table or REAL), real, synthetic)

    def _case(self, scan: Path, kind: str, table: Path, real: Points, synthetic: Points) -> SourceCase | Problem:
        stem = str(image_stem(scan))
        subject, session = _subject(stem)
        original = re.sub(r"_r?sCMB_?.*$", "", stem)
        points = list(real.get(original, [])) if kind in ("real", "real and synthetic") else []
        points += synthetic.get(stem, [])
        if kind != "none" and not points:
            return Problem(stem, scan, f"has no row in {table.name}", "add its row, or take the scan out")
        label = PointLabel(table, tuple(points), self.config.space) if points else Healthy()
        return SourceCase(
            stem,
            (scan,),
            label,
            patient=f"csiro-{subject}",
            session=session,
            domain="csiro",
            metadata={"lesions": kind},
        )


def read_positions(table: Path) -> Points:
    """File stem -> points x, y, z of a table: a row per scan, the file's name and then a triple per lesion.

    Cells without a lesion are empty or hold blanks; a row that stands there twice counts once (its points are the same,
    and doubles are dropped when they are drawn).

    Raises:
        UserError: the table is unreadable, or a triple is not whole.
    """
    found: Points = {}
    for i, row in enumerate(read_cells(table), start=1):
        name = row[0].strip() if row else ""
        stem = image_stem(Path(name))
        if stem is None:  # the header, or an empty row
            continue
        cells = [cell.strip() for cell in row[1:]]
        cells += [""] * (-len(cells) % 3)  # a row may end within a triple
        for first in range(0, len(cells), 3):
            triple = cells[first : first + 3]
            if not any(triple):
                continue
            if not all(triple):
                raise UserError(f"{table}: row {i} has a point with {triple}", remedy="give x, y and z of each")
            point = tuple(number(cell, table, f"a coordinate of row {i}") for cell in triple)
            found.setdefault(stem, []).append(point)
    return found


def _subject(stem: str) -> tuple[str, str]:
    """Subject and time point of a file's name: ``242_T1_MRI_...`` -> ``242``, ``T1``."""
    words = stem.split("_")
    session = words[1] if len(words) > 1 and re.fullmatch(r"T\d+", words[1]) else ""
    return words[0], session
