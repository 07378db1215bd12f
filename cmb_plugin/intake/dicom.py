"""Volumes of a folder with DICOM files: every series, contrast, echo and point in time is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from os.path import commonpath
from pathlib import Path

from cmb_plugin.documents import counted
from cmb_plugin.errors import UserError
from cmb_plugin.images import DicomSeries, find_series
from cmb_plugin.images.dicom import series_of_files

from .selection import SHORTEST_ECHO_MS
from .table import PASSED_OVER, UNUSABLE, InputRow
from .volumes import Volume, safe_case

PLACELESS = "no image with a place in the patient: a report, a screenshot, or a file that was cut off"
FEWEST_SLICES = 8  # a scan of a head has more; localisers and single pictures have fewer


def dicom_volumes(path: Path) -> tuple[list[Volume], list[InputRow]]:
    """The volumes of the MR series in a folder, or of one file, and rows for what is none.

    Volumes of one study that lie on one grid belong to one case. It is named by PatientID, StudyDate and number of the
    first series.
    """
    damaged: list[UserError] = []
    placeless: list[Path] = []
    found = find_series(path, damaged, placeless) if path.is_dir() else series_of_files([path], damaged, placeless)
    rows = [InputRow("", "", "", "", UNUSABLE, str(error)) for error in damaged]
    if placeless:
        name = placeless[0].relative_to(path).as_posix() if path.is_dir() else path.name
        name = f"{name} ({counted(len(placeless), 'file')})"
        rows.append(InputRow("", "", name, "", PASSED_OVER, PLACELESS))
    groups: dict[tuple[object, ...], list[tuple[DicomSeries, str, str]]] = defaultdict(list)
    for series, (folder, name) in zip(found, _places(found, path), strict=True):
        why = _not_a_scan(series)
        if why:
            shows = series.facts.contrast if _is_mr(series) else ""
            rows.append(InputRow("", "", f"{folder}/{name}" if folder else name, shows, PASSED_OVER, why))
        else:
            groups[(series.facts.study, series.place)].append((series, folder, name))
    volumes = []
    for group in groups.values():
        members = [series for series, _, _ in group]
        first = members[0].facts
        subject = safe_case(first.patient) or safe_case(path.name)
        case = safe_case(subject, first.date, f"s{first.number:03d}")
        volumes += [_volume(series, folder, name, case, members) for series, folder, name in group]
    return volumes, rows


def _places(found: Sequence[DicomSeries], root: Path) -> list[tuple[str, str]]:
    """Folder of each series relative to the input, and its name; series that have both in common name a file too."""
    if not root.is_dir():
        return [("", _name(series)) for series in found]
    folders = [Path(commonpath([file.parent for file in series.files])) for series in found]
    places = [
        ("" if f == root else f.relative_to(root).as_posix(), _name(s)) for f, s in zip(folders, found, strict=True)
    ]
    files = [min(series.files) for series in found]
    alike: dict[tuple[str, str], set[Path]] = defaultdict(set)
    for place, file in zip(places, files, strict=True):
        alike[place].add(file)
    return [
        (folder, f"{name}, from {file.relative_to(own).as_posix()}" if len(alike[folder, name]) > 1 else name)
        for (folder, name), file, own in zip(places, files, folders, strict=True)
    ]


def _volume(series: DicomSeries, folder: str, name: str, case: str, members: list[DicomSeries]) -> Volume:
    facts = series.facts
    alike = [m.facts.echo_ms for m in members if m.facts.contrast == facts.contrast]  # each echo may be a series
    times = sorted({round(time, 1) for time in alike if time is not None})
    echoes = len(times) > 1 and times[-1] >= SHORTEST_ECHO_MS  # shorter ones are not weighted by T2*, but by T1 and fat
    return Volume(
        name,
        case,
        facts.study,
        series.files[0],
        facts.contrast,
        series,
        echo=times.index(round(facts.echo_ms, 1)) + 1 if echoes and facts.echo_ms is not None else 0,
        echo_ms=facts.echo_ms,
        field_t=facts.field_t,
        order=(facts.number, series.volume),
        defect=series.defect,
        folder=folder,
    )


def _name(series: DicomSeries) -> str:
    facts = series.facts
    echo = f", {facts.echo_ms:g} ms" if facts.echo_ms else ""
    time = f", volume {series.volume}" if series.volume else ""
    return f"{facts.name}{echo}, {counted(len(series.frames), 'slice')}{time}"


def _not_a_scan(series: DicomSeries) -> str:
    """Why a series is no scan of a head by MR."""
    if not _is_mr(series):
        return f"is no MR scan but {series.facts.modality}"
    if len(series.frames) < FEWEST_SLICES:
        return f"has {counted(len(series.frames), 'slice')} in one direction: a localiser or a single picture"
    return ""


def _is_mr(series: DicomSeries) -> bool:
    return series.facts.modality in ("MR", "")
