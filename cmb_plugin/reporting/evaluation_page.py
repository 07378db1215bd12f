"""One HTML page with everything a reader of an evaluation looks for. No network, no scripts, no other file."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from matplotlib.figure import Figure

from cmb_plugin.evaluation.listing import FALSE, MISSED, Entry

from .figures import BLUE, VERMILION, froc_figure
from .gallery import PER_ROW, ReadScan, Section, gallery_figure

SHOWN = 24  # misses, and as many false positives, that have pictures
PER_PICTURE = 2 * PER_ROW

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; max-width: 78rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e6e6e6; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 2px solid #999; }
.note { color: #555; } .scroll { overflow-x: auto; } img { max-width: 100%; height: auto; }
@media print { h2 { break-after: avoid; } img { break-inside: avoid; } }
"""


def html_report(
    title: str,
    metrics: Mapping[str, Any],
    entries: Sequence[Entry],
    classes: Sequence[str],
    read_scan: ReadScan,
    notes: Sequence[str] = (),
) -> str:
    """The page as text.

    Args:
        title: task, model and split in words.
        metrics: the content of ``metrics.json``.
        entries: from ``list_entries``.
        classes: names by index.
        read_scan: case name -> array [z, y, x] and its grid.
        notes: sentences on what the reader should know.
    """
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{metrics['n_cases']} scans, {metrics['n_healthy']} of them healthy; {metrics['n_lesions']} lesions, "
        f"{metrics['n_possible']} more are only possible. A detection is reported from score "
        f"{metrics['operating_point']['score']:.3g} on.</p>",
        *(f'<p class="note">Note: {escape(note)}</p>' for note in notes),
        "<h2>Headline</h2>",
        _headline(metrics),
        "<h2>By matching rule</h2>",
        _matchings(metrics),
        "<h2>FROC</h2>",
        _picture(froc_figure(metrics), "sensitivity against false positives per scan"),
        "<h2>Scans and patients</h2>",
        _scans(metrics),
        "<h2>VALDO challenge</h2>",
        _valdo(metrics["valdo"]),
        "<h2>Strata</h2>",
        *(_stratum(name, block) for name, block in metrics["strata"].items() if block),
        _kinds(metrics["false_positive_kinds"]),
        "<h2>Misses, largest first</h2>",
        *_gallery(sorted((e for e in entries if e.status == MISSED), key=lambda e: -e.diameter_mm), classes, read_scan),
        "<h2>False positives, highest score first</h2>",
        *_gallery(sorted((e for e in entries if e.status == FALSE), key=lambda e: -(e.score or 0)), classes, read_scan),
        "<h2>Rules</h2>",
        "<ul>",
        *(f"<li>{escape(str(text))}</li>" for key, text in metrics["matching"].items() if key.endswith("_rule")),
        "</ul>",
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table; None is shown as a dash, a float with 3 decimals."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>\n" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def with_interval(value: float | None, ends: Sequence[float | None] | None, decimals: int = 3) -> str:
    """``0.812 (0.701-0.899)``; an open end is ``∞``, no interval is no brackets."""
    if value is None:
        return "-"
    text = f"{value:.{decimals}f}"
    if not ends or ends[0] is None:
        return text
    return f"{text} ({ends[0]:.{decimals}f}-" + ("∞" if ends[1] is None else f"{ends[1]:.{decimals}f}") + ")"


def _headline(metrics: Mapping[str, Any]) -> str:
    intervals = metrics.get("intervals") or {}
    rows = [
        (name, with_interval(metrics[key], intervals.get(key)))
        for name, key in (
            ("sensitivity", "sensitivity"),
            ("precision", "precision"),
            ("F1", "f1"),
            ("false positives per scan", "fp_per_scan"),
            ("FROC score", "froc_score"),
        )
    ]
    for rate, value in metrics["froc"].items():
        rows.append((f"sensitivity at {rate} FP per scan", with_interval(value, intervals.get("froc", {}).get(rate))))
    for share, value in metrics["fp_at_sensitivity"].items():
        ends = intervals.get("fp_at_sensitivity", {}).get(share)
        rows.append((f"FP per scan at sensitivity {share}", with_interval(value, ends)))
    unit = (
        f"Matched within {metrics['matching']['match_mm']:g} mm. In brackets the {100 * intervals['level']:g} % "
        f"interval of {intervals['resamples']} resamples of {intervals['n_patients']} patients."
        if intervals
        else f"Matched within {metrics['matching']['match_mm']:g} mm. No intervals were computed."
    )
    return f'<p class="note">{escape(unit)}</p>' + table(("", "value"), rows)


def _matchings(metrics: Mapping[str, Any]) -> str:
    names = {
        "distance": f"centres within {metrics['matching']['match_mm']:g} mm",
        "iou": f"IoU at least {metrics['matching']['iou']:g}",
        "centre_inside": "centre inside",
    }
    keys = ("sensitivity", "precision", "f1", "fp_per_scan", "froc_score")
    rows: list[Sequence[Any]] = []
    blocks = {"all": metrics["overall"], **(metrics["per_class"] if len(metrics["per_class"]) > 1 else {})}
    for group, matchings in blocks.items():
        for key, name in names.items():
            block = matchings[key]
            precision = next((value for entry, value in block.items() if entry.startswith("AP_")), None)
            found = f"{block['true_positives']}/{block['n_lesions']}"
            label = name if group == "all" else f"{group}: {name}"
            rows.append((label, found, block["false_positives"], *(block[k] for k in keys), precision))
    parts = metrics["components"]
    if parts:
        found = f"{parts['true_positives']}/{parts['n_lesions']}"
        label = f"components overlap ({parts['connectivity']} neighbours)"
        rows.append((label, found, parts["false_positives"], *(parts.get(key) for key in keys), None))
    return table(("", "found", "FP", "sensitivity", "precision", "F1", "FP/scan", "FROC", "AP"), rows)


def _scans(metrics: Mapping[str, Any]) -> str:
    counts, patients = metrics["counts"], metrics["patients"]
    limits = counts["bland_altman"]
    rows = [
        ("FP per scan on healthy scans", metrics["healthy"]["fp_per_scan"], f"{metrics['healthy']['n_cases']} scans"),
        (
            "AUC of patients with against without lesions",
            patients["auc"],
            f"{patients['n_positive']} with, {patients['n_negative']} without",
        ),
        ("lesion counts: ICC", counts["icc"], counts["icc_definition"]),
        ("lesion counts: reported less reference", limits["bias"], f"limits {_span(limits['low'], limits['high'])}"),
        ("burden category: kappa", counts["burden"]["kappa"], "0, 1, 2-4, 5 and more; unweighted"),
        ("burden category: quadratic kappa", counts["burden"]["kappa_quadratic"], ""),
    ]
    names = counts["burden"]["categories"]
    lines = [(f"reference {name}", *row) for name, row in zip(names, counts["burden"]["table"], strict=True)]
    return table(("", "value", ""), rows) + table(("scans by lesions", *(f"reported {n}" for n in names)), lines)


def _span(low: float | None, high: float | None) -> str:
    return "undefined" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _valdo(block: Mapping[str, Any]) -> str:
    rows = [
        (name, block[key]["median"], block[key]["q1"], block[key]["q3"], block[key]["n"])
        for name, key in (("F1", "f1"), ("absolute count difference", "count_difference"), ("Dice", "dice"))
    ]
    columns = ("per subject", "median", "lower quartile", "upper quartile", "subjects")
    return table(columns, rows) + f'<p class="note">{escape(block["rule"])}</p>'


def _stratum(name: str, block: Mapping[str, Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for entry in block.values() for key in entry))
    rows = [(value, *(entry.get(key) for key in columns)) for value, entry in block.items()]
    return table((name.replace("_mm", " (mm)"), *columns), rows)


def _kinds(block: Mapping[str, Any] | None) -> str:
    if not block:
        return ""
    rows = [(kind.replace("_", " "), value) for kind, value in block["per_scan"].items()]
    return table(("false positives lie on", "per scan"), rows)


def _gallery(entries: Sequence[Entry], classes: Sequence[str], read_scan: ReadScan) -> list[str]:
    if not entries:
        return ["<p>None.</p>"]
    shown = entries[:SHOWN]
    missed = entries[0].status == MISSED
    words = "" if len(entries) <= SHOWN else f" of {len(entries)}"
    parts = [f'<p class="note">{len(shown)}{words}; 40 mm crops, radiological view.</p>']
    for start in range(0, len(shown), PER_PICTURE):
        part = tuple(shown[start : start + PER_PICTURE])
        section = Section("", BLUE if missed else VERMILION, part)
        names = ", ".join(dict.fromkeys(entry.case_id for entry in part))
        parts.append(_picture(gallery_figure([section], classes, read_scan), f"crops of {names}"))
    return parts


def _picture(figure: Figure, words: str) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=100, format="png", facecolor="white")
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}">'
