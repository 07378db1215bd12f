"""One HTML page with everything a reader of an evaluation looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmb_plugin.evaluation.listing import FALSE, MISSED, Entry
from cmb_plugin.tabular import show_interval

from .figures import BLUE, VERMILION, Picture, embed, froc_figure
from .gallery import PER_ROW, ReadScan, Section, gallery_figure
from .pages import PageTable, render

SHOWN = 24  # misses, and as many false positives, that have pictures
PER_PICTURE = 2 * PER_ROW


@dataclass(frozen=True)
class Gallery:
    """Pictures of some entries.

    Attributes:
        shown, all: how many of them have pictures, and how many there are.
        pictures: of ``PER_PICTURE`` entries each.
    """

    shown: int
    all: int
    pictures: tuple[Picture, ...]


def evaluation_page(
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
    misses = sorted((e for e in entries if e.status == MISSED), key=lambda e: -e.diameter_mm)
    false = sorted((e for e in entries if e.status == FALSE), key=lambda e: -(e.score or 0))
    strata = [_stratum(name, block) for name, block in metrics["strata"].items() if block]
    if metrics["false_positive_kinds"]:
        strata.append(_kinds(metrics["false_positive_kinds"]))
    return render(
        "evaluation",
        title=title,
        metrics=metrics,
        intervals=metrics.get("intervals"),
        notes=notes,
        headline=_headline(metrics),
        matchings=_matchings(metrics),
        froc=embed(froc_figure(metrics), "sensitivity against false positives per scan"),
        scans=_scans(metrics),
        burden=_burden(metrics["counts"]["burden"]),
        valdo=_valdo(metrics["valdo"]),
        strata=strata,
        misses=_gallery(misses, classes, read_scan),
        false_positives=_gallery(false, classes, read_scan),
        rules=[text for key, text in metrics["matching"].items() if key.endswith("_rule")],
    )


def _headline(metrics: Mapping[str, Any]) -> PageTable:
    intervals = metrics.get("intervals") or {}
    rows = [
        (name, _with_interval(metrics[key], intervals.get(key)))
        for name, key in (
            ("sensitivity", "sensitivity"),
            ("precision", "precision"),
            ("F1", "f1"),
            ("false positives per scan", "fp_per_scan"),
            ("FROC score", "froc_score"),
        )
    ]
    for rate, value in metrics["froc"].items():
        rows.append((f"sensitivity at {rate} FP per scan", _with_interval(value, intervals.get("froc", {}).get(rate))))
    for share, value in metrics["fp_at_sensitivity"].items():
        ends = intervals.get("fp_at_sensitivity", {}).get(share)
        rows.append((f"FP per scan at sensitivity {share}", _with_interval(value, ends)))
    return PageTable(("", "value"), rows)


def _with_interval(value: float | None, ends: Sequence[float | None] | None) -> str:
    low, high = ends or (None, None)
    return show_interval(value, low, high)


def _matchings(metrics: Mapping[str, Any]) -> PageTable:
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
            counts = f"{block['true_positives']}/{block['n_lesions']}"
            label = name if group == "all" else f"{group}: {name}"
            rows.append((label, counts, block["false_positives"], *(block[k] for k in keys), precision))
    parts = metrics["components"]
    if parts:
        counts = f"{parts['true_positives']}/{parts['n_lesions']}"
        label = f"components overlap ({parts['connectivity']} neighbours)"
        rows.append((label, counts, parts["false_positives"], *(parts.get(key) for key in keys), None))
    return PageTable(("", "found", "FP", "sensitivity", "precision", "F1", "FP/scan", "FROC", "AP"), rows)


def _scans(metrics: Mapping[str, Any]) -> PageTable:
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
    return PageTable(("", "value", ""), rows)


def _burden(block: Mapping[str, Any]) -> PageTable:
    names = block["categories"]
    rows = [(f"reference {name}", *row) for name, row in zip(names, block["table"], strict=True)]
    return PageTable(("scans by lesions", *(f"reported {name}" for name in names)), rows)


def _span(low: float | None, high: float | None) -> str:
    return "undefined" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _valdo(block: Mapping[str, Any]) -> PageTable:
    rows = [
        (name, block[key]["median"], block[key]["q1"], block[key]["q3"], block[key]["n"])
        for name, key in (("F1", "f1"), ("absolute count difference", "count_difference"), ("Dice", "dice"))
    ]
    columns = ("per subject", "median", "lower quartile", "upper quartile", "subjects")
    return PageTable(columns, rows)


def _stratum(name: str, block: Mapping[str, Mapping[str, Any]]) -> PageTable:
    columns = list(dict.fromkeys(key for entry in block.values() for key in entry))
    rows = [(value, *(entry.get(key) for key in columns)) for value, entry in block.items()]
    return PageTable((name.replace("_mm", " (mm)"), *columns), rows)


def _kinds(block: Mapping[str, Any]) -> PageTable:
    rows = [(kind.replace("_", " "), value) for kind, value in block["per_scan"].items()]
    return PageTable(("false positives lie on", "per scan"), rows)


def _gallery(entries: Sequence[Entry], classes: Sequence[str], read_scan: ReadScan) -> Gallery:
    shown = entries[:SHOWN]
    pictures = []
    for start in range(0, len(shown), PER_PICTURE):
        part = tuple(shown[start : start + PER_PICTURE])
        section = Section("", BLUE if part[0].status == MISSED else VERMILION, part)
        names = ", ".join(dict.fromkeys(entry.case_id for entry in part))
        pictures.append(embed(gallery_figure([section], classes, read_scan), f"crops of {names}"))
    return Gallery(len(shown), len(entries), tuple(pictures))
