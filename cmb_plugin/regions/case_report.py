"""``{case}_report.json``, ``.png``, ``.pdf`` and ``.html`` per scan, ``cohort.tsv`` per run (docs/anatomy.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.anatomy import RegionMap
from cmb_plugin.anatomy.counts import COHORT_COLUMNS, Lesion, cohort_row, lesions_of, summary
from cmb_plugin.anatomy.regions import CODES, GROUPS
from cmb_plugin.dataset import CasePredictions, boxes_file, read_case_predictions
from cmb_plugin.dataset.predictions import REMOVED, microbleed_labels
from cmb_plugin.documents import RESEARCH_USE_ONLY
from cmb_plugin.errors import UserError
from cmb_plugin.files import write_json, write_text
from cmb_plugin.images import read_scan
from cmb_plugin.tabular import write_table

from .quality import quality_flags
from .restoration import COHORT_FILE, report_files

SCHEMA = 1


def certainty(predictions: CasePredictions) -> list[str]:
    """``definite`` for what is reported, ``possible`` for what reaches the lower score of the sweep, "" for the rest.

    Where the model has a class of microbleeds beside others, only that one counts.
    """
    possible = (predictions.regions or {}).get("possible_score")
    counts = np.isin(predictions.detections.labels, microbleed_labels(predictions.classes))
    words = np.where(predictions.reported & counts, "definite", "").astype("<U8")
    if possible is not None:
        words[predictions.reached(possible) & ~predictions.removed & ~predictions.reported & counts] = "possible"
    return list(words.tolist())


def counted_lesions(predictions: CasePredictions) -> list[Lesion]:
    """The lesions of a placed case that count, in the order of its detections."""
    return lesions_of(predictions.detections, certainty(predictions))


def write_case_report(
    folder: Path,
    predictions: CasePredictions,
    regions: RegionMap,
    scan: Path,
    spacing: Sequence[float] | None = None,
) -> None:
    """Writes the files of a placed case; a scan that cannot be read leaves the page without pictures.

    Args:
        folder: predictions folder.
        predictions: of the case, placed.
        regions: of its scan.
        scan: the file to show.
        spacing: mm of the scans that the model sees; None where nobody knows.
    """
    from cmb_plugin.reporting.figures import save_figure

    from .case_content import PageContent
    from .case_html import case_html
    from .case_page import case_page

    report, page, document, html = report_files(folder, predictions.case_id)
    words = certainty(predictions)
    lesions = lesions_of(predictions.detections, words)
    try:
        shown = read_scan(scan)
    except UserError:
        shown = None
    brain = _brain(regions, None if shown is None else shown[0])
    flags = [
        *predictions.warnings,
        *quality_flags(shown, brain, regions, spacing, sum(word == "definite" for word in words)),
    ]
    content = PageContent(predictions, words, lesions, regions, shown, brain, flags)
    figure = case_page(content)
    save_figure(figure, page, dpi=200)
    save_figure(figure, document)
    write_text(html, case_html(content))
    write_json(report, {**_content(predictions, words, lesions), "quality_flags": flags})


def _brain(regions: RegionMap, scan: np.ndarray | None) -> np.ndarray | None:
    """The outline to draw: that of the regions, or, where they are unknown, what looks like brain in the scan."""
    if regions.trusted:
        codes = regions.group_codes()
        return np.isin(codes, [CODES["outside"], CODES["csf"]], invert=True)
    if scan is None or scan.shape != regions.grid.shape:
        return None
    from cmb_plugin.preparation import estimate_brain

    return estimate_brain(np.nan_to_num(scan), regions.grid.spacing)


def _content(predictions: CasePredictions, words: Sequence[str], lesions: Sequence[Lesion]) -> dict[str, Any]:
    regions = predictions.regions or {}
    found = predictions.detections
    world = predictions.grid.to_world(found.centres) * (-1.0, -1.0, 1.0) + 0.0

    def entry(row: int) -> dict[str, Any]:
        """What every list of detections in the report says about one."""
        return {
            "lesion": row + 1,
            "score": round(float(found.scores[row]), 6),
            "diameter_mm": round(float(predictions.diameters_mm[row]), 3),
            "centre_ras_mm": np.round(world[row], 3),
        }

    borders = found.columns["border_mm"].astype(float)
    rows = [row for row, word in enumerate(words) if word]
    gone = np.flatnonzero(predictions.withheld)
    return {
        "schema": SCHEMA,
        "warning": RESEARCH_USE_ONLY,
        "case": predictions.case_id,
        "model": predictions.model,
        "folds": list(predictions.folds),
        "operating_point": {"score": predictions.operating_point, "possible_score": regions.get("possible_score")},
        "regions": {name: regions.get(name) for name in ("source", "quality", "trusted", "why", "findings")},
        "rules": regions.get("rules"),
        "counts": summary(lesions, regions.get("sub_regions", ()), regions.get("possible_score") is not None),
        "lesions": [
            {
                **entry(row),
                "certainty": lesion.certainty,
                "group": lesion.group,
                "region": lesion.region or None,
                "side": lesion.side or None,
                "border_mm": round(borders[row], 2) if np.isfinite(borders[row]) else None,
            }
            for row, lesion in zip(rows, lesions, strict=True)
        ],
        "removed": [{**entry(row), "reason": str(found.columns[REMOVED][row])} for row in gone.tolist()],
    }


def write_cohort(folder: Path, case_ids: Sequence[str]) -> Path:
    """Writes ``cohort.tsv``: a row of counts for each placed case."""
    rows: list[dict[str, Any]] = []
    for case_id in case_ids:
        predictions = read_case_predictions(boxes_file(folder, case_id))
        if predictions.regions is None:
            rows.append({"case": case_id, "why": "its lesions could not be placed"})
            continue
        regions = predictions.regions
        possible_known = regions.get("possible_score") is not None
        counts = cohort_row(counted_lesions(predictions), regions.get("sub_regions", ()), possible_known)
        if not regions.get("trusted"):  # a zero would say that there are none
            counts |= dict.fromkeys((*GROUPS, "right", "left"))
        removed = int(predictions.withheld.sum())
        rows.append(
            {
                "case": case_id,
                **counts,
                "removed": removed,
                "regions": regions.get("source") if regions.get("trusted") else "unknown",
                "quality": regions.get("quality"),
                "why": regions.get("why"),
            }
        )
    columns = ("case", *COHORT_COLUMNS, "removed", "regions", "quality", "why")
    write_table(folder / COHORT_FILE, columns, rows)
    return folder / COHORT_FILE
