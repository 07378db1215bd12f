"""``Dataset``: what dataset.json says; ``Case``: the files of one scan set; ``Labels``: a mask and its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import SUFFIXES, Grid, image_stem, read_mask
from cmb_plugin.paths import TaskFolder

SPLITS = ("Tr", "Ts")
DEFINITION_FILES = ("dataset.json", "dataset.yaml", "dataset.yml")
ANNOTATION_STYLES = ("seg", "weak")
REGIONS = ("lobar", "deep", "infratentorial")
"""What the numbers 1, 2 and 3 in ``regionsTr`` mean where dataset.json does not say."""


@dataclass(frozen=True)
class Labels:
    """The instance mask of a case and the class of every instance.

    Attributes:
        mask: int32 [z, y, x], 0 for background.
        classes: instance number -> class index, for the instances that have voxels, ascending.
        grid: grid of the mask.
    """

    mask: np.ndarray
    classes: dict[int, int]
    grid: Grid


@dataclass(frozen=True)
class Case:
    """The files of one case.

    Attributes:
        case_id: name without modality number and ending.
        images: one path per modality, in the dataset's order; where the file belongs, even if it is missing.
        label: instance mask, None when there is none.
        classes_file: JSON with the class of every instance, None when there is none.
        split: ``Tr`` or ``Ts``; empty for a scan that belongs to no Task folder.
        raw: the folder of ``imagesTr``, ``labelsTr`` and their optional neighbours.
        missing: indices into ``images`` of the modalities that the case does without, whether a file is there or not.
        domain: site, scanner or protocol; empty where nobody says.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    classes_file: Path | None = None
    split: str = ""
    raw: Path = Path()
    missing: tuple[int, ...] = ()
    domain: str = ""

    @property
    def present(self) -> tuple[Path, ...]:
        """The paths of the modalities that the case does not do without."""
        return tuple(path for number, path in enumerate(self.images) if number not in self.missing)

    def extra(self, kind: str) -> Path | None:
        """The case's file in an optional folder: ``mimics``, ``lesions``, ``regions``, ``brain`` or ``judged``; None
        without it."""
        return _existing(self.raw / f"{kind}{self.split}", self.case_id, (".json", *SUFFIXES))

    @property
    def judged(self) -> Path | None:
        """Mask of the places that somebody has judged, ``judgedTr/{case}.nii.gz``; None where that is the whole scan.
        Elsewhere an unlabelled voxel is not background: nobody has looked."""
        path = self.extra("judged") if self.split else None
        return None if path is None or path.suffix == ".json" else path

    def read_labels(self, n_classes: int | None = None) -> Labels:
        """Reads the instance mask and the classes of its instances.

        Args:
            n_classes: number of classes of the dataset, to refuse others.

        Raises:
            UserError: the case has no label, a file is unreadable, or an instance has no (known) class.
        """
        if self.label is None:
            where = self.raw / f"labels{self.split}"
            remedy = f"add {where / self.case_id}.nii.gz; a healthy case has an empty mask"
            raise UserError(f"{self.images[0]}: case {self.case_id} has no label", remedy=remedy)
        mask, grid = read_mask(self.label)
        if mask.min(initial=0) < 0:
            raise UserError(f"{self.label}: holds negative numbers", remedy="number lesions 1, 2, ... on background 0")
        listed = {} if self.classes_file is None else read_classes(self.classes_file, n_classes)
        instances = np.unique(mask[mask > 0]).tolist()
        missing = [number for number in instances if number not in listed]
        if missing:
            raise UserError(
                f"{self.label}: instance {missing[0]} has no class in {self.case_id}.json",
                remedy=f'add "{missing[0]}" under "instances" in {self.label.parent / self.case_id}.json',
            )
        return Labels(mask, {number: listed[number] for number in instances}, grid)


@dataclass(frozen=True)
class Dataset:
    """A Task folder: what its dataset.json or dataset.yaml says, and its cases.

    Attributes:
        task: the folder.
        name: the data set's name.
        modalities: names in the order of the file numbers ``_0000``, ``_0001``, ...
        classes: names by class index from 0.
        test_labels: whether the test cases are labelled.
        target_class: class index of most interest, None for all alike.
        annotation_style: ``seg`` where masks were drawn by voxel, ``weak`` where they were made from points, boxes or
            judged candidates (``Case.judged``).
        session_id: case -> patient, for the cases that have other sessions; those are never split.
        domain: case -> site, scanner or protocol, as the data set says; where ``nndet_prep`` derived domains, those.
        weak_cases: where masks were made from points or boxes in some cases only, those; otherwise empty.
        regions: names of the numbers 1, 2, ... in ``regionsTr``; 0 is outside of all.
        missing: case -> numbers of the modalities that it does without.
    """

    task: TaskFolder
    name: str
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    test_labels: bool = False
    target_class: int | None = None
    annotation_style: str = "seg"
    session_id: dict[str, str] = field(default_factory=dict)
    domain: dict[str, str] = field(default_factory=dict)
    weak_cases: frozenset[str] = frozenset()
    regions: tuple[str, ...] = REGIONS
    missing: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, task: TaskFolder) -> Dataset:
        """Reads ``dataset.json``, or ``dataset.yaml`` where there is none.

        Raises:
            UserError: there is neither, or an entry is missing or wrong; the file and the entry are named.
        """
        from .domains import read_derived  # folders of scans have none

        path = definition_file(task)
        data = read_definition(path)
        if not isinstance(data, dict):
            raise UserError(f"{path}: is no set of entries", remedy='write at least "modalities" and "labels"')
        if data.get("dim", 3) != 3:
            raise UserError(f"{path}: dim is {data['dim']!r}", remedy="only 3D scans are supported: set dim to 3")
        modalities = _numbered(path, data, ("modalities", "modality"), '{"0": "swi"}')
        classes = _numbered(path, data, ("labels",), '{"0": "cmb"}')
        if classes[0].lower() == "background":  # nnU-Net's numbers: all lesions would be of that class
            remedy = "leave background out of labels and number the classes of lesions from 0"
            raise UserError(f"{path}: label 0 is {classes[0]}, as nnU-Net has it", remedy=remedy)
        target = data.get("target_class")
        if target is not None and not (_is_int(target) and 0 <= target < len(classes)):
            remedy = f"give null or a class index from 0 to {len(classes) - 1}"
            raise UserError(f"{path}: target_class is {target!r}", remedy=remedy)
        test_labels = data.get("test_labels", False)
        if not isinstance(test_labels, bool):
            raise UserError(f"{path}: test_labels is {test_labels!r}", remedy="give true or false")
        derived = read_derived(task)
        style = data.get("annotation_style", "seg")
        if style not in ANNOTATION_STYLES:
            raise UserError(f"{path}: annotation_style is {style!r}", remedy=f"give {' or '.join(ANNOTATION_STYLES)}")
        sessions, domains = data.get("session_id") or {}, data.get("domain") or {}
        for key, entry, value in (("session_id", sessions, "patient"), ("domain", domains, "site")):
            if not isinstance(entry, dict):
                raise UserError(f"{path}: {key} is {entry!r}", remedy=f'write {{"case": "{value}", ...}}')
        weak = data.get("weak_cases") or []
        if not isinstance(weak, list):
            raise UserError(f"{path}: weak_cases is {weak!r}", remedy='write ["case", ...]')
        return cls(
            task,
            name=str(data.get("name") or task.name),
            modalities=modalities,
            classes=classes,
            test_labels=test_labels,
            target_class=target,
            annotation_style=style,
            session_id={str(case): str(patient) for case, patient in sessions.items()},
            domain=derived if derived is not None else {str(case): str(name) for case, name in domains.items()},
            weak_cases=frozenset(str(case) for case in weak),
            regions=_regions(path, data),
            missing=_missing(path, data.get("missing") or {}, modalities),
        )

    def is_weak(self, case_id: str) -> bool:
        """Whether the case's mask was made from points or boxes, so that its outline is nobody's judgement."""
        return self.annotation_style == "weak" and (not self.weak_cases or case_id in self.weak_cases)

    def cases(self, split: str) -> list[Case]:
        """The cases of ``Tr`` or ``Ts`` that have an image of any modality, sorted by name."""
        found = find_cases(self.task.images(split), len(self.modalities), split)
        missing, domain = self.missing, self.domain
        return [replace(c, missing=missing.get(c.case_id, ()), domain=domain.get(c.case_id, "")) for c in found]

    def patients(self, case_ids: Sequence[str]) -> dict[str, str]:
        """Case -> patient; a case without ``session_id`` is a patient of its own."""
        return {case: self.session_id.get(case, case) for case in case_ids}


def find_cases(images: Path, n_modalities: int, split: str = "") -> list[Case]:
    """The cases in a folder of images ``{case}_{modality:04d}.nii.gz``, sorted by name.

    Args:
        images: the folder; one that does not exist holds no case.
        n_modalities: files with a higher number are passed over.
        split: labels are looked for beside ``images``, in ``labels{split}``; empty for a folder without labels.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in image_files(images):
        case_id, modality = split_modality(path)
        if modality is not None and modality < n_modalities:
            found.setdefault(case_id, {}).setdefault(modality, path)
    labels = images.parent / f"labels{split}"
    cases = []
    for case_id, files in sorted(found.items()):
        suffix = next(iter(files.values())).name.removeprefix(case_id)[5:]
        paths = (files.get(m, images / f"{case_id}_{m:04d}{suffix}") for m in range(n_modalities))
        label = _existing(labels, case_id, SUFFIXES) if split else None
        classes_file = _existing(labels, case_id, (".json",)) if split else None
        cases.append(Case(case_id, tuple(paths), label, classes_file, split, images.parent))
    return cases


def image_files(folder: Path) -> list[Path]:
    """The image files in ``folder`` by name, of two endings the one that stands first in ``SUFFIXES`` first."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if image_stem(path) is not None and not path.name.startswith("."))
    return sorted(files, key=lambda path: (image_stem(path), _suffix_rank(path)))


def split_modality(path: Path) -> tuple[str, int | None]:
    """Case and modality number of an image's name; the number is None when the name ends in none."""
    stem = image_stem(path) or path.name
    match = re.fullmatch(r"(.+)_(\d{4})", stem)
    return (match[1], int(match[2])) if match else (stem, None)


def definition_file(task: TaskFolder) -> Path:
    """dataset.json, or its YAML form.

    Raises:
        UserError: the folder has neither.
    """
    for name in DEFINITION_FILES:
        if (task.root / name).is_file():
            return task.root / name
    remedy = 'write it as nnDetection does, with "modalities" and "labels"'
    raise UserError(f"{task.root / DEFINITION_FILES[0]}: no such file", remedy=remedy)


def read_classes(path: Path, n_classes: int | None = None) -> dict[int, int]:
    """Reads a case's class file: ``{"instances": {"1": 0}}``, for a healthy case ``{"instances": {}}`` or ``{}``.

    Returns:
        instance number -> class index, ascending.

    Raises:
        UserError: the file is unreadable, or an instance or class is no number or out of range.
    """
    data = read_json(path)
    instances = data.get("instances", {}) if isinstance(data, dict) else None
    if not isinstance(instances, dict):
        raise UserError(f"{path}: has no set of instances", remedy='write {"instances": {"1": 0}}, number: class index')
    classes = {}
    for number, label in instances.items():
        if not (str(number).isdecimal() and int(number) > 0):
            raise UserError(f"{path}: instance '{number}' is no positive number", remedy="number the lesions 1, 2, ...")
        if not _is_int(label) or label < 0 or (n_classes is not None and label >= n_classes):
            known = "0, 1, ..." if n_classes is None else ", ".join(str(i) for i in range(n_classes))
            remedy = f"give a class index, as under labels in dataset.json: {known}"
            raise UserError(f"{path}: instance {number} has class {label!r}", remedy=remedy)
        classes[int(number)] = label
    return dict(sorted(classes.items()))


def write_dataset(
    task: TaskFolder,
    *,
    modalities: Sequence[str],
    classes: Sequence[str],
    name: str = "",
    task_name: str = "",
    test_labels: bool = False,
    target_class: int | None = None,
    annotation_style: str = "seg",
    session_id: Mapping[str, str] | None = None,
    domain: Mapping[str, str] | None = None,
    **extra: Any,
) -> Path:
    """Writes dataset.json in nnDetection's form and returns its path.

    Args:
        task: the folder.
        modalities: names in the order of the file numbers.
        classes: names by class index.
        name: the data set's name; empty for ``task_name``.
        task_name: what the folder will be called; empty where it is called so already.
        test_labels: whether ``labelsTs`` is filled.
        target_class: class index of most interest, as nnDetection has it.
        annotation_style: ``seg`` or ``weak``.
        session_id: case -> patient.
        domain: case -> site, scanner or protocol; nnDetection passes over it.
        extra: further entries, kept as they are.
    """
    data: dict[str, Any] = {
        "task": task_name or task.name,
        "name": name or task_name or task.name,
        "dim": 3,
        "target_class": target_class,
        "test_labels": test_labels,
        "labels": {str(i): label for i, label in enumerate(classes)},
        "modalities": {str(i): modality for i, modality in enumerate(modalities)},
    }
    if annotation_style != "seg":
        data["annotation_style"] = annotation_style
    if session_id:
        data["session_id"] = dict(session_id)
    if domain:
        data["domain"] = dict(domain)
    path = task.root / DEFINITION_FILES[0]
    write_json(path, {**data, **extra})
    return path


def read_definition(path: Path) -> Any:
    """What stands in a definition file, JSON or YAML.

    Raises:
        UserError: it is neither.
    """
    if path.suffix == ".json":
        return read_json(path)
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({reason})", remedy="repair or restore the file") from None


def _numbered(path: Path, data: Mapping[str, Any], keys: Sequence[str], example: str) -> tuple[str, ...]:
    """Names from ``{"0": "a", "1": "b"}``, ``{0: "a"}`` or ``["a", "b"]``."""
    key = next((key for key in keys if key in data), None)
    remedy = f'write "{keys[0]}": {example}, numbered from 0'
    if key is None:
        raise UserError(f"{path}: has no {keys[0]}", remedy=remedy)
    entry = data[key]
    if isinstance(entry, list):
        entry = dict(enumerate(entry))
    if not isinstance(entry, dict) or not entry:
        raise UserError(f"{path}: {key} is {entry!r}", remedy=remedy)
    names = {str(number): str(name) for number, name in entry.items()}
    if set(names) != {str(i) for i in range(len(names))}:
        raise UserError(f"{path}: {key} are numbered {', '.join(names)}", remedy=remedy)
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: {key} has a name twice", remedy="give each its own name")
    return tuple(names[str(i)] for i in range(len(names)))


def _regions(path: Path, data: Mapping[str, Any]) -> tuple[str, ...]:
    """Names from ``{"1": "lobar", "2": "deep", ...}``; 0 may stand there too, as what is outside of all."""
    entry = data.get("regions")
    if entry is None:
        return REGIONS
    if isinstance(entry, dict):
        entry = {"0": "outside", **{str(number): name for number, name in entry.items()}}
    names = _numbered(path, {"regions": entry}, ("regions",), '{"1": "lobar", "2": "deep"}')[1:]
    if not names:
        raise UserError(f"{path}: regions names none", remedy='write {"1": "lobar", ...}, or leave the entry out')
    return names


def _missing(path: Path, entry: Any, modalities: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Numbers by case from ``{"case": ["QSM", ...]}``."""
    remedy = 'write "missing": {"case": ["QSM"]}, with names that stand under modalities'
    if not isinstance(entry, dict) or not all(isinstance(names, list) for names in entry.values()):
        raise UserError(f"{path}: missing is {entry!r}", remedy=remedy)
    for case_id, names in entry.items():
        if unknown := sorted({str(name) for name in names} - {*modalities}):
            raise UserError(f"{path}: missing: {case_id}: there is no modality {unknown[0]}", remedy=remedy)
        if {*names} == {*modalities}:
            raise UserError(f"{path}: missing: {case_id} lacks every modality", remedy="remove the case")
    return {str(case_id): tuple(sorted(modalities.index(n) for n in {*names})) for case_id, names in entry.items()}


def _existing(folder: Path, stem: str, suffixes: Sequence[str]) -> Path | None:
    return next((path for suffix in suffixes if (path := folder / f"{stem}{suffix}").is_file()), None)


def _suffix_rank(path: Path) -> int:
    return next(rank for rank, suffix in enumerate(SUFFIXES) if path.name.endswith(suffix))


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
