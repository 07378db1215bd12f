"""Regions from a labelled atlas in MNI152 space that is registered to the scan; by default the built-in coarse map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, read_stored
from cmb_plugin.preparation import estimate_brain

from .label_tables import BUILT_IN, DATA, LabelTable, as_labels, load_table, unknown_labels
from .regions import CODES, GROUPS, Place, RegionMap, codes_of
from .registration import register
from .resampling import resample_labels
from .white_matter import divide_white_matter

COARSE = "builtin"
MARS_SQUARES = frozenset(code**2 for code in range(14))
FILL_MM = 15.0  # how far the atlas is extended to reach the surface of the brain in the scan
STEP_MM = 2.0  # voxels on which that is worked out


@dataclass(frozen=True)
class Atlas:
    """Labels in MNI152 space.

    Attributes:
        title: name of the file, or ``builtin``.
        labels: uint16 [z, y, x].
        grid: where they lie, in world LPS mm of MNI152.
        places: what the labels stand for.
        findings: what was odd in the file.
    """

    title: str
    labels: np.ndarray
    grid: Grid
    places: Mapping[int, Place]
    findings: tuple[str, ...] = ()

    def group_codes(self) -> np.ndarray:
        """uint8 [z, y, x], see ``RegionMap.group_codes``."""
        return codes_of(self.places, int(self.labels.max(initial=0)))[self.labels]


def read_atlas(file: str, table: str | None = None) -> Atlas:
    """The built-in map (``builtin``) or a label file in MNI152 space.

    Args:
        file: path of the label file.
        table: path of its label table or name of a built-in one. Without it a ``.tsv`` beside the file is taken; the
            MARS atlas in circulation is known by its values, the squares of 1 to 13.

    Raises:
        UserError: the file cannot be read, or nothing says what its labels stand for.
    """
    if file == COARSE:
        labels, grid = read_stored(DATA / "coarse.nii.gz")
        return Atlas(COARSE, labels.astype(np.uint16), grid, load_table("coarse").places)
    path = Path(file)
    values, grid = read_stored(path)
    rows = _table_of(path, values, table)
    labels, findings = as_labels(values, rows, path.name)
    findings += unknown_labels(labels, rows, path.name)
    labels, places = divide_white_matter(labels, grid.spacing, rows)
    return Atlas(path.name, labels, grid, places, findings)


def _table_of(path: Path, values: np.ndarray, table: str | None) -> LabelTable:
    if table:
        return load_table(table)
    beside = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".tsv")
    if beside.is_file():
        return load_table(beside)
    if set(np.unique(np.rint(values)).tolist()) == MARS_SQUARES:
        return load_table("mars")
    raise UserError(
        f"{path}: nothing says what its labels stand for",
        remedy=f"add a table, atlas:{path.name}:LABELS.tsv with columns value, name, group, region, side, "
        f"or one of {', '.join(BUILT_IN)}",
    )


def atlas_regions(image: np.ndarray, grid: Grid, atlas: Atlas, brain: np.ndarray | None = None) -> RegionMap:
    """Registers MNI152 to a scan and brings the atlas to its grid.

    The atlas is extended to the surface of the brain as it is found in the scan, because no two brains have one
    surface: what lies within the brain and has no label takes that of the nearest tissue.

    Args:
        image: float [z, y, x], SWI, T2* magnitude or the like: brain brighter than air.
        grid: the scan's.
        atlas: in MNI152 space.
        brain: bool [z, y, x] where known; estimated otherwise.
    """
    source = f"atlas:{atlas.title}"
    if brain is None:
        brain = estimate_brain(image, grid.spacing)
    if brain is None or not brain.any():
        nothing = np.zeros(grid.shape, np.uint16)
        why = "no brain was found in the scan"
        return RegionMap(nothing, grid, atlas.places, source, 0.0, trusted=False, why=why, findings=atlas.findings)
    found = register(image, grid, brain)
    labels = resample_labels(atlas.labels, atlas.grid, grid, found.transform)
    return RegionMap(
        _extended(labels, brain, atlas.places, grid.spacing),
        grid,
        atlas.places,
        source,
        quality=round(found.quality, 3),
        trusted=not found.why_not,
        why=found.why_not,
        findings=atlas.findings,
        midplane=found.midplane,
    )


def _extended(
    labels: np.ndarray, brain: np.ndarray, places: Mapping[int, Place], spacing: Sequence[float]
) -> np.ndarray:
    """Voxels of the brain that are outside the atlas take the label of the nearest tissue."""
    from scipy.ndimage import distance_transform_edt

    codes = codes_of(places, int(labels.max(initial=0)))
    bare = brain & (codes == CODES["outside"])[labels]
    steps = tuple(max(1, int(STEP_MM / side + 0.5)) for side in spacing)
    coarse = labels[tuple(slice(None, None, step) for step in steps)]
    tissue = np.isin(codes, [CODES[group] for group in GROUPS])[coarse]
    if not tissue.any():
        return labels
    sampling = [side * step for side, step in zip(spacing, steps, strict=True)]
    distance, nearest = distance_transform_edt(~tissue, sampling=sampling, return_indices=True)
    filled = np.where(distance <= FILL_MM, coarse[tuple(nearest)], 0)
    extended = labels.copy()
    where = np.nonzero(bare)
    extended[where] = filled[tuple(index // step for index, step in zip(where, steps, strict=True))]
    return extended
