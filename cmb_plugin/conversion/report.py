"""``conversion.html``: what was converted, with pictures of every lesion that was drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from cmb_plugin.files import write_text

from .case import Record

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 62em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; }
td.n { text-align: right; } th { text-align: left; } .bad { color: #a00; } .note { color: #775500; }
img { max-width: 100%; background: #000; } h2 { margin-top: 2em; } h3 { margin-bottom: .2em; }
"""


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
    parts = [f"<h1>{escape(title)}</h1>", _table(*summary_rows(records, splits))]
    parts.append(
        "<p>Look through the pictures: each row is a lesion, in crops of 24 mm, axial without and with the outline, "
        "coronal, sagittal; the patient's right is on the left. Where outlines lie beside the dark spots, coordinates "
        "were misread (counted from 0 or from 1, axes swapped): see docs/conversion.md.</p>"
    )
    if failures:
        parts.append(f"<h2>Not converted: {len(failures)}</h2><ul class='bad'>")
        parts += [f"<li>{escape(case)}: {escape(reason)}</li>" for case, reason in failures]
        parts.append("</ul>")
    parts.append("<h2>Cases</h2>")
    for record in records:
        split = "test" if splits.get(record.case_id) == "Ts" else "training"
        words = [split, record.domain, _lesion_words(record), *(f"{k} {v}" for k, v in record.metadata.items())]
        parts.append(f"<h3>{escape(record.case_id)}</h3><p>{escape(', '.join(word for word in words if word))}</p>")
        parts += [f"<p class='note'>{escape(note)}</p>" for note in record.warnings]
        picture = crops / f"{record.case_id}.png"
        if picture.is_file():
            place = picture.relative_to(path.parent).as_posix()
            parts.append(f"<img loading='lazy' src='{escape(place)}' alt='lesions of {escape(record.case_id)}'>")
    body = "\n".join(parts)
    write_text(
        path, f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style><body>{body}</body></html>\n"
    )  # fmt: skip


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


def _lesion_words(record: Record) -> str:
    if not record.labelled:
        return "no labels"
    return f"{len(record.lesions)} lesion{'' if len(record.lesions) == 1 else 's'}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if i else ''}>{escape(cell)}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
