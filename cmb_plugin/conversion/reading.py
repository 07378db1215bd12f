"""Scans as a source has them: an image file, or a folder with a DICOM series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.images import SUFFIXES, Grid, image_stem, read_stored
from cmb_plugin.preparation import modality_kind

_TAGS = {
    "series": "0020|000e",
    "type": "0008|0008",
    "echo": "0018|0081",
    "field": "0018|0087",
    "position": "0020|0032",
    "orientation": "0020|0037",
    "description": "0008|103e",
    "ge": "0043|102f",
}
PHASE, MAGNITUDE = "phase", "magnitude"


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


@dataclass(frozen=True)
class _Slice:
    file: Path
    series: str
    kind: str
    echo_ms: float | None
    field_t: float | None
    position: tuple[float, ...]
    normal: tuple[float, ...]
    description: str


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
    import SimpleITK as sitk

    groups: dict[tuple[str, str, float | None], list[_Slice]] = {}
    for item in _slices(folder):
        groups.setdefault((item.series, item.kind, item.echo_ms), []).append(item)
    slices = _chosen(folder, list(groups.values()), choice, modality)
    slices.sort(key=lambda s: float(np.dot(s.position, s.normal)))
    places = np.array([np.dot(s.position, s.normal) for s in slices])
    gaps = np.diff(places)
    if len(gaps) and gaps.min() < 1e-3:
        raise UserError(
            f"{folder}: several slices lie at one place (at {places[int(gaps.argmin())]:.1f} mm)",
            remedy="put each series, echo and time point into a folder of its own",
        )
    if len(gaps) and gaps.max() - gaps.min() > max(0.05 * float(np.median(gaps)), 0.02):
        raise UserError(
            f"{folder}: slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart",
            remedy="is a slice missing? copy the series again",
        )
    try:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames([str(s.file) for s in slices])
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{folder}: the series cannot be read ({reason})", remedy="copy it again") from None
    spacing = list(image.GetSpacing())
    if len(gaps):
        spacing[2] = float(gaps.mean())
    x, y, z = image.GetSize()
    facts: dict[str, Any] = {}
    if slices[0].field_t:
        facts["field_strength_t"] = slices[0].field_t
    if slices[0].echo_ms:
        facts["echo_time_ms"] = slices[0].echo_ms
    sz, sy, sx = (float(v) for v in spacing[::-1])
    ox, oy, oz = (float(v) for v in image.GetOrigin())
    grid = Grid((z, y, x), (sz, sy, sx), (ox, oy, oz), tuple(float(v) for v in image.GetDirection()))
    return SourceImage(folder, sitk.GetArrayFromImage(image), grid, facts)


def _slices(folder: Path) -> list[_Slice]:
    """The header of every DICOM image in a folder and its subfolders."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    found = []
    for file in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.LoadPrivateTagsOn()
        reader.SetFileName(str(file))
        try:
            reader.ReadImageInformation()
        except RuntimeError:
            continue
        texts = {name: _tag(reader, tag) for name, tag in _TAGS.items()}
        position, orientation = _floats(texts["position"]), _floats(texts["orientation"])
        if len(position) != 3 or len(orientation) != 6:
            continue
        normal = tuple(np.cross(orientation[:3], orientation[3:]).tolist())
        echo, field_t = _floats(texts["echo"]), _floats(texts["field"])
        found.append(
            _Slice(
                file,
                texts["series"],
                _kind(texts["type"], texts["ge"]),
                echo[0] if echo else None,
                field_t[0] if field_t else None,
                position,
                normal,
                texts["description"],
            )
        )
    if not found:
        raise UserError(
            f"{folder}: holds no DICOM image",
            remedy=f"name the folder of a series, or an image file ({', '.join(SUFFIXES)})",
        )
    return found


def _kind(image_type: str, ge: str) -> str:
    """``phase``, ``magnitude``, or another word of ImageType; GE says it in a private tag."""
    words = [word.strip().upper() for word in image_type.split("\\")]
    if ge.strip() in ("1", "0"):
        return PHASE if ge.strip() == "1" else MAGNITUDE
    if any(word in ("P", "PHASE", "PHASE MAP", "PHASE_MAP") for word in words[2:]):
        return PHASE
    other = next((word for word in words[2:] if word in ("R", "REAL", "I", "IMAGINARY", "MNIP", "MIP")), None)
    return other.lower() if other else MAGNITUDE


def _chosen(folder: Path, groups: Sequence[list[_Slice]], choice: str, modality: str) -> list[_Slice]:
    """The one series that is meant."""
    fitting = list(groups)
    echoes = sorted({group[0].echo_ms for group in groups if group[0].echo_ms is not None})
    if choice.startswith("echo="):
        number = choice.removeprefix("echo=")
        if not number.isdecimal() or not 1 <= int(number) <= len(echoes):
            raise UserError(f"{folder}#{choice}: there are {len(echoes)} echoes", remedy="give a number from 1")
        fitting = [group for group in fitting if group[0].echo_ms == echoes[int(number) - 1]]
    elif choice:
        fitting = [group for group in fitting if group[0].kind == choice]
    if len(fitting) > 1 and choice not in (PHASE, MAGNITUDE):
        wanted = PHASE if modality_kind(modality) == PHASE else MAGNITUDE
        fitting = [group for group in fitting if group[0].kind == wanted] or fitting
    if len(fitting) == 1:
        return list(fitting[0])
    listed = "; ".join(
        f"{g[0].description or 'series'} ({g[0].kind}, echo {g[0].echo_ms or '?'} ms, {len(g)} slices)" for g in groups
    )
    remedy = "name one as DIR#magnitude, DIR#phase or DIR#echo=1, or give each series a folder of its own"
    raise UserError(f"{folder}: {len(fitting)} series fit of {len(groups)}: {listed}", remedy=remedy)


def _tag(reader: Any, tag: str) -> str:
    return str(reader.GetMetaData(tag)) if reader.HasMetaDataKey(tag) else ""


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in text.split("\\") if word.strip())
    except ValueError:
        return ()
