"""One phantom from seed to images: ``make_case``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from cmb_plugin.images.grid import Grid

from .anatomy import Atlas, load_atlas
from .background import Head, build_background
from .deposits import Deposit, draw_air_cells, draw_calcifications, draw_iron, draw_microbleeds
from .findings import draw_findings
from .head_atlas import load_head_atlas
from .insertion import insert
from .labelled import AnatomyFiles, HeadTraits
from .measure import measure
from .outline import largest_piece, outline
from .protocols import DRAWN, Protocol
from .records import air_records, blob_record, label_maps, lesion_record, vessel_record
from .scanners import describe, protocol_named
from .sources import Blob, Vessel
from .subject import Subject, draw_subject
from .vessel_path import VesselPath
from .vessels import draw_vessels


@dataclass(frozen=True)
class PhantomConfig:
    """What a set of phantoms is made of.

    Attributes:
        protocols: names from ``PROTOCOLS``, or ``random``; cases take them in turn.
        modalities: names from ``MODALITIES``; lesions are outlined on the first.
        classes: ``("cmb",)``, or ``("cmb", "iron")`` to make the iron of the pallida lesions instead of mimics.
        anatomy: a labelled head; None for the MNI152 template.
        lesions: mean number of microbleeds of a case that has any; 0 for as many as in the protocol's cohort.
    """

    protocols: tuple[str, ...] = ("demo",)
    modalities: tuple[str, ...] = ("swi", "phase")
    classes: tuple[str, ...] = ("cmb",)
    anatomy: AnatomyFiles | None = None
    lesions: int = 0


@dataclass
class PhantomCase:
    """A phantom. Arrays are [z, y, x] on ``grid``.

    Attributes:
        grid: the scan's grid.
        protocol: name of the protocol.
        images: by modality: swi, t2s, t2 int16 in arbitrary units; phase float32 in radians; qsm float32 in ppm.
        mask: uint16 instance mask, 1..N.
        classes: class index of every instance.
        lesions: a dictionary per instance, as in ``lesionsTr/{case}.json``.
        mimics: a dictionary per mimic, as in ``mimicsTr/{case}.json``.
        regions: uint8: 1 lobar, 2 deep, 3 infratentorial.
        brain: uint8.
        scanner: what was drawn for a scan of the protocol ``random``; empty for the others.
        drawn_as: number of a deposit in the scene -> instance that it is drawn as.
        anatomy: which labelled head, and the subject's traits; empty for the template.
    """

    grid: Grid
    protocol: str
    images: dict[str, np.ndarray]
    mask: np.ndarray
    classes: dict[int, int]
    lesions: list[dict[str, Any]]
    mimics: list[dict[str, Any]]
    regions: np.ndarray
    brain: np.ndarray
    scanner: dict[str, Any] = field(default_factory=dict)
    drawn_as: dict[int, int] = field(default_factory=dict)
    anatomy: dict[str, Any] = field(default_factory=dict)


def healthy_cases(cases: int, fraction: float, kinds: int = 1) -> frozenset[int]:
    """Which of ``cases`` cases have no lesion: exactly the rounded share, evenly spread over the set and over the
    ``kinds`` of case (protocols) that it holds in turn."""
    healthy = int(fraction * cases + 0.5)
    chosen: set[int] = set()
    of_kind = [0] * kinds
    for first in range(0, cases, kinds):
        turn = range(first, min(first + kinds, cases))
        due = turn.stop * healthy // cases - len(chosen)
        for case in sorted(turn, key=lambda case: (of_kind[case % kinds], -case))[:due]:
            chosen.add(case)
            of_kind[case % kinds] += 1
    return frozenset(chosen)


def make_case(seed: int, index: int, config: PhantomConfig, *, healthy: bool = False) -> PhantomCase:
    """Simulates one subject. Pure: no files, no global state; the same arguments give the same arrays.

    Args:
        seed: of the whole set.
        index: number of the case in the set; chooses the protocol and, with the seed, every random number.
        config: of the whole set.
        healthy: draw no microbleed.
    """
    scene, tissue_rng, noise_rng = draw_scene(seed, index, config, healthy=healthy)
    return scan(scene, config, tissue_rng, noise_rng)


@dataclass(frozen=True)
class Scene:
    """A subject in a scanner and what there is in its head, in MNI space.

    Attributes:
        name: of the protocol.
        protocol: the scanner.
        subject: the head in it.
        vessels: of the head.
        deposits: compact sources; the microbleeds come first.
    """

    name: str
    protocol: Protocol
    subject: Subject
    vessels: list[VesselPath]
    deposits: list[Deposit]

    @property
    def microbleeds(self) -> list[Deposit]:
        """The first deposits."""
        return [deposit for deposit in self.deposits if deposit.kind == "cmb"]


def draw_scene(
    seed: int, index: int, config: PhantomConfig, *, healthy: bool = False
) -> tuple[Scene, np.random.Generator, np.random.Generator]:
    """What ``make_case`` scans, with the random numbers of the tissue and of the noise."""
    name = config.protocols[index % len(config.protocols)]
    # A stream per part, so that one more number drawn for the vessels leaves the noise as it was.
    streams = (np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(9))
    subject_rng, vessel_rng, deposit_rng, tissue_rng, noise_rng, lesion_rng, scanner_rng, finding_rng, head_rng = (
        streams
    )
    protocol = protocol_named(name, scanner_rng)
    subject = draw_subject(subject_rng, protocol, _atlas(config, head_rng))
    vessels = draw_vessels(vessel_rng, subject.atlas, protocol.vessels)
    count = 0 if healthy else _count(seed, index, protocol, config.lesions)
    deposits = _draw_deposits(lesion_rng, deposit_rng, subject, protocol, count)
    if protocol.findings:
        compact, paths = draw_findings(finding_rng, subject.atlas, protocol.findings)
        bleeds = [d for d in deposits if d.kind == "cmb"]
        deposits += [d for d in compact if all(np.linalg.norm(d.centre - m.centre) > d.axes.max() + 5 for m in bleeds)]
        vessels += paths
    return Scene(name, protocol, subject, vessels, deposits), tissue_rng, noise_rng


def _atlas(config: PhantomConfig, rng: np.random.Generator) -> Atlas:
    return load_head_atlas(config.anatomy, HeadTraits.draw(rng)) if config.anatomy else load_atlas()


def scan(
    scene: Scene,
    config: PhantomConfig,
    tissue_rng: np.random.Generator,
    noise_rng: np.random.Generator,
    head: Head | None = None,
) -> PhantomCase:
    """Simulates the scan of a scene; its ``head`` where other scans have it already (``several.make_scans``)."""
    protocol, subject = scene.protocol, scene.subject
    vessels = vessels_in_scan(scene.vessels, subject)
    qsm, t2 = "qsm" in config.modalities, "t2" in config.modalities
    background = (
        build_background(tissue_rng, subject, protocol, vessels, want_susceptibility=qsm, want_spin_echo=t2)
        if head is None
        else head.background(protocol, want_susceptibility=qsm, want_spin_echo=t2)
    )
    blobs = [_in_scan(deposit, subject) for deposit in scene.deposits]
    insertions = [i for i in (insert(b, background, protocol, subject.main_field) for b in blobs) if i is not None]
    brain, regions = label_maps(subject, background)
    images, patches = measure(noise_rng, subject, protocol, config.modalities, background, insertions, brain)

    mask = np.zeros(protocol.shape, np.uint16)
    numbers = {id(blob): number for number, blob in enumerate(blobs)}
    drawn_as: dict[int, int] = {}
    lesions: list[dict[str, Any]] = []
    mimics: list[dict[str, Any]] = []
    for patch in patches:
        drawn = outline(patch, config.modalities[0], protocol.spacing)
        if drawn.blob.kind not in config.classes:
            mimics.append(blob_record(drawn, subject.grid))
            continue
        free = largest_piece(drawn.voxels & (mask[drawn.box] == 0))
        if not free.any():
            continue  # wholly inside another lesion's outline: nobody could tell them apart
        drawn.voxels = free
        lesions.append(lesion_record(len(lesions) + 1, drawn, subject.grid, regions))
        drawn_as[numbers[id(drawn.blob)]] = len(lesions)
        mask[drawn.box][free] = len(lesions)
    labelled = vessels_in_scan(list(subject.atlas.veins or ()), subject)
    records = (vessel_record(v, subject.grid) for v in [*labelled, *vessels] if v.kind != "sinus")
    mimics += [record for record in records if record]
    mimics += air_records(subject, brain)
    classes = {lesion["instance"]: config.classes.index(lesion["class"]) for lesion in lesions}
    scanner = describe(protocol) if scene.name in DRAWN else {}
    anatomy = subject.atlas.head.record() if subject.atlas.head else {}
    return PhantomCase(
        subject.grid, scene.name, images, mask, classes, lesions, mimics, regions, brain, scanner, drawn_as, anatomy
    )


def _count(seed: int, index: int, protocol: Protocol, mean: int) -> int:
    """Number of microbleeds of a positive case. The quantiles of a set's cases follow the golden-ratio sequence, so
    that a small set already shows the whole distribution."""
    offset = np.random.default_rng([seed, 0xC0]).random()
    return protocol.lesions.count((offset + index * (np.sqrt(5) - 1) / 2) % 1.0, mean)


def _draw_deposits(
    lesion_rng: np.random.Generator, rng: np.random.Generator, subject: Subject, protocol: Protocol, count: int
) -> list[Deposit]:
    microbleeds = draw_microbleeds(lesion_rng, subject.atlas, protocol, count, partial(in_view, subject))
    others = draw_calcifications(rng, subject.atlas) + draw_air_cells(rng, subject.atlas)
    apart = [d for d in others if all(np.linalg.norm(d.centre - m.centre) > 6 for m in microbleeds)]
    return microbleeds + draw_iron(rng, subject.atlas) + apart


def in_view(subject: Subject, centre: np.ndarray) -> bool:
    """Whether a place [3] in MNI mm lies in the field of view."""
    voxel = subject.mni_to_mm(centre[None])[0] / np.asarray(subject.grid.spacing)
    return bool(((voxel > 0) & (voxel < np.asarray(subject.grid.shape) - 1)).all())


def vessels_in_scan(drawn: list[VesselPath], subject: Subject) -> list[Vessel]:
    """The vessels of a head at their places in its scan."""
    if not drawn:
        return []
    paths = np.split(
        subject.mni_to_mm(np.concatenate([v.path for v in drawn])), np.cumsum([len(v.path) for v in drawn])[:-1]
    )
    return [Vessel(v.kind, path, v.radius, v.ppm, v.site) for v, path in zip(drawn, paths, strict=True)]


def _in_scan(deposit: Deposit, subject: Subject) -> Blob:
    """The deposit at its place in the scan; its shape is turned with the head, not stretched."""
    ends = np.stack([deposit.centre, *(deposit.centre + row for row in deposit.rotation)])
    centre, *tips = subject.mni_to_mm(ends)
    rotation, _ = np.linalg.qr((np.stack(tips) - centre).T)
    return Blob(
        deposit.kind,
        centre,
        deposit.axes,
        rotation.T,
        deposit.ppm,
        deposit.density,
        deposit.decay,
        deposit.site,
        deposit.softness,
    )
