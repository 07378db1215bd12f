"""``followup.tsv``, a row for each later visit, and ``lesions.tsv``, a row for each lesion in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmb_plugin.files import read_json
from cmb_plugin.tabular import write_table

from .following import BASELINE, FAILED, result_file

VISIT_COLUMNS = (
    *("person", "visit", "status", "new", "stable", "gone", "not_covered", "new_since_baseline", "aria_h"),
    *("agreement", "error_mm", "tolerance_mm", "baseline", "why"),
)
LESION_COLUMNS = (
    *("person", "visit", "lesion", "status", "score_before", "score", "diameter_mm", "diameter_before_mm"),
    *("x_ras_mm", "y_ras_mm", "z_ras_mm", "x_first_ras_mm", "y_first_ras_mm", "z_first_ras_mm"),
    *("region_group", "region", "side"),
)


def write_tables(folder: Path, persons: Sequence[str], failures: Mapping[str, str]) -> list[dict[str, Any]]:
    """Writes both tables from the files of all persons and returns the rows of ``followup.tsv``.

    Args:
        folder: where the files are.
        persons: all that were asked for, in this order.
        failures: person -> why there is no file.
    """
    visits: list[dict[str, Any]] = []
    lesions: list[dict[str, Any]] = []
    for person in persons:
        if person in failures:
            visits.append({"person": person, "status": FAILED, "why": failures[person]})
            continue
        content = read_json(result_file(folder, person))
        visits += [_visit(content, entry) for entry in content["visits"] if entry["status"] != BASELINE]
        for lesion in content["lesions"]:
            lesions += _lesion(person, lesion)
    write_table(folder / "followup.tsv", VISIT_COLUMNS, visits)
    write_table(folder / "lesions.tsv", LESION_COLUMNS, lesions)
    return visits


def _visit(content: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name.replace(" ", "_"): count for name, count in entry.get("counts", {}).items()}
    registration = entry.get("registration", {})
    own = {name: entry.get(name) for name in ("visit", "status", "new_since_baseline", "aria_h", "tolerance_mm", "why")}
    measured = {name: registration.get(name) for name in ("agreement", "error_mm")}
    return {"person": content["person"], "baseline": content["visits"][0]["visit"], **own, **counts, **measured}


def _lesion(person: str, lesion: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    first = [f"{value:.2f}" for value in lesion["place_in_first_ras_mm"]]
    for number, now in enumerate(lesion["visits"]):
        if not number or now["status"] is None:
            continue
        earlier = [visit for visit in lesion["visits"][:number] if visit["covered"]]
        sizes = [visit["diameter_mm"] for visit in earlier if visit["reported"]]
        place = [f"{value:.2f}" for value in now["centre_ras_mm"]]
        rows.append(
            {
                "person": person,
                "visit": now["visit"],
                "lesion": lesion["lesion"],
                "status": now["status"],
                "score_before": max((visit["score"] for visit in earlier), default=None),
                "score": now["score"],
                "diameter_mm": now["diameter_mm"] if now["reported"] else None,
                "diameter_before_mm": sizes[-1] if sizes else None,
                **dict(zip(LESION_COLUMNS[8:11], place, strict=True)),
                **dict(zip(LESION_COLUMNS[11:14], first, strict=True)),
                **{name: now.get(name) for name in ("region_group", "region", "side")},
            }
        )
    return rows
