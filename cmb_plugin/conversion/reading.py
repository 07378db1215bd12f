"""Scans as a source has them: an image file, or a folder with a DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.images import SUFFIXES, DicomSeries, Grid, find_series, image_stem, read_series, read_stored
from cmb_plugin.images.contrast import MAGNITUDE, PHASE, SWI
from cmb_plugin.preparation import modality_kind


@dataclass
class SourceImage:
    """A scan of a source.

    Attributes:
        path: where it came from.
        array: [z, y, x] as stored.
        grid: its grid.
        facts: ``field_strength_t`` and ``echo_time_ms``, as far as the header or a JSON beside the file has them.
    """

    path: Path
    array: np.ndarray
    grid: Grid
    facts: dict[str, Any] = field(default_factory=dict)


def read_source(path: Path, modality: str = "") -> SourceImage:
    """Reads an image file, or a folder with a DICOM series.

    Args:
        path: the file or folder. Where a folder holds several series, ``DIR#phase``, ``DIR#magnitude`` and
            ``DIR#echo=2`` say which; otherwise the modality's name tells phase from magnitude.
        modality: name of the image.

    Raises:
        UserError: nothing is there, it cannot be read, or several series fit.
    """
    folder, _, choice = str(path).partition("#")
    if Path(folder).is_dir():
        return _read_dicom(Path(folder), choice, modality)
    array, grid = read_stored(path)
    return SourceImage(path, array, grid, _sidecar(path))


def source_exists(path: Path) -> bool:
    """Whether there is a file or folder of that name."""
    return Path(str(path).partition("#")[0]).exists()


def _sidecar(path: Path) -> dict[str, Any]:
    """Facts from the JSON that dcm2niix and BIDS put beside a scan."""
    file = path.with_name(f"{image_stem(path)}.json")
    if not file.is_file():
        return {}
    content = read_json(file)
    facts = {}
    if isinstance(content, dict):
        if isinstance(content.get("MagneticFieldStrength"), int | float):
            facts["field_strength_t"] = content["MagneticFieldStrength"]
        if isinstance(content.get("EchoTime"), int | float):
            facts["echo_time_ms"] = round(content["EchoTime"] * 1000, 3)
    return facts


def _read_dicom(folder: Path, choice: str, modality: str) -> SourceImage:
    found = find_series(folder)
    if not found:
        raise UserError(
            f"{folder}: holds no DICOM image",
            remedy=f"name the folder of a series, or an image file ({', '.join(SUFFIXES)})",
        )
    series = _chosen(folder, found, choice, modality)
    if series.defect:
        remedy = "copy the series again; put each series, echo and time point into a folder of its own"
        raise UserError(f"{folder}: {series.defect}", remedy=remedy)
    array, grid = read_series(series)
    facts: dict[str, Any] = {}
    if series.facts.field_t:
        facts["field_strength_t"] = series.facts.field_t
    if series.facts.echo_ms:
        facts["echo_time_ms"] = series.facts.echo_ms
    return SourceImage(folder, array, grid, facts)


def _kind(series: DicomSeries) -> str:
    """The contrast by which ``#`` chooses; an SWI is a magnitude."""
    return MAGNITUDE if series.facts.contrast == SWI else series.facts.contrast


def _chosen(folder: Path, found: Sequence[DicomSeries], choice: str, modality: str) -> DicomSeries:
    """The one series that is meant."""
    fitting = list(found)
    echoes = sorted({series.facts.echo_ms for series in found if series.facts.echo_ms is not None})
    if choice.startswith("echo="):
        number = choice.removeprefix("echo=")
        if not number.isdecimal() or not 1 <= int(number) <= len(echoes):
            raise UserError(f"{folder}#{choice}: there are {len(echoes)} echoes", remedy="give a number from 1")
        fitting = [series for series in fitting if series.facts.echo_ms == echoes[int(number) - 1]]
    elif choice:
        fitting = [series for series in fitting if _kind(series) == choice]
    if len(fitting) > 1 and choice not in (PHASE, MAGNITUDE):
        wanted = PHASE if modality_kind(modality) == PHASE else MAGNITUDE
        fitting = [series for series in fitting if _kind(series) == wanted] or fitting
    if len(fitting) == 1:
        return fitting[0]
    listed = "; ".join(
        f"{s.facts.description or 'series'} ({_kind(s)}, echo {s.facts.echo_ms or '?'} ms, {len(s.frames)} slices)"
        for s in found
    )
    remedy = "name one as DIR#magnitude, DIR#phase or DIR#echo=1, or give each series a folder of its own"
    raise UserError(f"{folder}: {len(fitting)} series fit of {len(found)}: {listed}", remedy=remedy)
