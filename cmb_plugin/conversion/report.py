"""``conversion.html``: what was converted, with pictures of every lesion that was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.documents import counted
from cmb_plugin.files import write_text
from cmb_plugin.reporting.pages import PageTable, render

from .case import Record


def write_html(
    path: Path,
    title: str,
    records: Sequence[Record],
    splits: Mapping[str, str],
    failures: Sequence[tuple[str, str]],
    crops: Path,
) -> None:
    """Writes the report.

    Args:
        path: of the HTML file.
        title: first line.
        records: the converted cases.
        splits: case -> ``Tr`` or ``Ts``.
        failures: case and reason of what could not be converted.
        crops: folder of the pictures ``{case}.png``.
    """
    page = render(
        "conversion",
        title=title,
        summary=PageTable(*summary_rows(records, splits)),
        failures=failures,
        cases=[_case(record, splits.get(record.case_id), crops, path.parent) for record in records],
    )
    write_text(path, page)


def _case(record: Record, split: str | None, crops: Path, folder: Path) -> dict[str, Any]:
    """What the page shows of a case."""
    picture = crops / f"{record.case_id}.png"
    facts = ["test" if split == "Ts" else "training", record.domain, _count_lesions(record)]
    return {
        "name": record.case_id,
        "description": ", ".join([fact for fact in facts if fact] + [f"{k} {v}" for k, v in record.metadata.items()]),
        "warnings": record.warnings,
        "picture": picture.relative_to(folder).as_posix() if picture.is_file() else None,
    }


SUMMARY_COLUMNS = (
    "",
    "cases",
    "patients",
    "healthy",
    "lesions",
    "drawn from points or boxes",
    "diameter p5-p50-p95 mm",
)


def summary_rows(records: Sequence[Record], splits: Mapping[str, str]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Columns and rows of the summary: training, test, and each domain."""
    groups = [
        (name, [r for r in records if splits.get(r.case_id) == s]) for s, name in (("Tr", "training"), ("Ts", "test"))
    ]
    domains = sorted({record.domain for record in records if record.domain})
    groups += [(domain, [record for record in records if record.domain == domain]) for domain in domains]
    return SUMMARY_COLUMNS, [[name, *_counts(own)] for name, own in groups if own]


def _counts(records: Sequence[Record]) -> list[str]:
    lesions = [lesion for record in records for lesion in record.lesions]
    sizes = [lesion["outlined_diameter_mm"] for lesion in lesions]
    spread = "-".join(f"{value:.1f}" for value in np.percentile(sizes, [5, 50, 95])) if sizes else ""
    return [
        str(len(records)),
        str(len({record.patient for record in records})),
        str(sum(record.labelled and not record.lesions for record in records)),
        str(len(lesions)),
        str(sum(lesion["drawn"] != "mask" for lesion in lesions)),
        spread,
    ]


def _count_lesions(record: Record) -> str:
    if not record.labelled:
        return "no labels"
    return counted(len(record.lesions), "lesion")
