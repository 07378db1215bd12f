"""One person's visits compared: ``{person}_followup.json`` and a picture of the new lesions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.documents import RESEARCH_USE_ONLY
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest, read_json, write_json

from .comparison import GONE, NEW, NOT_COVERED, STABLE, Rules, Track, aria_h, compare
from .registration import VERSION, Alignment, Head, align
from .visits import Person, Scan, Visit

SCHEMA = 3  # 2: a removed candidate is a trace; 3: only a trace says that a scan shows a place beyond its edge
ENDING = "_followup.json"
BASELINE, COMPARED, REFUSED, FAILED = "baseline", "compared", "refused", "failed"
LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


def result_file(folder: Path, person: str) -> Path:
    """``{folder}/{person}_followup.json``."""
    return folder / f"{person}{ENDING}"


def picture_file(folder: Path, person: str, page: int) -> Path:
    """``{folder}/{person}_new.png``, of further pages ``{person}_new_2.png`` and so on."""
    return folder / f"{person}_new{'' if page == 1 else f'_{page}'}.png"


def forget_person(folder: Path, person: str) -> None:
    """Removes what an earlier run wrote of a person who cannot be compared any more: it is no longer true."""
    if Path(person).name == person:  # others never had files
        result_file(folder, person).unlink(missing_ok=True)
        _forget_pictures(folder, person)


def _forget_pictures(folder: Path, person: str) -> None:
    for page in count(1):
        if not picture_file(folder, person, page).is_file():
            return
        picture_file(folder, person, page).unlink()


def follow_person(person: Person, folder: Path, rules: Rules) -> bool:
    """Compares the visits of a person and writes what came of it.

    A visit that cannot be read, or whose registration is not to be trusted, is left out, and the file says why.

    Args:
        person: with two visits or more.
        folder: where to write.
        rules: how lesions are compared.

    Returns:
        False where an earlier run had done it with the same files and rules.

    Raises:
        UserError: there is one visit only, or the first cannot be read.
    """
    if len(person.visits) < 2 and not person.visits[0].problem:
        raise UserError("there is one time point only", remedy="name two or more")
    key = digest([SCHEMA, VERSION, dataclasses.asdict(rules), [visit.key() for visit in person.visits]])
    path = result_file(folder, person.name)
    if _stands(path, key):
        return False
    first = Scan(person.visits[0])
    head = Head(first.image, first.grid)
    scans, alignments = [first], []
    visits = [_entry(first, BASELINE)]
    for visit in person.visits[1:]:
        try:
            scan = Scan(visit)
        except UserError as error:
            visits.append({**_names(visit), "status": FAILED, "why": str(error)})
            continue
        alignment = align(head, Head(scan.image, scan.grid))
        entry = _entry(scan, REFUSED if alignment.why_not else COMPARED, alignment)
        tolerance = rules.tolerance_mm(max(first.thickness_mm, scan.thickness_mm), alignment.error_mm)
        if not alignment.why_not:
            entry["tolerance_mm"] = round(tolerance, 3)
            entry["why"] = _unlike(first, scan)
            scans.append(scan)
            alignments.append(alignment)
        visits.append(entry)
    tracks = compare(scans, alignments, rules)
    compared = [entry for entry in visits if entry["status"] in (BASELINE, COMPARED)]
    for number, entry in enumerate(compared):
        if number:
            entry |= _counts(tracks, number)
    lesions = [_lesion(number, track, scans, alignments, compared) for number, track in enumerate(tracks, start=1)]
    _draw(folder, person, scans, alignments, tracks)
    content = {"schema": SCHEMA, "warning": RESEARCH_USE_ONLY, "key": key, "person": person.name}
    write_json(path, {**content, "rules": rules, "visits": visits, "lesions": lesions})
    return True


def _stands(path: Path, key: str) -> bool:
    try:
        return path.is_file() and read_json(path).get("key") == key
    except (UserError, AttributeError):  # damaged: it is made again
        return False


def _names(visit: Visit) -> dict[str, Any]:
    files = {"scan": visit.scan.absolute(), "predictions": visit.boxes.absolute()}
    return {"visit": visit.name, "case": visit.case, **files}


def _entry(scan: Scan, status: str, alignment: Alignment | None = None) -> dict[str, Any]:
    entry = _names(scan.visit)
    entry |= {"status": status, "why": "" if alignment is None else alignment.why_not}
    entry |= {"operating_point": scan.point, "reported": int(scan.reported.sum())}
    if alignment is not None:
        numbers = {name: round(getattr(alignment, name), 4) for name in ("agreement", "error_mm", "overlap")}
        matrix = np.round(alignment.matrix, 6)
        entry["registration"] = {**numbers, "blocks": alignment.blocks, "matrix_lps": matrix}
    return entry


def _unlike(first: Scan, scan: Scan) -> str:
    """Why the scores of two scans mean different things; "" where one model predicted both alike."""
    one, two = first.predictions, scan.predictions
    for name, before, now in (
        ("model", one.model, two.model),
        ("folds", one.folds, two.folds),
        ("operating point", one.operating_point, two.operating_point),
        ("modalities", one.modalities, two.modalities),
    ):
        if before != now:
            then, later = (
                value if isinstance(value, str | float) else ", ".join(map(str, value)) for value in (before, now)
            )
            return f"predicted with another {name} ({later}) than the baseline ({then}) - predict both alike"
    return ""


def _counts(tracks: Sequence[Track], visit: int) -> dict[str, Any]:
    statuses = [track.status.get(visit) for track in tracks]
    since = sum(track.new_at is not None and track.new_at <= visit and 0 in track.covered for track in tracks)
    counts = {name: statuses.count(name) for name in (NEW, STABLE, GONE, NOT_COVERED)}
    return {"counts": counts, "new_since_baseline": since, "aria_h": aria_h(since)}


def _lesion(
    number: int, track: Track, scans: Sequence[Scan], alignments: Sequence[Alignment], entries: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    visits = []
    for visit, (scan, entry) in enumerate(zip(scans, entries, strict=True)):
        row = track.rows.get(visit)
        detections = scan.predictions.detections
        own = track.place if visit == 0 else alignments[visit - 1].to_other(track.place[None])[0]
        if row is not None:
            own = scan.grid.to_world(detections.centres[row : row + 1])[0]
        named = [name for name in ("region_group", "region", "side") if name in detections.columns]
        place: dict[str, Any] = {} if row is None else {name: detections.columns[name][row] for name in named}
        visits.append(
            {
                "visit": entry["visit"],
                "status": track.status.get(visit),
                "covered": visit in track.covered,
                "score": round(track.scores.get(visit, 0.0), 6),
                "reported": visit in track.reported,
                "detection": None if row is None else row + 1,
                "centre_ras_mm": np.round(own * LPS_TO_RAS + 0.0, 3),
                "off_mm": round(track.distances_mm[visit], 3) if visit in track.distances_mm else None,
                "diameter_mm": None if row is None else round(float(scan.predictions.diameters_mm[row]), 3),
                **{name: str(value) for name, value in place.items()},
            }
        )
    new_at = None if track.new_at is None else entries[track.new_at]["visit"]
    first = np.round(track.place * LPS_TO_RAS + 0.0, 3)
    return {"lesion": number, "new_at": new_at, "place_in_first_ras_mm": first, "visits": visits}


def _draw(
    folder: Path, person: Person, scans: Sequence[Scan], alignments: Sequence[Alignment], tracks: Sequence[Track]
) -> None:
    _forget_pictures(folder, person.name)
    from .picture import PER_PAGE, NewLesion, new_lesions_figure

    shown = []
    for number, track in enumerate(tracks, start=1):
        if track.new_at is None:
            continue
        before = max(visit for visit in track.covered if visit < track.new_at)
        shown.append(NewLesion.of(number, track, scans, alignments, before))
    if not shown:
        return
    from cmb_plugin.reporting.figures import save_figure

    for page, start in enumerate(range(0, len(shown), PER_PAGE), start=1):
        figure = new_lesions_figure(person.name, shown[start : start + PER_PAGE], len(shown))
        save_figure(figure, picture_file(folder, person.name, page), dpi=130)
