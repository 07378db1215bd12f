"""Which scans are of whom, and in which order: predictions folders, tables of visits, sessions of a BIDS data set."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cmb_plugin.dataset import boxes_file, image_files, predicted_cases
from cmb_plugin.errors import UserError
from cmb_plugin.images import image_stem
from cmb_plugin.tabular import delimiter_of

from .visits import Person, Visit

COLUMNS = ("subject", "visit", "scan")
NEVER = datetime.min.replace(tzinfo=UTC)  # where no session has a time


@dataclass(frozen=True)
class TimePoint:
    """A scan before it is predicted.

    Attributes:
        person: whose it is.
        visit: name of the time point.
        case: name of the scan.
        files: a file for each channel of the model.
        problem: why it cannot be compared; empty where nothing speaks against it yet.
    """

    person: str
    visit: str
    case: str
    files: tuple[Path, ...]
    problem: str = ""


def persons_of_folders(folders: Sequence[Path], scans: Sequence[Path]) -> list[Person]:
    """The cases of predictions folders, a folder for each time point.

    Cases are of one person where they have one name; a case that is alone in each folder needs none.

    Args:
        folders: in the order of time.
        scans: for each the folder of its scans.

    Raises:
        UserError: a folder holds no predictions, or there is not one folder of scans for each.
    """
    if len(scans) != len(folders):
        remedy = "add --scans with the folder of the scans for each time point, in the same order"
        raise UserError(f"{len(folders)} predictions folders, but {len(scans)} folders of scans", remedy=remedy)
    cases = [predicted_cases(folder) for folder in folders]
    for folder, names in zip(folders, cases, strict=True):
        if not names:
            raise UserError(f"{folder}: holds no predictions", remedy="run nndet_predict first")
    labels = visit_names([folder.name for folder in folders])
    alone = all(len(names) == 1 for names in cases)
    persons = []
    for person in [cases[0][0]] if alone else sorted({name for names in cases for name in names}):
        own = [names[0] if alone else person for names in cases]
        # Also where a case is missing: without its baseline nobody is compared, and a later scan is a row that says so.
        visits = tuple(
            Visit(label, case, scan_of(case, images), boxes_file(folder, case))
            for label, folder, images, case in zip(labels, folders, scans, own, strict=True)
        )
        persons.append(Person(person, visits))
    return persons


def visit_names(names: Sequence[str]) -> list[str]:
    """The names where they tell the time points apart, else with their numbers."""
    return list(names) if len(set(names)) == len(names) else [f"{n}_{name}" for n, name in enumerate(names, start=1)]


def scan_of(case: str, folder: Path) -> Path:
    """The image of a case: ``{case}_0000.nii.gz``, ``{case}.nii.gz`` or another ending; the first where there is none,
    for whoever reads it to report."""
    for path in image_files(folder):
        if image_stem(path) in (case, f"{case}_0000"):
            return path
    return folder / f"{case}_0000.nii.gz"


def time_points_of_table(path: Path) -> list[TimePoint]:
    """The rows of a table of visits: ``subject``, ``visit``, ``scan`` and perhaps ``case``, in the order of time.

    Columns are separated by tabs, commas or semicolons, their names in capital or small letters. Paths are relative to
    the table; the files of several channels are separated by commas. A row that names no scan, or
    one that stood there before, is a time point with a problem.

    Raises:
        UserError: the table cannot be read, or a column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            heading = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter_of(heading))
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})", remedy="give a table of visits in UTF-8") from None
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]}", remedy=f"its first line names {', '.join(COLUMNS)}")
    points = []
    lines: dict[str, int] = {}
    for number, row in enumerate(rows, start=2):
        subject, visit, scan = ((row[name] or "").strip() for name in COLUMNS)
        if not (subject or visit or scan):
            continue
        case = (row.get("case") or "").strip() or f"{subject}_{visit}"
        problem = bad_name(subject or case) or bad_name(case)
        if not (subject and visit and scan):
            problem = "lacks a subject, visit or scan - fill or remove it"
        elif not problem and case in lines:
            problem = f"is {case} as line {lines[case]} - give each visit of a subject its own name"
        if problem:
            problem, case = f"{path}: line {number} {problem}", f"{case}_line{number}"
        lines.setdefault(case, number)
        files = tuple(path.parent / name.strip() for name in scan.split(","))
        points.append(TimePoint(subject or f"line {number}", visit or f"line {number}", case, files, problem))
    return points


def bad_name(name: str) -> str:
    """What is wrong with the name of a person or a scan, which files are named after; "" where nothing is."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+_-]*", name):
        return ""
    return f"has '{name}', no name for files - names are letters, digits, point, plus, dash and underscore"


def persons_of_points(points: Sequence[TimePoint], predictions: Path) -> list[Person]:
    """Persons with their visits in the order of ``points``; ``predictions`` holds ``{case}_boxes.json`` of each."""
    persons: dict[str, list[Visit]] = {}
    for point in points:
        visit = Visit(point.visit, point.case, point.files[0], boxes_file(predictions, point.case), point.problem)
        persons.setdefault(point.person, []).append(visit)
    return [Person(name, tuple(visits)) for name, visits in persons.items()]


def persons_of_bids(
    root: Path, scans: Mapping[str, Path], predictions: Path, problems: Mapping[str, str] | None = None
) -> list[Person]:
    """Persons of a BIDS data set, their sessions in the order of ``sub-*_sessions.tsv``'s ``acq_time``, by name where
    it lacks the time of one.

    Args:
        root: of the data set.
        scans: case -> the image that was predicted.
        predictions: holds ``{case}_boxes.json`` of each.
        problems: case -> why it could not be predicted.
    """
    problems = problems or {}
    visits: dict[str, list[Visit]] = {}
    for case, scan in scans.items():
        match = re.match(r"sub-[^_]+", case)
        if match:
            name = _session(case) or case.removeprefix(f"{match[0]}_")
            visit = Visit(name, case, scan, boxes_file(predictions, case), problems.get(case, ""))
            visits.setdefault(match[0], []).append(visit)
    persons = []
    for person in sorted(visits):
        times = _session_times(root / person / f"{person}_sessions.tsv")
        if not {visit.name for visit in visits[person]} <= {*times}:
            times = {}
        ordered = sorted(
            visits[person], key=lambda visit: (times.get(visit.name, NEVER), _natural(visit.name), visit.case)
        )
        names = visit_names([visit.name for visit in ordered])
        visited = [replace(visit, name=name) for visit, name in zip(ordered, names, strict=True)]
        persons.append(Person(person, tuple(visited)))
    return persons


def came_back(persons: Sequence[Person], root: Path) -> tuple[list[Person], list[str]]:
    """Those persons of a BIDS data set who have two sessions or more, and the names of the others; runs of one session
    are no follow-up.

    Raises:
        UserError: nobody has.
    """
    again, once = [], []
    for person in persons:
        if len({_session(visit.case) for visit in person.visits}) > 1:
            again.append(person)
        else:
            once.append(person.name)
    if not again:
        raise UserError(f"{root}: nobody has two sessions that the model can read", remedy="name a data set with more")
    return again, once


def _session(case: str) -> str:
    """``ses-2`` of ``sub-1_ses-2_run-1``; "" where there are no sessions."""
    match = re.match(r"sub-[^_]+_(ses-[^_]+)", case)
    return match[1] if match else ""


def _session_times(path: Path) -> dict[str, datetime]:
    """Session -> time of acquisition, as far as it is known. Times are as BIDS has them (ISO 8601), without a zone in
    UTC; others, such as 03/12/2024, would be in no order of time as text, and are not known."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}
    times = {}
    for row in rows:
        with suppress(ValueError):
            time = datetime.fromisoformat((row.get("acq_time") or "").strip())
            times[(row.get("session_id") or "").strip()] = time if time.tzinfo else time.replace(tzinfo=UTC)
    return times


def _natural(name: str) -> list[tuple[int, int, str]]:
    """So that ses-2 comes before ses-10."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
