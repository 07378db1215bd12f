"""DICOM series as volumes: found in a folder by their headers, told apart, and read as array + ``Grid``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import files_below

from .dicom_headers import Frame, SeriesFacts, frames_of_file, import_pydicom, is_dicom
from .grid import Grid

_SAME_PLACE_MM = 1e-3
_SAME_DIRECTION = 1e-3  # in each of the numbers: one slice is written 0.0, the next -2e-10
_UNEVEN = (0.05, 0.02)  # slices may lie so much of their distance, or so many mm, off an even step


@dataclass(frozen=True)
class DicomSeries:
    """The frames of one volume: of one series, contrast, echo, orientation and point in time.

    Attributes:
        facts: what their headers have in common.
        frames: from one end of the volume to the other.
        volume: which of several points in time, from 1; 0 where there is one.
        defect: why it cannot be read as a volume, "" where it can.
    """

    facts: SeriesFacts
    frames: tuple[Frame, ...]
    volume: int = 0
    defect: str = ""

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files, each once, in the order of the frames."""
        return tuple(dict.fromkeys(frame.file for frame in self.frames))

    @property
    def place(self) -> tuple[float, ...]:
        """Rounded numbers that are the same for volumes on one grid."""
        first, last = self.frames[0], self.frames[-1]
        ends = np.round([*first.position, *last.position], 1) + 0.0
        return (len(self.frames), *first.shape, *ends.tolist())

    def grid(self) -> Grid:
        """Where its voxels lie.

        Raises:
            UserError: its slices make no volume: see ``defect``.
        """
        first = self.frames[0]
        if self.defect:
            raise UserError(f"{self.facts.name}: {self.defect}", remedy="export the series again")
        rows, columns = np.array(first.orientation[:3]), np.array(first.orientation[3:])
        normal = np.cross(rows, columns)
        positions = np.array([frame.position for frame in self.frames])
        step = positions[-1] - positions[0]
        gap = float(np.linalg.norm(step)) / max(len(self.frames) - 1, 1) if len(self.frames) > 1 else first.thickness
        if len(self.frames) > 1 and float(step @ normal) < 0:
            normal = -normal
        direction = np.stack([rows, columns, normal], axis=1)
        shape = (len(self.frames), *first.shape)
        spacing = (gap or 1.0, *first.spacing)
        origin = tuple(float(v) for v in first.position)
        return Grid(shape, spacing, origin, tuple(direction.ravel().tolist()))  # type: ignore[arg-type]


def find_series(
    folder: Path | str, damaged: list[UserError] | None = None, placeless: list[Path] | None = None
) -> list[DicomSeries]:
    """The volumes in the DICOM files of a folder and its subfolders; other and hidden files are passed over.

    Studies come in the order of their first files, the series of each by number.

    Args:
        folder: where to look.
        damaged: is given an error for each DICOM file that cannot be read; None raises the first.
        placeless: is given each DICOM file without an image that has a place in space.

    Raises:
        UserError: a file is damaged, or pydicom is not installed.
    """
    return series_of_files((path for path in files_below(Path(folder)) if path.is_file()), damaged, placeless)


def series_of_files(
    files: Iterable[Path], damaged: list[UserError] | None = None, placeless: list[Path] | None = None
) -> list[DicomSeries]:
    """As ``find_series``, of these files."""
    import_pydicom()
    groups: dict[tuple[Any, ...], list[list[tuple[SeriesFacts, Frame]]]] = defaultdict(list)
    for file in files:
        if file.name.startswith(".") or file.name == "DICOMDIR":
            continue
        try:
            frames = frames_of_file(file)
        except UserError as error:
            if damaged is None:
                raise
            damaged.append(error)
            continue
        if not frames and placeless is not None and is_dicom(file):
            placeless.append(file)
        for facts, frame in frames:
            stacks = groups[(facts.key, frame.shape)]
            own = next((stack for stack in stacks if _parallel(stack[0][1], frame)), None)
            if own is None:
                stacks.append(own := [])
            own.append((facts, frame))
    found = [series for stacks in groups.values() for members in stacks for series in _volumes(members)]
    first: dict[str, Path] = {}  # of each study: its UID is random, its files lie where the user put them
    for series in found:
        first[series.facts.study] = min(first.get(series.facts.study, series.files[0]), *series.files)
    return sorted(found, key=lambda s: (first[s.facts.study], s.facts.number, s.facts.echo_ms or 0.0, s.volume))


def read_series(series: DicomSeries) -> tuple[np.ndarray, Grid]:
    """The voxels in the units of the header (RescaleSlope, RescaleIntercept) and their grid.

    Returns:
        [z, y, x], z along the slices, y down the rows of a frame; the stored integers where nothing is rescaled,
        otherwise float32.

    Raises:
        UserError: the slices make no volume, or a file is damaged or compressed in an unknown way.
    """
    from .dicom_pixels import pixels_of_file

    grid = series.grid()
    slices: list[np.ndarray | None] = [None] * len(series.frames)
    wanted: dict[Path, list[tuple[int, int]]] = defaultdict(list)
    for place, frame in enumerate(series.frames):
        wanted[frame.file].append((place, frame.number))
    for file, members in wanted.items():
        frames = pixels_of_file(file, [number for _, number in members])
        for (place, _), pixels in zip(members, frames, strict=True):
            if pixels.shape != series.frames[place].shape:
                raise UserError(f"{file}: its pixels do not fit its header", remedy="copy the series again")
            slices[place] = pixels
    return np.stack([pixels for pixels in slices if pixels is not None]), grid


def _parallel(one: Frame, other: Frame) -> bool:
    """Whether two slices lie in one orientation, but for rounding."""
    return all(abs(a - b) < _SAME_DIRECTION for a, b in zip(one.orientation, other.orientation, strict=True))


def _volumes(members: Sequence[tuple[SeriesFacts, Frame]]) -> list[DicomSeries]:
    """The frames of one orientation sorted along their normal, and split where several lie at each place."""
    facts = members[0][0]
    orientation = members[0][1].orientation
    normal = np.cross(orientation[:3], orientation[3:])

    def depth(frame: Frame) -> float:
        """mm along the normal."""
        return float(np.dot(frame.position, normal))

    times: dict[tuple[int, int], list[Frame]] = defaultdict(list)
    for own, frame in members:
        times[own.time].append(frame)
    if len(times) > 1 and not _repeated(list(times.values()), depth):
        times = {(0, 0): [frame for _, frame in members]}  # the numbers only count slices
    volumes = []
    for number, (_, frames) in enumerate(sorted(times.items()), start=1):
        ordered = tuple(sorted(frames, key=depth))
        volume = number if len(times) > 1 else 0
        volumes.append(DicomSeries(facts, ordered, volume, _defect(ordered, [depth(frame) for frame in ordered])))
    return volumes


def _repeated(groups: Sequence[Sequence[Frame]], depth: Any) -> bool:
    """Whether all groups show the same places."""
    places = [sorted(round(depth(frame), 1) for frame in group) for group in groups]
    return all(own == places[0] for own in places)


def _defect(frames: Sequence[Frame], places: Sequence[float]) -> str:
    if len({frame.spacing for frame in frames}) > 1:
        return "its slices have pixels of different sizes"
    gaps = np.diff(places)
    if not len(gaps):
        return ""
    if gaps.min() < _SAME_PLACE_MM:
        return f"several slices lie at one place (at {places[int(gaps.argmin())]:.1f} mm)"
    if gaps.max() - gaps.min() > max(_UNEVEN[0] * float(np.median(gaps)), _UNEVEN[1]):
        return f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart: is one missing?"
    across = np.array([frame.position for frame in frames])
    step = (across[-1] - across[0]) / (len(frames) - 1)
    normal = np.cross(frames[0].orientation[:3], frames[0].orientation[3:])
    slant = float(np.linalg.norm(step - normal * (step @ normal))) / float(np.linalg.norm(step))
    return "its slices are shifted against each other: a tilted stack, which no grid describes" if slant > 0.01 else ""
