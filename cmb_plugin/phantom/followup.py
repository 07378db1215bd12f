"""Further scans of a phantom's subject at later times: another head position, other noise, new and grown lesions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.files import read_json
from cmb_plugin.tabular import write_table

from .case import PhantomCase, PhantomConfig, Scene, draw_scene, in_view, scan
from .deposits import Deposit, draw_microbleeds
from .protocols import Lesions, Protocol
from .scanners import protocol_named
from .subject import draw_visit

STREAM = 0xF0  # keeps the random numbers of later scans apart from those of the first
WITH_NEW = 0.6  # share of the visits at which there are new microbleeds
NEW_COUNTS = (2, 6, 12)  # p50, p90 and maximum of the new ones, where there are any: all categories of ARIA-H occur
GROWING, GROWTH = 0.2, (1.2, 1.5)  # share of the lesions that grow between two visits, and by how much in diameter
APART_MM = 7.0  # between lesions, as within one scan
VISITS, TRUTH = "visits.tsv", "followup.tsv"
TRUTH_COLUMNS = (
    *("subject", "visit", "case", "lesion", "status", "instance", "in_scan"),
    *("x_ras_mm", "y_ras_mm", "z_ras_mm", "diameter_mm", "cnr", "certainty"),
)
NEW, STABLE, GROWN, ABSENT = "new", "stable", "grown", "absent"


@dataclass(frozen=True)
class Visit:
    """A scan of a subject, and what is true about every lesion that the subject has or will have.

    Attributes:
        case: the scan.
        lesions: an entry per lesion: ``lesion`` (its name in all scans of the subject), ``status`` (``absent`` before
            it is there, ``new`` in the first scan with it, ``stable``, ``grown``; in the first scan all are
            ``stable``), ``instance`` in the mask or None, ``in_scan``, ``centre`` (voxel edges z, y, x),
            ``centre_lps_mm`` and the deposit's ``diameter_mm``.
    """

    case: PhantomCase
    lesions: list[dict[str, Any]]


@dataclass(frozen=True)
class _Lesion:
    deposit: Deposit
    since: int  # the visit at which it is there first
    grown: bool = False  # since the visit before


def make_visit(
    seed: int,
    index: int,
    config: PhantomConfig,
    visit: int,
    visits: int,
    *,
    healthy: bool = False,
    protocol: str = "",
) -> Visit:
    """Simulates one scan of a subject; visit 0 is what ``make_case`` gives. Pure, as that is.

    Args:
        seed, index, config, healthy: as for ``make_case``.
        visit: number of the scan, from 0.
        visits: number of later scans that there are.
        protocol: of the later scans; empty for that of the first.
    """
    scene, tissue_rng, noise_rng = draw_scene(seed, index, config, healthy=healthy)
    first = scene
    lesions = [_Lesion(deposit, 0) for deposit in scene.microbleeds]
    others = scene.deposits[len(lesions) :]
    for number in range(1, visits + 1):
        streams = np.random.SeedSequence([seed, index, STREAM, number]).spawn(5)
        place_rng, later_noise_rng, lesion_rng, growth_rng, scanner_rng = map(np.random.default_rng, streams)
        later = _later(first, protocol, place_rng, scanner_rng)
        new = _new(seed, index, number, lesion_rng, later, [le.deposit for le in lesions] + others)
        lesions = (_grown(growth_rng, lesions) if number <= visit else lesions) + new
        if number == visit:
            scene, noise_rng = later, later_noise_rng
    there = [number for number, lesion in enumerate(lesions) if lesion.since <= visit]
    scene = dataclasses.replace(scene, deposits=[lesions[n].deposit for n in there] + others)
    case = scan(scene, config, tissue_rng, noise_rng)
    instances = {there[deposit]: drawn for deposit, drawn in case.drawn_as.items() if deposit < len(there)}
    return Visit(case, [_record(n, lesion, visit, scene, instances.get(n)) for n, lesion in enumerate(lesions)])


def _later(first: Scene, protocol: str, place_rng: np.random.Generator, scanner_rng: np.random.Generator) -> Scene:
    scanner: Protocol = first.protocol
    if protocol:
        scanner = protocol_named(protocol, scanner_rng)
    subject = draw_visit(place_rng, first.subject, scanner)
    return dataclasses.replace(first, name=protocol or first.name, protocol=scanner, subject=subject)


def _grown(rng: np.random.Generator, lesions: list[_Lesion]) -> list[_Lesion]:
    grows, factors = rng.random(len(lesions)) < GROWING, rng.uniform(*GROWTH, len(lesions))
    return [
        dataclasses.replace(
            lesion,
            deposit=dataclasses.replace(lesion.deposit, axes=lesion.deposit.axes * (factor if grow else 1.0)),
            grown=bool(grow),
        )
        for lesion, grow, factor in zip(lesions, grows, factors, strict=True)
    ]


def _new(
    seed: int, index: int, visit: int, rng: np.random.Generator, scene: Scene, others: list[Deposit]
) -> list[_Lesion]:
    """The microbleeds that a visit's scan is the first to show; how many follows the golden-ratio sequence."""
    u = (np.random.default_rng([seed, STREAM, visit]).random() + index * (np.sqrt(5) - 1) / 2) % 1.0
    count = 0 if u >= WITH_NEW else Lesions(scene.protocol.lesions.diameters, NEW_COUNTS).count(u / WITH_NEW)

    def fits(centre: np.ndarray) -> bool:
        """Whether a place [3] in MNI mm is seen, and far enough from everything that was there before."""
        return in_view(scene.subject, centre) and all(
            np.linalg.norm(centre - other.centre) >= APART_MM for other in others
        )

    drawn = draw_microbleeds(rng, scene.subject.atlas, scene.protocol, count, fits)
    return [_Lesion(deposit, visit) for deposit in drawn]


def _record(number: int, lesion: _Lesion, visit: int, scene: Scene, instance: int | None) -> dict[str, Any]:
    grid = scene.subject.grid
    edge = scene.subject.mni_to_mm(lesion.deposit.centre[None])[0] / np.asarray(grid.spacing) + 0.5
    inside = bool(((edge >= 0) & (edge <= np.asarray(grid.shape))).all())
    if lesion.since > visit:
        status = ABSENT
    elif visit and lesion.since == visit:
        status = NEW
    else:
        status = GROWN if lesion.grown else STABLE
    return {
        "lesion": f"L{number + 1:02d}",
        "status": status,
        "instance": instance,
        "in_scan": inside,
        "centre": np.round(edge, 3).tolist(),
        "centre_lps_mm": np.round(grid.to_world(edge[None])[0], 3).tolist(),
        "diameter_mm": round(float(2 * np.prod(lesion.deposit.axes) ** (1 / 3)), 3),
    }


@dataclass(frozen=True)
class VisitRow:
    """A scan of a set.

    Attributes:
        subject: whose it is.
        visit: its number, from 0.
        case: its name.
        scans: a file per modality.
        record: file with its ``lesions`` and, as ``course``, those of its ``Visit``; not there where it was not made.
    """

    subject: str
    visit: int
    case: str
    scans: tuple[Path, ...]
    record: Path


def write_visits(root: Path, rows: Sequence[VisitRow]) -> None:
    """Writes ``visits.tsv``, the scans of each subject, and ``followup.tsv``, the truth about each lesion in each scan.

    Args:
        root: folder of the tables, to which the paths in them are relative.
        rows: all scans.
    """
    visits: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    for row in rows:
        known = {"subject": row.subject, "visit": row.visit, "case": row.case}
        visits.append(known | {"scan": ",".join(path.relative_to(root).as_posix() for path in row.scans)})
        if not row.record.exists():
            continue
        record = read_json(row.record)
        drawn = {lesion["instance"]: lesion for lesion in record["lesions"]}
        for lesion in record["course"]:
            x, y, z = lesion["centre_lps_mm"]
            seen = {name: drawn.get(lesion["instance"], {}).get(name) for name in ("cnr", "certainty")}
            ras = {"x_ras_mm": f"{0.0 - x:.3f}", "y_ras_mm": f"{0.0 - y:.3f}", "z_ras_mm": f"{z:.3f}"}
            truth.append(known | lesion | ras | seen | {"in_scan": int(lesion["in_scan"])})
    write_table(root / VISITS, ("subject", "visit", "case", "scan"), visits)
    write_table(root / TRUTH, TRUTH_COLUMNS, truth)
