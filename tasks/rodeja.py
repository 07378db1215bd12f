"""``Rodeja``: scans with a mask beside each, a number per lesion (as Rodeja Ferrer et al., arXiv 2301.09322)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmb_plugin.conversion import ConvertConfig, Converter, MaskLabel, Problem, SourceCase, safe_name
from cmb_plugin.errors import UserError
from cmb_plugin.files import files_below
from cmb_plugin.images import image_stem
from cmb_plugin.plugins import register_task


@dataclass
class RodejaConfig(ConvertConfig):
    """Settings of ``rodeja``.

    Attributes:
        suffix: what a mask's name has more than its scan's.
        patient: regular expression whose first group is the patient in a scan's name; empty takes the whole name.
    """

    suffix: str = "mask"
    patient: str = ""


@register_task
class Rodeja(Converter):
    """Folders of scans {study}.nii.gz with masks {study}mask.nii, one number per lesion"""

    needs = (
        "a folder with {study}.nii.gz and {study}mask.nii (or .nii.gz), one number per lesion; an empty mask is a "
        "healthy scan; subfolders, if there are any, are the domains"
    )
    example = "rodeja --source covid_swi --task Task105_COVID"
    config_class = RodejaConfig
    config: RodejaConfig

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """Every scan with the mask beside it."""
        files = [p for p in files_below(source) if image_stem(p)]
        suffix = self.config.suffix
        masks = {(p.parent, _study(p, suffix)): p for p in files if str(image_stem(p)).endswith(suffix)}
        folders = {path.parent for path in masks.values()}
        scans = [p for p in files if not str(image_stem(p)).endswith(suffix)]
        for scan in scans:
            study = str(image_stem(scan))
            name = safe_name(study)
            mask = masks.pop((scan.parent, study), None) or masks.pop((scan.parent, f"{study}_"), None)
            if mask is None:
                place = scan.with_name(f"{study}{suffix}.nii")
                yield Problem(name, place, "no such file", "add the mask; that of a healthy scan is empty")
                continue
            domain = scan.parent.name if len(folders) > 1 else ""
            patient = self._patient(study)
            yield SourceCase(name, (scan,), MaskLabel(mask, instances=True), patient=patient, domain=domain)
        for (_, study), mask in masks.items():
            yield Problem(safe_name(study), mask, "has no scan beside it", f"add {study}.nii.gz, or remove the mask")

    def _patient(self, study: str) -> str:
        if not self.config.patient:
            return study
        match = re.search(self.config.patient, study)
        if match is None or not match.groups():
            raise UserError(
                f"convert_cfg.patient={self.config.patient}: finds no group in '{study}'",
                remedy="put the patient's part of the name in parentheses, for instance '^(\\d+)_'",
            )
        return match[1]


def _study(mask: Path, suffix: str) -> str:
    return str(image_stem(mask)).removesuffix(suffix)
