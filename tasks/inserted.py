"""``InsertedTask``: microbleeds put into somebody's own scans without any, as a Task folder."""

from __future__ import annotations

import functools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.anatomy import Atlas, atlas_regions, read_atlas
from cmb_plugin.dataset import image_files, split_modality, write_dataset
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, image_stem, read_mask, read_stored, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.phantom import (
    ExampleOptions,
    ExampleReport,
    ExampleTask,
    MeasuredScan,
    healthy_cases,
    place_lesions,
    resolve_modalities,
)
from cmb_plugin.plugins import register_task
from cmb_plugin.preparation import estimate_brain, to_radians
from cmb_plugin.workers import keep_freed_memory, run_cases

KNOWN = ("swi", "t2s", "phase")
BRAINS = "brain"
"""Folder beside the scans that may hold their brain masks, named as the scans without their number."""

TISSUE = 0.35
"""Of the scan's 90th percentile: brighter voxels are tissue where no brain can be told, as in a block cut from one."""


@dataclass(frozen=True)
class InsertedSettings:
    """Everything that decides what the folder holds; kept in dataset.json under ``inserted``.

    Attributes:
        folder: where the scans lie.
        train, test: names of the scans of each split.
    """

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    modalities: tuple[str, ...]
    healthy: float
    copies: int
    mimics: float
    field_tesla: float
    echo_ms: float
    seed: int
    lesions: int = 0

    @property
    def cases(self) -> list[tuple[str, int]]:
        """Split and number of every case, the training cases first."""
        train, test = (self.copies * len(names) for names in (self.train, self.test))
        return [("Tr", i) for i in range(train)] + [("Ts", i) for i in range(train, train + test)]

    def scan(self, number: int) -> str:
        """The scan that case ``number`` is made of."""
        return (*self.train, *self.test)[number // self.copies]

    def case_id(self, number: int) -> str:
        """Name of case ``number``: that of its scan, and which copy it is."""
        return self.scan(number) + (f"_c{number % self.copies}" if self.copies > 1 else "")

    def to_json(self) -> dict[str, Any]:
        """Plain data by which a later call knows whether the cases are the same."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        if not self.lesions:  # folders made before this could be asked for say nothing of it
            del plain["lesions"]
        return plain


@register_task
class InsertedTask(ExampleTask):
    """Microbleeds put into measured scans (docs/phantom.md)."""

    folder = "Task102_Inserted"

    def settings(self, options: ExampleOptions) -> InsertedSettings:
        """Finds the scans and divides them.

        Raises:
            UserError: no folder, no scan, a modality that lesions cannot be put into, or a number out of range.
        """
        if not options.into:
            raise UserError("--kind inserted: into which scans?", remedy="name their folder: --into DIR")
        if options.anatomy:
            raise UserError(
                "--anatomy with --into: measured scans bring their own heads", remedy="leave one of both out"
            )
        folder = Path(options.into).resolve()
        for name, number, low in (
            ("healthy", options.healthy, 0.0),
            ("mimics", options.mimics, 0.0),
            ("copies", options.copies, 1),
            ("seed", options.seed, 0),
            ("field", options.field_tesla, 0.1),
            ("echo", options.echo_ms, 0.1),
        ):
            if number < low:
                raise UserError(f"--{name} {number:g}: too small", remedy=f"give a number from {low:g}")
        scans = _scans(folder)
        modalities = _modalities(options.modalities, folder, scans)
        names = sorted(scans)
        subjects = sorted({_subject(name) for name in names})
        apart = set(subjects[len(subjects) - (options.test or 0) :]) if options.test else set()
        test = [name for name in names if _subject(name) in apart]
        train = [name for name in names if _subject(name) not in apart][: options.train]
        if not train and not test:
            raise UserError(f"--train {options.train} --test {options.test}: no case to make", remedy="ask for one")
        return InsertedSettings(
            str(folder),
            tuple(train),
            tuple(test),
            modalities,
            options.healthy,
            options.copies,
            options.mimics,
            options.field_tesla,
            options.echo_ms,
            options.seed,
            options.lesions,
        )

    def write(
        self, task: TaskFolder, settings: InsertedSettings, *, workers: int = 0, overwrite: bool = False
    ) -> ExampleReport:
        """Makes the cases that are not there yet.

        Raises:
            UserError: the folder holds something else, and ``overwrite`` does not say that it may go.
        """
        definition = task.root / "dataset.json"
        if task.root.exists() and any(task.root.iterdir()):
            found = read_json(definition).get("inserted") if definition.exists() else None
            if found is None or (found != settings.to_json() and not overwrite):
                what = "another data set" if found is None else "cases made with other settings"
                raise UserError(
                    f"{task.root}: holds {what}",
                    remedy="choose another --task" + (", or add --overwrite" if found else ""),
                )
            if found != settings.to_json():
                shutil.rmtree(task.root)
        names = [settings.case_id(number) for _, number in settings.cases]
        write_dataset(
            task,
            name="Inserted",
            modalities=[name.upper() for name in settings.modalities],
            classes=("cmb",),
            test_labels=True,
            target_class=0,
            session_id={name: _subject(settings.scan(i)) for i, name in enumerate(names)},
            inserted=settings.to_json(),
        )
        missing = [
            (split, i)
            for split, i in settings.cases
            if not task.extra("lesions", split).joinpath(f"{settings.case_id(i)}.json").exists()
        ]
        work = functools.partial(_write_case, task, settings)
        outcomes = run_cases(work, missing, workers=workers, description="Scans with lesions put in")
        return ExampleReport(task, outcomes, len(settings.cases) - len(missing))


def _scans(folder: Path) -> dict[str, dict[int, Path]]:
    """Case -> number of the modality -> file."""
    if not folder.is_dir():
        raise UserError(f"--into {folder}: no such folder", remedy="name a folder of scans without microbleeds")
    scans: dict[str, dict[int, Path]] = {}
    for path in image_files(folder):
        case, number = split_modality(path)
        scans.setdefault(case, {}).setdefault(number or 0, path)
    if not scans:
        raise UserError(f"--into {folder}: holds no scan", remedy="put NIfTI, MHA or NRRD files there")
    return scans


def _modalities(wanted: str | None, folder: Path, scans: dict[str, dict[int, Path]]) -> tuple[str, ...]:
    """Names of the numbered files; where the options name none, SWI, with a second file its phase."""
    files = sorted({tuple(sorted(numbers)) for numbers in scans.values()})
    names = resolve_modalities(wanted or ",".join(("swi", "phase")[: len(files[0])]))
    odd = [name for name in names if name not in KNOWN]
    if odd or names[0] == "phase":
        raise UserError(
            f"--modalities {','.join(names)}: lesions can be put into {', '.join(KNOWN)}, a magnitude first",
            remedy="name what the files _0000, _0001, ... are, for instance --modalities t2s,phase",
        )
    for case, numbers in sorted(scans.items()):
        if sorted(numbers) != list(range(len(names))):
            raise UserError(
                f"{folder / case}: {len(numbers)} files for the modalities {', '.join(names)}",
                remedy="name files {case}_0000, {case}_0001, ... in the order of --modalities",
            )
    return names


def _subject(case: str) -> str:
    """The subject that a scan's name tells (``sub-01`` of BIDS), else the scan itself."""
    match = re.match(r"sub-[A-Za-z0-9]+", case)
    return match[0] if match else case


def _sidecar(path: Path) -> dict[str, Any]:
    """What BIDS's JSON file beside a scan says; {} without one."""
    beside = path.with_name(f"{image_stem(path)}.json")
    content = read_json(beside) if beside.is_file() else {}
    return content if isinstance(content, dict) else {}


@functools.lru_cache(maxsize=1)
def _atlas() -> Atlas:
    return read_atlas("builtin")


def read_measured(settings: InsertedSettings, name: str) -> tuple[MeasuredScan, dict[str, Any]]:
    """The scan with this name, and the number types of its files by modality.

    Raises:
        UserError: a file cannot be read, its grid is another, its magnitude is negative, or its phase is in no known
            unit.
    """
    files = _scans(Path(settings.folder))[name]
    images: dict[str, np.ndarray] = {}
    types: dict[str, Any] = {}
    grid: Grid | None = None
    for number, modality in enumerate(settings.modalities):
        stored, own = read_stored(files[number])
        if grid is not None and not own.same_as(grid):
            raise UserError(f"{files[number]}: lies on another grid than {files[0].name}", remedy="resample it")
        grid = grid or own
        types[modality] = np.dtype(np.float32) if modality == "phase" else stored.dtype
        image = np.nan_to_num(stored.astype(np.float32), posinf=0, neginf=0)
        if modality == "phase":
            image = to_radians(image)
        elif image.min() < 0 or not image.any():
            raise UserError(f"{files[number]}: is no magnitude", remedy="it must be positive, and dark where air is")
        images[modality] = image
    assert grid is not None
    sidecar = _sidecar(files[0])
    echo = 1000 * float(sidecar["EchoTime"]) if "EchoTime" in sidecar else settings.echo_ms
    field = float(sidecar.get("MagneticFieldStrength", settings.field_tesla))
    magnitude = images[settings.modalities[0]]
    brain, whole = _brain(Path(settings.folder), name, magnitude, grid)
    regions = None
    if whole:
        found = atlas_regions(magnitude, grid, _atlas(), brain)
        # Group codes count lobar, deep, infratentorial from 0, and other things after them.
        codes = found.group_codes()
        regions = np.where(codes < 3, codes + 1, 0).astype(np.uint8) if found.trusted else None
    return MeasuredScan(grid, images, brain, regions, field, echo), types


def _brain(folder: Path, name: str, magnitude: np.ndarray, grid: Grid) -> tuple[np.ndarray, bool]:
    """The brain, and whether it is one: a block cut from one has tissue alone."""
    for path in image_files(folder / BRAINS):
        if image_stem(path) == name:
            mask, own = read_mask(path)
            if not own.same_as(grid):
                raise UserError(f"{path}: lies on another grid than its scan", remedy="resample it")
            return mask > 0, True
    brain = estimate_brain(magnitude, grid.spacing)
    if brain is not None:
        return brain, True
    return magnitude > TISSUE * np.percentile(magnitude[magnitude > 0], 90), False


def _write_case(task: TaskFolder, settings: InsertedSettings, place: tuple[str, int]) -> int:
    """Makes and writes one case; its lesion file comes last and marks it as finished."""
    keep_freed_memory()
    split, number = place
    source, name = settings.scan(number), settings.case_id(number)
    scan, types = read_measured(settings, source)
    first = 0 if split == "Tr" else settings.copies * len(settings.train)
    cases = settings.copies * len(settings.train if split == "Tr" else settings.test)
    case = place_lesions(
        np.random.default_rng([settings.seed, number]),
        scan,
        settings.modalities[0],
        healthy=number - first in healthy_cases(cases, settings.healthy),
        mimics=settings.mimics,
        mean=settings.lesions,
    )
    for index, modality in enumerate(settings.modalities):
        image = _as_stored(case.images[modality], types[modality])
        write_image(task.images(split) / f"{name}_{index:04d}.nii.gz", image, scan.grid)
    write_image(task.labels(split) / f"{name}.nii.gz", case.mask, scan.grid)
    classes = {str(lesion["instance"]): 0 for lesion in case.lesions}
    write_json(task.labels(split) / f"{name}.json", {"instances": classes})
    write_image(task.extra("brain", split) / f"{name}.nii.gz", scan.brain.astype(np.uint8), scan.grid)
    if scan.regions is not None:
        write_image(task.extra("regions", split) / f"{name}.nii.gz", scan.regions, scan.grid)
    write_json(task.extra("mimics", split) / f"{name}.json", {"mimics": case.mimics})
    record = {"source": source, "field_tesla": scan.field_tesla, "echo_ms": scan.echo_ms, "lesions": case.lesions}
    write_json(task.extra("lesions", split) / f"{name}.json", record)
    return len(case.lesions)


def _as_stored(image: np.ndarray, kind: np.dtype[Any]) -> np.ndarray:
    """``image`` in the number type of the file that it came from."""
    if kind.kind not in "iu":
        return image
    limits = np.iinfo(kind)
    return np.clip(np.round(image), limits.min, limits.max).astype(kind)
