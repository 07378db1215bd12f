"""Scans to predict: listed from a folder, read, checked, and preprocessed in the background while the network works."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cmb_plugin.dataset import Case
from cmb_plugin.dataset.dataset import find_cases, image_files, split_modality
from cmb_plugin.errors import UserError
from cmb_plugin.images import SUFFIXES, Mapping, image_stem
from cmb_plugin.workers import Outcome, cases_ahead, run_cases

from .case import preprocess_case
from .reading import read_brain, read_images, scan_files, source_files
from .recipe import Preprocessing
from .storage import StoredCase, is_current, work_key

MOST_LABELS = 32
"""An image whose voxels have so few values, all whole numbers, is a mask or a map of labels."""


@dataclass(frozen=True)
class Scan:
    """One case, ready for ``predict_array``.

    Attributes:
        data: [C, Z, Y, X] float32, numpy or blosc2.
        mapping: the way from the scan's voxels to the array's.
        missing: channels of modalities that it does without: they hold 0.
        negative: share of the first channel's values, as the file has them and 0 left out, that are negative; None
            where it is missing or was prepared before.
    """

    data: Any
    mapping: Mapping
    missing: tuple[int, ...] = ()
    negative: float | None = None


@dataclass(frozen=True)
class ScanSource:
    """Where a case comes from.

    Attributes:
        case: its files.
        prepared: folder in which it is stored preprocessed; None to preprocess its files.
        tolerates_missing: whether the model tolerates missing modalities; otherwise they are an error.
        fetch: writes the case's files, where they are made from something else, such as DICOM; called before they are
            read, perhaps in another process.
        origin: what ``fetch`` makes them from.
        variant: what else decides what it makes.
    """

    case: Case
    prepared: Path | None = None
    tolerates_missing: bool = False
    fetch: Callable[[], object] | None = None
    origin: tuple[Path, ...] = ()
    variant: str = ""

    @classmethod
    def of(cls, case: Case, folder: Path, recipe: Preprocessing, tolerates_missing: bool = False) -> ScanSource:
        """Takes the case from ``folder`` if it is stored there, was made by ``recipe`` and its files have not changed.

        Where the scans themselves are not at hand, a stored case is taken as it is.
        """
        recipe = recipe.of_domain(case.domain)
        current = is_current(folder, case.case_id, work_key(source_files(case, recipe), recipe))
        stored = (folder / f"{case.case_id}.json").is_file()
        raw = any(path.is_file() for path in case.present)
        return cls(case, folder if current or (stored and not raw) else None, tolerates_missing)

    def key(self, recipe: Preprocessing) -> str:
        """A short text that changes when what the network will see may have changed."""
        if self.prepared is not None:
            try:
                stored = StoredCase.open(self.prepared, self.case.case_id)
            except UserError:
                return ""  # damaged: it is reported when it is read
            further = set(self.case.missing) - set(stored.missing)
            return f"{stored.key} without {sorted(further)}" if further else stored.key
        if self.fetch is not None:
            files = [path for path in self.origin if path.is_file()]
            return f"{work_key(files, recipe.of_domain(self.case.domain))} {self.variant}".rstrip()
        return work_key(scan_files(self.case, recipe), recipe.of_domain(self.case.domain))


def input_cases(folder: Path, n_modalities: int) -> list[Case]:
    """The cases in any folder of scans ``{case}_{modality:04d}.nii.gz``, sorted by name.

    For a model of one modality the number may be left out. A file without a number, where one is needed, makes a case
    whose images are missing, so that it is reported and not passed over.

    Raises:
        UserError: the folder is missing or holds no scan.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", remedy="name a folder of scans")
    cases = {case.case_id: case for case in find_cases(folder, n_modalities)}
    for path in image_files(folder):
        case_id, modality = split_modality(path)
        if modality is not None and (modality < n_modalities or case_id in cases):
            continue  # found already, or a further modality that the model does not know
        stem = str(image_stem(path))  # a name such as scan_2024 ends in four digits and has no modality
        images = (path,) if n_modalities == 1 else tuple(folder / f"{stem}_{m:04d}.nii.gz" for m in range(n_modalities))
        cases.setdefault(stem, Case(stem, images, raw=folder))
    if not cases:
        raise UserError(f"{folder}: holds no scan", remedy=f"scans are files ending in {', '.join(SUFFIXES)}")
    return [cases[case_id] for case_id in sorted(cases)]


def prepared_scans(
    sources: Sequence[ScanSource], recipe: Preprocessing, workers: int
) -> Generator[Outcome[ScanSource, Scan], None, None]:
    """Every case preprocessed, in the order of ``sources``; a case that cannot be read gives an outcome with an error.

    With ``workers`` > 0 cases are preprocessed in processes while the caller works on the one before. At most
    ``workers`` + 1 wait, as files in a temporary folder, so that only one scan is in memory here.
    """
    todo = sum(source.prepared is None for source in sources)
    if workers <= 0 or todo <= 1:
        for source in sources:
            yield run_cases(partial(_load, recipe=recipe), [source])[0]
        return
    with TemporaryDirectory(prefix="nndet_predict_") as scratch:
        save = partial(_save, recipe=recipe, scratch=Path(scratch))
        with closing(cases_ahead(save, sources, min(workers, todo))) as ahead:
            for outcome in ahead:
                if outcome.error:
                    yield outcome.failure_of(outcome.item)
                    continue
                if outcome.result is None:
                    yield run_cases(partial(_load, recipe=recipe), [outcome.item])[0]
                    continue
                path, scan = outcome.result
                # Read whole: tiles of a file in row order are scattered over it, and would be read from the disk again
                # and again where memory is too short to keep it cached.
                yield Outcome(outcome.item, result=replace(scan, data=np.load(path)))
                path.unlink()


def _load(source: ScanSource, recipe: Preprocessing) -> Scan:
    if source.prepared is not None:
        stored = StoredCase.open(source.prepared, source.case.case_id)
        missing = tuple(sorted({*stored.missing, *source.case.missing}))
        _check_missing(source, missing)
        if missing == stored.missing:
            return Scan(stored.data, stored.mapping, missing)
        data = stored.data[:]
        data[list(missing)] = 0
        return Scan(data, stored.mapping, missing)
    _check_missing(source, source.case.missing)
    if source.fetch is not None:
        source.fetch()
    images, grid = read_images(source.case)
    brain = read_brain(source.case, grid) if recipe.brain_channel is not None else None
    _check_is_scan(source.case, images)
    negative = None if 0 in source.case.missing else _negative(images[0, ::2, ::2, ::2])
    prepared = preprocess_case(images, grid, None, recipe.of_domain(source.case.domain), brain)
    return Scan(prepared.data, prepared.mapping, source.case.missing, negative)


def _check_is_scan(case: Case, images: np.ndarray) -> None:
    """Refuses masks and maps of labels, in whose edges a network finds lesions; their names often say nothing."""
    present = (number for number in range(len(images)) if number not in case.missing)
    for path, number in zip(case.present, present, strict=True):
        values = images[number, ::2, ::2, ::2]
        if (values == np.rint(values)).all() and 1 < len(found := np.unique(values)) <= MOST_LABELS:
            raise UserError(
                f"{path}: is a mask or map of labels, no scan: all its voxels are one of {len(found)} whole numbers",
                remedy="name the scan itself, or folders and patterns that leave masks out (--input, --channels)",
            )


def _negative(values: np.ndarray) -> float:
    """Share of finite values other than 0 that are negative."""
    sample = values[np.isfinite(values) & (values != 0)]
    return float((sample < 0).mean()) if sample.size else 0.0


def _check_missing(source: ScanSource, missing: Sequence[int]) -> None:
    if missing and not source.tolerates_missing:
        raise UserError(
            f"{source.case.images[missing[0]]}: the case does without it, the model needs it",
            remedy="predict with a model that can do without (docs/predictions.md)",
        )
    if len(missing) == len(source.case.images):
        raise UserError(f"{source.case.images[0]}: the case has no modality left", remedy="leave it out")


def _save(source: ScanSource, recipe: Preprocessing, scratch: Path) -> tuple[Path, Scan] | None:
    """Preprocesses a case into a file of ``scratch``, beside which the scan has no data; nothing to do for a case that
    is prepared."""
    if source.prepared is not None:
        return None
    scan = _load(source, recipe)
    path = scratch / f"{source.case.case_id}.npy"
    np.save(path, scan.data)
    return path, replace(scan, data=None)
