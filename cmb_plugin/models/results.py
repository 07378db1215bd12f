"""What every evaluation ends in: numbers, intervals, tables, figures and one report, in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig, headline_intervals, measure, nndetection_results
from cmb_plugin.files import write_json, write_text
from cmb_plugin.images import read_scan

from .scored_cases import ScoredCases


@dataclass
class EvaluationRun:
    """What an evaluation did.

    Attributes:
        title: task, model, fold and split in words.
        metrics: the content of ``metrics.json``.
        folder: where the files were written.
        files: the files.
        notes: one line each on what the reader of the numbers should know.
    """

    title: str
    metrics: dict[str, Any]
    folder: Path
    files: list[Path]
    notes: list[str]

    @property
    def complete(self) -> bool:
        """Whether every labelled case of the split could be measured as predicted."""
        return not (self.metrics["missing_cases"] or self.metrics["unreadable_cases"])


def measure_scored(scored: ScoredCases, config: EvaluationConfig, origin: str) -> dict[str, Any]:
    """The content of ``metrics.json``.

    Args:
        scored: the scans.
        config: how they are compared, with a score.
        origin: where the score comes from.
    """
    source = scored.source
    metrics = {
        "task": source.name,
        "split": source.split,
        "missing_cases": scored.missing,
        "unreadable_cases": sorted(scored.unreadable),
        **measure(scored.cases, source.classes, config),
        "intervals": headline_intervals(scored.cases, config),
    }
    metrics["operating_point"] |= {"source": origin, "ranking": source.operating_point.ranking}
    return metrics


def write_results(
    folder: Path,
    title: str,
    metrics: Mapping[str, Any],
    scored: ScoredCases,
    config: EvaluationConfig,
    notes: Sequence[str] = (),
) -> list[Path]:
    """Writes metrics.json, results_boxes.json, detections.tsv, froc.png, gallery*.png, report.html; returns the paths.

    Args:
        folder: where to write.
        title: first line of figures and report.
        metrics: from ``measure_scored``.
        scored: the scans.
        config: how they were compared.
        notes: sentences for the report.
    """
    from cmb_plugin.evaluation.listing import list_entries, write_entries
    from cmb_plugin.reporting.evaluation_page import evaluation_page
    from cmb_plugin.reporting.figures import froc_figure, save_figure
    from cmb_plugin.reporting.gallery import write_gallery

    classes, images = scored.source.classes, scored.source.images

    def read(name: str) -> Any:
        """The scan and the grid that pictures of a case show.

        Raises:
            UserError: there is none.
        """
        if name not in images:
            raise UserError(f"{name}: no scan was named", remedy="name the folder of scans with --images")
        return read_scan(images[name])

    entries = list_entries(scored.cases, config)
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in ("metrics.json", "detections.tsv", "froc.png", "results_boxes.json")]
    write_json(files[0], metrics)
    write_json(files[3], nndetection_results(metrics))
    write_entries(files[1], entries, classes, scored.grids)
    save_figure(froc_figure(metrics, title), files[2])
    files += write_gallery(folder, entries, classes, read, title)
    write_text(folder / "report.html", evaluation_page(title, metrics, entries, classes, read, notes))
    return [*files, folder / "report.html"]
