"""Any labelled head as the anatomy of phantoms: a label image, and a table of what each label is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, read_mask
from cmb_plugin.tabular import read_numbered_rows

from .physics import spoiled_gradient_echo
from .protocols import Protocol
from .tissue_constants import CHI_BONE, CHI_FLUID, CHI_GREY, CHI_WHITE, IRON_DECAY, TISSUES, Tissue

AIR, BONE, VEIN, CALCIFICATION = "air", "bone", "vein", "calcification"
NUCLEI = ("caudate", "pallidum", "putamen", "thalamus", "red_nucleus", "substantia_nigra", "dentate")

# Tissue of a table -> the constants that it has (of ``tissue_constants``), its susceptibility in ppm against tissue.
MATERIALS: dict[str, tuple[str, float]] = {
    "white_matter": ("white", CHI_WHITE),
    "grey_matter": ("grey", CHI_GREY),
    "csf": ("fluid", CHI_FLUID),
    VEIN: ("blood", 0.3),
    BONE: ("bone", CHI_BONE),
    AIR: ("air", 9.4),
    "soft_tissue": ("scalp", 0.0),
    "fat": ("scalp", 0.0),
    CALCIFICATION: ("calcium", -2.0),
    "caudate": ("grey", 0.06),
    "pallidum": ("grey", 0.17),
    "putamen": ("grey", 0.08),
    "thalamus": ("grey", 0.02),
    "red_nucleus": ("grey", 0.12),
    "substantia_nigra": ("grey", 0.15),
    "dentate": ("grey", 0.10),
}

# What no other phantom has as a tissue of its own.
_OTHERS = {"air": Tissue(0.0, 1000, 0, 50), "calcium": Tissue(0.3, 1000, 60, 30)}

VEINS = (1.15, 1.9)
"""Factor of the susceptibility that a table has for venous blood: an average over voxels that veins fill in part is
lower than the 0.28 to 0.44 ppm of blood."""

NEEDED = ("white_matter", "grey_matter", "csf")
COLUMNS = ("label", "tissue", "chi_ppm", "m0", "t1_ms", "t2star_ms")


@dataclass(frozen=True)
class Material:
    """What the voxels of a label are made of.

    Attributes:
        tissue: a name from ``MATERIALS``.
        chi: susceptibility in ppm.
        constants: at 1.5 and at 3 T.
    """

    tissue: str
    chi: float
    constants: tuple[Tissue, Tissue]

    @property
    def base(self) -> str:
        """Name of its constants in ``tissue_constants.TISSUES``."""
        return MATERIALS[self.tissue][0]


@dataclass(frozen=True, eq=False)
class LabelledHead:
    """A label image and its table.

    Attributes:
        labels: uint8 [z, y, x], numbers of ``materials``.
        grid: of the image.
        materials: what there is in the head.
        source: names and SHA-256 of both files, for the records.
    """

    labels: np.ndarray
    grid: Grid
    materials: tuple[Material, ...]
    source: Mapping[str, str]

    def share(self, *tissues: str) -> np.ndarray:
        """float32 [z, y, x]: 1 in the voxels of these tissues."""
        return self.of([float(m.tissue in tissues) for m in self.materials])

    def of(self, values: list[float]) -> np.ndarray:
        """float32 [z, y, x]: the value of each voxel's material, from one for each of ``materials``."""
        return np.asarray(values, np.float32)[self.labels]


@dataclass(frozen=True)
class HeadTraits:
    """In what a subject's head differs from the labelled one, besides its shape.

    Attributes:
        mirrored: left is right.
        veins: factor of the susceptibility of venous blood: its oxygenation.
        iron: factor of what the deep nuclei have more than grey matter: grows with age.
    """

    mirrored: bool = False
    veins: float = 1.0
    iron: float = 1.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> HeadTraits:
        """Those of a random subject."""
        mirrored = bool(rng.random() < 0.5)
        return cls(mirrored, round(float(rng.uniform(*VEINS)), 3), round(float(np.exp(rng.normal(0, 0.35))), 3))

    def susceptibility(self, material: Material) -> float:
        """Of a material in this head, in ppm."""
        if material.tissue == VEIN:
            return material.chi * self.veins
        if material.tissue in NUCLEI:
            return CHI_GREY + (material.chi - CHI_GREY) * self.iron
        return material.chi

    def signal(self, material: Material, protocol: Protocol) -> float:
        """Gradient-echo signal of a material at the echo."""
        constants = material.constants[int(protocol.field_tesla > 2)]
        decay, gain = constants.decay, 1.0
        if material.base == "blood":
            decay, gain = decay * protocol.venous_decay, protocol.inflow
        if material.tissue in NUCLEI:
            decay += IRON_DECAY * protocol.field_tesla / 3 * max(self.susceptibility(material) - CHI_GREY, 0)
        start = spoiled_gradient_echo(constants.density, constants.t1, protocol.repetition_ms, protocol.flip_deg)
        return start * float(np.exp(-protocol.echo_ms * 1e-3 * decay)) * gain

    def spin_echo(self, material: Material, protocol: Protocol) -> float:
        """T2-weighted signal of a material."""
        constants = material.constants[int(protocol.field_tesla > 2)]
        flow = 0.2 if material.tissue == VEIN else 1.0  # flow void
        return flow * constants.density * float(np.exp(-90 / constants.t2))


@dataclass(frozen=True)
class AnatomyFiles:
    """The files that ``--anatomy`` names."""

    labels: Path
    table: Path

    @classmethod
    def of(cls, text: str) -> AnatomyFiles:
        """From ``labels.nii.gz:table.tsv``.

        Raises:
            UserError: not two files, or one is not there.
        """
        labels, colon, table = text.rpartition(":")
        if not (labels and colon and table):
            raise UserError(
                f"--anatomy {text}: not two files", remedy="name a label image and its table: labels.nii.gz:table.tsv"
            )
        for path in (Path(labels), Path(table)):
            if not path.is_file():
                raise UserError(f"{path}: there is no such file", remedy="--anatomy takes labels.nii.gz:table.tsv")
        return cls(Path(labels).resolve(), Path(table).resolve())

    def source(self) -> dict[str, str]:
        """Names and SHA-256 of both files."""
        named = {"labels": self.labels, "table": self.table}
        return {k: p.name for k, p in named.items()} | {
            f"{k}_sha256": hashlib.sha256(p.read_bytes()).hexdigest() for k, p in named.items()
        }


def read_table(path: Path) -> dict[int, Material]:
    """Label -> material, from a tab-separated table with the columns ``label``, ``tissue`` and, where they are not as
    usual for the tissue, ``chi_ppm``, ``m0``, ``t1_ms``, ``t2star_ms``; others are left alone.

    Raises:
        UserError: it cannot be read, a column is missing, or a row is wrong; its line is named.
    """
    rows = read_numbered_rows(path, COLUMNS, COLUMNS[:2], "the table", "give a tab-separated file")
    materials: dict[int, Material] = {}
    for line, row in rows:
        tissue = (row["tissue"] or "").strip()
        if tissue not in MATERIALS:
            raise UserError(f"{path}, line {line}: unknown tissue {tissue!r}", remedy=f"known: {', '.join(MATERIALS)}")
        label = _number(path, line, row, "label")
        if label is None or label != int(label) or label < 0 or int(label) in materials:
            raise UserError(
                f"{path}, line {line}: label {row['label']!r} is no number of its own",
                remedy="give every label one row, whole numbers from 0",
            )
        materials[int(label)] = _material(path, line, row, tissue)
    missing = [name for name in NEEDED if name not in {m.tissue for m in materials.values()}]
    if missing:
        raise UserError(f"{path}: no label is {missing[0]}", remedy=f"a head needs {', '.join(NEEDED)}")
    return materials


def _material(path: Path, line: int, row: Mapping[str, str | None], tissue: str) -> Material:
    base, chi = MATERIALS[tissue]
    constants = (_OTHERS[base],) * 2 if base in _OTHERS else TISSUES[base]
    given = {key: _number(path, line, row, key) for key in COLUMNS[2:]}
    for key in ("m0", "t1_ms", "t2star_ms"):
        value = given[key]
        if value is not None and (value < 0 or (value == 0 and key != "m0")):
            raise UserError(f"{path}, line {line}: {key} {value:g} is not possible", remedy="give a positive number")
    changes: dict[str, float] = {}
    if given["m0"] is not None:
        changes["density"] = given["m0"]
    if given["t1_ms"] is not None:
        changes["t1"] = given["t1_ms"]
    if given["t2star_ms"] is not None:
        changes["decay"] = 1000 / given["t2star_ms"]
    own = (replace(constants[0], **changes), replace(constants[1], **changes))
    return Material(tissue, chi if given["chi_ppm"] is None else given["chi_ppm"], own)


def _number(path: Path, line: int, row: Mapping[str, str | None], key: str) -> float | None:
    """A cell as a number; None where it is empty."""
    text = (row.get(key) or "").strip()
    try:
        value = float(text) if text else None
    except ValueError:
        value = float("nan")
    if value is not None and not np.isfinite(value):
        raise UserError(f"{path}, line {line}: {key} {text!r} is no number", remedy="give a number, or leave it empty")
    return value


def read_head(files: AnatomyFiles) -> LabelledHead:
    """The head, cropped to what is not air.

    Raises:
        UserError: a file cannot be read, or the image holds a label that the table lacks.
    """
    known = read_table(files.table)
    labels, grid = read_mask(files.labels)
    present = [int(v) for v in np.unique(labels)]
    missing = [v for v in present if v not in known and v != 0]
    if missing:
        raise UserError(
            f"{files.table}: no row for label {', '.join(map(str, missing))} of {files.labels.name}",
            remedy="add a row with its tissue",
        )
    of_label = {0: known.get(0, _material(files.table, 0, {}, AIR))} | {v: known[v] for v in present if v}
    materials = list(dict.fromkeys(of_label.values()))
    lacking = [name for name in NEEDED if name not in {m.tissue for m in materials}]
    if lacking:
        raise UserError(f"{files.labels}: no voxel is {lacking[0]}", remedy=f"a head needs {', '.join(NEEDED)}")
    if min(present) < 0 or len(materials) > 255:
        raise UserError(f"{files.labels}: negative labels, or too many", remedy="number the labels from 0")
    numbers = np.zeros(max(present) + 1, np.uint8)
    for value, material in of_label.items():
        numbers[min(value, max(present))] = materials.index(material)
    coded = numbers[labels]
    solid = np.array([m.tissue != AIR for m in materials])[coded]
    ends = [np.flatnonzero(solid.any(axis=tuple(k for k in range(3) if k != axis))) for axis in range(3)]
    box = tuple(slice(max(e[0] - 2, 0), e[-1] + 3) for e in ends)
    cropped = np.ascontiguousarray(coded[box])
    corner = grid.to_world(np.array([[b.start + 0.5 for b in box]]))[0]
    origin = (float(corner[0]), float(corner[1]), float(corner[2]))
    shape = (cropped.shape[0], cropped.shape[1], cropped.shape[2])
    return LabelledHead(cropped, Grid(shape, grid.spacing, origin, grid.direction), tuple(materials), files.source())
