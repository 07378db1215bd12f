"""Several inputs of one run: files, folders and tables together, each case under a name of its own."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cmb_plugin.dataset import Case, image_files
from cmb_plugin.errors import UserError
from cmb_plugin.intake import PASSED_OVER, TAKEN, UNUSABLE, Channels, InputCase, InputRow, safe_case, unusable
from cmb_plugin.intake.naming import own_names

MOST_FOLDERS = 3  # of a file's folders that tell cases of one name apart; then they are numbered


@dataclass
class Listed:
    """The cases of one input.

    Attributes:
        path: the input.
        rows: a row for all that is there.
        named: cases of files that are named as in a Task folder.
        cases: all others.
    """

    path: Path
    rows: list[InputRow] = field(default_factory=list)
    named: list[Case] = field(default_factory=list)
    cases: list[InputCase] = field(default_factory=list)


def list_together(paths: Sequence[Path], list_one: Callable[[Path], Listed], channels: Channels) -> list[Listed]:
    """Lists several inputs as one.

    An input that holds no scan is a case that fails. A scan that was named before is passed over. Cases of one name in
    several inputs get the names of their folders before it, as many as tell them apart, whatever their order.

    Args:
        paths: the inputs.
        list_one: lists one of them.
        channels: what the model sees.
    """
    seen: set[tuple[Path, ...]] = set()
    listed = [_without_known(_listed(path, list_one, channels), seen) for path in paths]
    places = {
        (number, case_id): (case_id, folder)
        for number, one in enumerate(listed)
        for case_id, folder in [
            *((case.case_id, case.images[0].parent) for case in one.named),
            *((case.case_id, _first_file(case).parent) for case in one.cases),
        ]
    }
    names = told_apart(places)
    return [
        _renamed(one, {old: new for (n, old), new in names.items() if n == number}) for number, one in enumerate(listed)
    ]


def told_apart(places: dict[tuple[int, str], tuple[str, Path]]) -> dict[tuple[int, str], str]:
    """A name of its own for each case.

    Args:
        places: key of a case -> its name and its folder.
    """
    names = {key: name for key, (name, _) in places.items()}
    for count in range(1, MOST_FOLDERS + 1):
        for group in _alike(names):
            for key in group:
                name, folder = places[key]
                names[key] = safe_case(*folder.resolve().parts[1:][-count:], name)
    return dict(zip(names, own_names([(name, "") for name in names.values()]), strict=True))


def _alike(names: dict[tuple[int, str], str]) -> list[list[tuple[int, str]]]:
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for key, name in names.items():
        groups[name].append(key)
    return [group for group in groups.values() if len(group) > 1]


def _listed(path: Path, list_one: Callable[[Path], Listed], channels: Channels) -> Listed:
    try:
        one = list_one(path)
    except UserError as error:
        case, rows = unusable(safe_case(path.name) or "input", str(path), path, error.message, channels)
        return Listed(path, rows, cases=[case])
    if path.is_dir():  # rows are relative to their input
        one.rows = [dataclasses.replace(row, input=f"{path}/{row.input}") for row in one.rows]
    elif len(one.rows) == 1:
        one.rows = [dataclasses.replace(one.rows[0], input=str(path))]
    return one


def _without_known(one: Listed, seen: set[tuple[Path, ...]]) -> Listed:
    """Passes over cases whose scans were named before, and adds the others to ``seen``."""
    twice: set[str] = set()
    for case_id, files in [
        *((case.case_id, case.images) for case in one.named),
        *((case.case_id, tuple(f for v in case.volumes.values() for f in v.files)) for case in one.cases),
    ]:
        key = tuple(path.resolve() for path in files)
        if key in seen:
            twice.add(case_id)
        seen.add(key)
    if not twice:
        return one
    why = "it was named before"
    rows = [dataclasses.replace(r, status=PASSED_OVER, why=why) if r.case in twice else r for r in one.rows]
    named = [case for case in one.named if case.case_id not in twice]
    return Listed(one.path, rows, named, [case for case in one.cases if case.case_id not in twice])


def _renamed(one: Listed, names: dict[str, str]) -> Listed:
    rows = [dataclasses.replace(row, case=names.get(row.case, row.case)) for row in one.rows]
    named = [dataclasses.replace(case, case_id=names[case.case_id]) for case in one.named]
    return Listed(one.path, rows, named, [dataclasses.replace(c, case_id=names[c.case_id]) for c in one.cases])


def _first_file(case: InputCase) -> Path:
    return case.volumes[min(case.volumes)].path


def rows_of_named(folder: Path, cases: Sequence[Case], modalities: Sequence[str]) -> list[InputRow]:
    """The rows of a folder whose files are named as in a Task folder."""
    rows = []
    used = set()
    for case in cases:
        for channel, (path, name) in enumerate(zip(case.images, modalities, strict=True)):
            used.add(path)
            if channel in case.missing:
                rows.append(InputRow(case.case_id, name, path.name, "", PASSED_OVER, "the case does without it"))
            elif path.is_file():
                rows.append(InputRow(case.case_id, name, path.name, "", TAKEN))
            else:
                rows.append(InputRow(case.case_id, name, path.name, "", UNUSABLE, "there is no such file"))
    others = [path for path in image_files(folder) if path not in used]
    return rows + [InputRow("", "", path.name, "", PASSED_OVER, "the model reads no such file") for path in others]
