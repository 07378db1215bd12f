"""One case of a source written as files of a Task folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.documents import some_of
from cmb_plugin.errors import UserError
from cmb_plugin.files import files_below, write_json
from cmb_plugin.images import (
    Grid,
    boxes_of_instances,
    centroids_of_instances,
    place_doubt,
    read_mask,
    voxels_of_instances,
    write_image,
)
from cmb_plugin.paths import TaskFolder
from cmb_plugin.preparation import modality_kind, modality_polarity, work_key

from .evidence import Readings, score_readings
from .grids import bring, bring_instances
from .instances import Drawn, draw_boxes, draw_points, file_error, instances_of_mask
from .pictures import write_crops
from .reading import SourceImage, read_source, source_exists
from .source import BoxLabel, ConvertConfig, Healthy, MaskLabel, PointLabel, SourceCase

SMALLEST_MM, LARGEST_MM = 1.0, 12.0
"""Lesions of other equivalent diameters are reported: microbleeds measure 2 to 10 mm."""


@dataclass(frozen=True)
class Job:
    """What is the same for all cases of a run.

    Attributes:
        folder: where the cases are written, as training cases.
        modalities: names of the images.
        classes: class names by index.
        config: the converter's settings.
        register: register the other modalities to the reference.
        crops: folder for the pictures.
    """

    folder: TaskFolder
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    config: ConvertConfig
    register: bool
    crops: Path


@dataclass
class Record:
    """What became of a case; stands in ``lesionsTr/{case}.json`` and in ``conversion.json``.

    Attributes:
        case_id, patient, session, domain, metadata: as the source says.
        key: changes when a file of the source does.
        labelled: whether it has labels.
        lesions: a dictionary per instance: number, class, centre, diameter, how it was drawn.
        spacing: of the reference in mm, z, y, x.
        warnings: sentences.
        readings: how far the points stand out as they were read, and read otherwise.
    """

    case_id: str
    patient: str
    session: str
    domain: str
    metadata: dict[str, Any]
    key: str
    labelled: bool
    lesions: list[dict[str, Any]]
    spacing: tuple[float, ...]
    warnings: list[str] = field(default_factory=list)
    readings: Readings = field(default_factory=dict)

    @property
    def weak(self) -> bool:
        """Whether a lesion was drawn from a point or a box."""
        return any(lesion["drawn"] != "mask" for lesion in self.lesions)


def convert_case(case: SourceCase, job: Job) -> Record:
    """Reads, checks and writes one case; its lesion file comes last and marks it as finished.

    Raises:
        UserError: a file is missing, unreadable, or does not fit the others.
    """
    for path in case.images:
        if not source_exists(path):
            raise UserError(f"{path}: no such file", remedy="add it, or leave the modality or the case out")
    reference = read_source(case.images[0], job.modalities[0])
    others = [read_source(path, name) for path, name in zip(case.images[1:], job.modalities[1:], strict=True)]
    warnings = list(case.notes)
    warnings += [f"{x.path.name}: {doubt}" for x in (reference, *others) if (doubt := place_doubt(x.path, x.grid))]
    arrays = [_finite(reference.array, reference, warnings)]
    for image, name in zip(others, job.modalities[1:], strict=True):
        image.array = _finite(image.array, image, warnings)
        array, notes = bring(image, reference, name, job.config.header_tolerance, job.register)
        arrays.append(array)
        warnings += notes
    drawn = None if case.label is None else _draw(case, job, reference, arrays[0])
    metadata = {**reference.facts, **case.metadata}
    lesions = [] if drawn is None else _lesions(drawn, reference.grid, job.classes)
    warnings += [] if drawn is None else drawn.warnings + _odd_sizes(lesions, case)
    record = Record(
        case.case_id,
        case.patient or case.case_id,
        case.session,
        case.domain,
        metadata,
        source_key(case),
        drawn is not None,
        lesions,
        tuple(reference.grid.spacing),
        warnings,
        {} if drawn is None else drawn.readings,
    )
    _write(record, drawn, arrays, reference.grid, job)
    return record


def source_key(case: SourceCase) -> str:
    """Changes when a file of the case does."""
    files = []
    for path in (*case.images, *([] if case.label is None or isinstance(case.label, Healthy) else [case.label.file])):
        plain = Path(str(path).partition("#")[0])
        files += [p for p in files_below(plain) if p.is_file()] if plain.is_dir() else [plain]
    return work_key([file for file in files if file.is_file()])


def _finite(array: np.ndarray, image: SourceImage, warnings: list[str]) -> np.ndarray:
    """The array with 0 for NaN and infinity, which other programs choke on."""
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    bad = 0
    if np.issubdtype(array.dtype, np.floating):
        finite = np.isfinite(array)
        bad = array.size - int(np.count_nonzero(finite))
        if bad:
            array = np.where(finite, array, np.float32(0))
    if bad == array.size or array.min() == array.max():
        raise UserError(f"{image.path}: every voxel has the same value", remedy="export the scan again")
    if bad:
        warnings.append(f"{image.path.name}: {bad} voxels were NaN or infinite and became 0")
    return array


def _draw(case: SourceCase, job: Job, reference: SourceImage, array: np.ndarray) -> Drawn:
    label, grid = case.label, reference.grid
    if isinstance(label, MaskLabel):
        mask, own = read_mask(label.file)
        unknown = sorted(set(np.unique(mask[mask > 0]).tolist()) - {*label.classes}) if label.classes else []
        if unknown:
            known = ", ".join(f"{number} is {job.classes[index]}" for number, index in label.classes.items())
            raise UserError(
                f"{label.file}: holds {some_of(unknown)}, which is no class",
                remedy=f"{known}: correct the mask, or name all classes with -o convert_cfg.classes=[...]",
            )
        try:
            drawn = instances_of_mask(mask, label.instances, label.connectivity, label.classes)
        except UserError as error:
            raise file_error(label.file, error) from None
        if doubt := place_doubt(label.file, own):
            drawn.warnings.append(f"{label.file.name}: {doubt}")
        return bring_instances(drawn, own, reference, str(label.file), job.config.header_tolerance)
    if isinstance(label, PointLabel):
        if job.config.growth not in ("auto", "dark", "bright", "ball"):
            raise UserError(
                f"convert_cfg.growth={job.config.growth}: unknown", remedy="give auto, dark, bright or ball"
            )
        bright = job.config.growth == "bright"
        if job.config.growth == "auto":
            bright = modality_polarity(job.modalities[0]) == "bright"
        values = array.astype(np.float32)
        if modality_kind(job.modalities[0]) == "phase" and job.config.growth == "auto":
            raise UserError(
                f"{case.images[0]}: a lesion is not outlined on phase",
                remedy="name another modality first (-o convert_cfg.modalities=[...]), or convert_cfg.growth=ball",
            )
        drawn = draw_points(values, grid, label, job.config, bright)
        drawn.readings = {} if job.config.growth == "ball" else score_readings(values, grid, label, bright)
        return drawn
    if isinstance(label, BoxLabel):
        return draw_boxes(grid, label)
    return Drawn(np.zeros(grid.shape, np.int32))


def _lesions(drawn: Drawn, grid: Grid, classes: Sequence[str]) -> list[dict[str, Any]]:
    centres, counts = centroids_of_instances(drawn.mask), voxels_of_instances(drawn.mask)
    lesions = []
    for number, box in boxes_of_instances(drawn.mask).items():
        volume = counts[number] * float(np.prod(grid.spacing))
        lesion = {
            "instance": number,
            "class": classes[drawn.classes[number]],
            "centre": np.round(centres[number], 3).tolist(),
            "centre_lps_mm": np.round(grid.to_world(centres[number][None])[0], 3).tolist(),
            "box": box.astype(int).tolist(),
            "outlined_diameter_mm": round((6 * volume / np.pi) ** (1 / 3), 3),
            "voxels": counts[number],
            "drawn": drawn.how[number],
        }
        if drawn.certainty:
            lesion["certainty"] = drawn.certainty.get(number, "definite")
        lesions.append(lesion)
    return lesions


def _odd_sizes(lesions: Sequence[dict[str, Any]], case: SourceCase) -> list[str]:
    notes = []
    small = [x["instance"] for x in lesions if x["outlined_diameter_mm"] < SMALLEST_MM]
    large = [x["instance"] for x in lesions if x["outlined_diameter_mm"] > LARGEST_MM]
    if small:
        notes.append(f"lesions {some_of(small)} are smaller than {SMALLEST_MM:g} mm: specks of the brush?")
    if large:
        notes.append(f"lesions {some_of(large)} are larger than {LARGEST_MM:g} mm: several lesions in one?")
    balls = sum(x["drawn"] == "ball" for x in lesions)
    grown = sum(x["drawn"] == "grown" for x in lesions)
    if balls and isinstance(case.label, PointLabel):
        notes.append(f"{balls} of {balls + grown} points do not stand out, and a ball was drawn")
    return notes


def _write(record: Record, drawn: Drawn | None, arrays: Sequence[np.ndarray], grid: Grid, job: Job) -> None:
    folder, name = job.folder, record.case_id
    for number, array in enumerate(arrays):
        write_image(folder.images("Tr") / f"{name}_{number:04d}.nii.gz", array, grid)
    if drawn is not None:
        small = drawn.mask.astype(np.uint8 if len(drawn.classes) < 256 else np.uint16)
        write_image(folder.labels("Tr") / f"{name}.nii.gz", small, grid)
        instances = {str(number): index for number, index in drawn.classes.items()}
        write_json(folder.labels("Tr") / f"{name}.json", {"instances": instances})
        write_crops(job.crops / f"{name}.png", arrays[0], drawn.mask, grid)
    write_json(folder.extra("lesions", "Tr") / f"{name}.json", vars(record))
