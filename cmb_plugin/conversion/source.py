"""What a converter yields: cases of a source with their files, kind of label and metadata. Data only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

SPACES = ("voxel0", "voxel1", "ras", "lps")
"""How coordinates may be meant: voxel indices from 0 or from 1, or world mm with x to the right or to the left. All
are given in the order x, y, z of the file."""

Coordinates = tuple[float, ...]


@dataclass(frozen=True)
class MaskLabel:
    """Lesions drawn by voxel.

    Attributes:
        file: the mask.
        instances: each number is one lesion; otherwise each connected piece of a number is.
        connectivity: 6, 18 or 26 neighbours are connected, where pieces are lesions.
        classes: number in the mask -> class index; any other number is an error. Empty where all have class 0.
    """

    file: Path
    instances: bool = False
    connectivity: int = 26
    classes: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class PointLabel:
    """Lesions marked by a point each.

    Attributes:
        file: where the points come from, for messages.
        points: x, y, z of each.
        space: one of ``SPACES``.
        diameters: in mm, one per point, 0 where unknown; empty where no point has one.
        classes: class index per point; empty for class 0.
        certainty: ``definite`` or ``possible`` per point; empty where the source does not say.
    """

    file: Path
    points: tuple[Coordinates, ...]
    space: str
    diameters: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    certainty: tuple[str, ...] = ()


@dataclass(frozen=True)
class BoxLabel:
    """Lesions enclosed by a box each: ``x0, y0, z0, x1, y1, z1``.

    In voxels a box is half-open: voxel i covers [i, i + 1), so a lesion of one voxel has sides of 1.
    """

    file: Path
    boxes: tuple[Coordinates, ...]
    space: str
    classes: tuple[int, ...] = ()
    certainty: tuple[str, ...] = ()


@dataclass(frozen=True)
class Healthy:
    """The source says that there is no lesion."""


Label = MaskLabel | PointLabel | BoxLabel | Healthy


@dataclass(frozen=True)
class SourceCase:
    """One scan set of a source.

    Attributes:
        case_id: its name in the Task folder.
        images: one per modality, the reference first: an image file, or a folder with a DICOM series
            (``DIR#phase``, ``DIR#echo=2`` choose among several).
        label: its lesions; None for a scan without labels, which can only be a test scan.
        patient: who it is; several cases of one patient are never split.
        session: which visit.
        domain: site, cohort or protocol.
        split: ``Tr`` or ``Ts`` where the source decides; empty otherwise.
        metadata: further facts that a later step may need, for instance ``field_strength_t`` and ``echo_time_ms``.
        notes: what was odd, as sentences.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Label | None
    patient: str = ""
    session: str = ""
    domain: str = ""
    split: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something of the source that cannot be converted.

    Attributes:
        case_id: the case, as far as it has a name.
        file: where it is wrong.
        message: what is wrong, without the file.
        remedy: what to do about it.
    """

    case_id: str
    file: Path
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.message} - {self.remedy}"


@dataclass
class ConvertConfig:
    """Settings of every converter (``-o convert_cfg.*``).

    Attributes:
        modalities: names of the images to take, in this order; the first is the reference, on whose grid lesions are
            drawn. Empty takes the converter's own.
        connectivity: 6, 18 or 26: neighbours that are connected where pieces of a mask are the lesions.
        header_tolerance: files of equal shape whose corners differ by less than so many voxels get the reference's
            place; others are resampled by their headers.
        growth: how a point becomes a lesion: ``auto`` (into the dark, of QSM into the bright), ``dark``, ``bright``,
            or ``ball`` (no growing).
        most_mm: a grown lesion is at most so wide.
        ball_mm: diameter of the ball that is drawn where nothing stands out.
    """

    modalities: list[str] = field(default_factory=list)
    connectivity: int = 26
    header_tolerance: float = 0.5
    growth: str = "auto"
    most_mm: float = 10.0
    ball_mm: float = 3.0


class Converter:
    """Base of the data sets in ``tasks/``: one class per layout, which only says what lies where.

    Attributes:
        needs: the layout that it expects, for ``nndet_convert --list``.
        example: options of a command line that converts it.
        config_class: its settings.
        modalities: names of the images, the reference first; ``find`` may set it on the instance.
        classes: class names by index.
    """

    needs: ClassVar[str] = ""
    example: ClassVar[str] = ""
    config_class: ClassVar[type[ConvertConfig]] = ConvertConfig
    modalities: tuple[str, ...] = ("SWI",)
    classes: tuple[str, ...] = ("cmb",)

    def __init__(self, config: Any = None) -> None:
        self.config = config or self.config_class()
        if self.config.modalities:
            self.modalities = tuple(self.config.modalities)

    def find(self, source: Path) -> Iterator[SourceCase | Problem]:
        """Yields every case of ``source``, and what is wrong with those that cannot be used.

        Raises:
            UserError: the source as a whole is not what this converter needs.
        """
        raise NotImplementedError
