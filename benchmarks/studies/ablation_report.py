"""Tables and a figure that compare the rows of a study: every number with its interval over subjects.

Used by ablation.py and generalisation.py; what is counted and how is said in docs/evaluation.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tools.markdown import put_between_markers, table_head, table_row
from cmb_plugin.benchmark.entries import Entry, trained_steps
from cmb_plugin.benchmark.machine import made_with
from cmb_plugin.dataset import Dataset
from cmb_plugin.documents import counted
from cmb_plugin.evaluation import Estimate, fp_at_sensitivity
from cmb_plugin.evaluation.metrics import measure
from cmb_plugin.files import read_json, write_text
from cmb_plugin.reporting.figures import save_figure
from cmb_plugin.tabular import as_csv, columns_of

from .ablation_figure import study_figure
from .ablation_runs import PAPER, SCOPES, TARGETS, Study, load_study


def write_report(
    entries: Sequence[Entry],
    output: Path,
    *,
    page: Path | None = None,
    figure: Path | None = None,
    resamples: int = 2000,
    marker: str = "ablation",
) -> list[Path]:
    """Writes ``table.md``, ``runs.csv`` and ``froc.png`` into ``output`` and returns the files.

    The table also goes between the markers of ``page``, the figure also to ``figure``.
    """
    study = load_study(entries, resamples)
    text = markdown(study, resamples)
    files = [output / "table.md", output / "runs.csv", output / "froc.png"]
    write_text(files[0], text)
    write_text(files[1], raw_numbers(study))
    drawn = study_figure(study)
    for path in [files[2], *([figure] if figure else [])]:
        save_figure(drawn, path, dpi=110)
    if page is not None:
        put_between_markers(page, marker, text)
    return [*files, *(path for path in (page, figure) if path is not None)]


def markdown(study: Study, resamples: int) -> str:
    """The generated part of the page."""
    first = study.of_row(study.rows[0])[0]
    cases = first.cases["definite"]
    n_definite, n_all = (first.curves[scope].n_lesions for scope in SCOPES)
    healthy = sum(not len(case.truth_boxes) for case in cases)
    lines = [
        f"{len(cases)} test scans, {healthy} of them healthy, {n_definite} definite and {n_all - n_definite} possible "
        f"lesions; {counted(len(study.seeds), 'seed')} ({', '.join(map(str, study.seeds))}). Mean over the seeds; in "
        f"brackets the 95 % interval of {resamples} bootstrap resamples of the subjects, the same for all rows.",
    ]
    if study.missing:
        lines.append(f"Not finished, so not in these numbers: {', '.join(study.missing)}.")
    for scope, words in SCOPES.items():
        lines += ["", f"**{words[0].upper()}{words[1:]}**", "", *_main_table(study, scope)]
    for scope, words in SCOPES.items():
        lines += ["", f"False positives per scan at given sensitivities, {words}:", "", *_targets_table(study, scope)]
    if study.kinds:
        shared = f"{100 * study.sensitivity['definite']:.2f} %"
        lines += ["", f"False positives per scan by what they lie on, where each row finds {shared} of the lesions:"]
        lines += ["", *_kinds_table(study, "equal")]
        lines += ["", "The same at the operating points that the sweeps chose:", "", *_kinds_table(study, "kind")]
    lines += ["", "Each run:", "", *_runs_table(study), "", *_provenance(study)]
    return "\n".join(lines) + "\n"


def _main_table(study: Study, scope: str) -> list[str]:
    shared = study.sensitivity[scope]
    at_shared = f"fp_per_scan@{shared:g}"
    note = (
        "" if shared == PAPER else f" (the highest that every run reaches; {100 * PAPER:.2f} % is not reached by all)"
    )
    lines = [
        table_head(
            "",
            "sensitivity at the operating point",
            "FP per scan there",
            f"FP per scan at {100 * shared:.2f} % sensitivity",
            "ratio to the first row",
            "sensitivity at 1 FP per scan",
            "FROC score",
        )
    ]
    reference = study.statistics[study.rows[0]][scope]
    for row in study.rows:
        one = study.statistics[row][scope]
        cells = [
            show(one.estimate("sensitivity"), 3),
            show(one.estimate("fp_per_scan")),
            show(one.estimate(at_shared)),
            "1" if row == study.rows[0] else show(one.ratio(reference, at_shared)),
            show(one.estimate("sensitivity@1"), 3),
            show(one.estimate("froc_score"), 3),
        ]
        lines.append(table_row(row, *cells))
    return [*lines, *(["", f"Sensitivity compared at: {100 * shared:.2f} %{note}."] if note else [])]


def _targets_table(study: Study, scope: str) -> list[str]:
    """Rows: false positives at each sensitivity, then their ratio to the first row."""
    lines = [table_head("", *(f"{100 * target:g} %" for target in TARGETS))]
    reference = study.statistics[study.rows[0]][scope]
    for row in study.rows:
        one = study.statistics[row][scope]
        lines.append(table_row(row, *(show(one.estimate(f"fp_per_scan@{target:g}")) for target in TARGETS)))
    for row in study.rows[1:]:
        one = study.statistics[row][scope]
        cells = (show(one.ratio(reference, f"fp_per_scan@{target:g}")) for target in TARGETS)
        lines.append(table_row(f"{row}, ratio", *cells))
    return lines


def _kinds_table(study: Study, prefix: str) -> list[str]:
    lines = [table_head("", *(kind.replace("_", " ") for kind in study.kinds))]
    for row in study.rows:
        one = study.statistics[row]["definite"]
        cells = (show(one.estimate(f"{prefix}:{kind}_per_scan")) for kind in study.kinds)
        lines.append(table_row(row, *cells))
    return lines


def _runs_table(study: Study) -> list[str]:
    shared = study.sensitivity["definite"]
    numbers = ("seed", "operating point", "sensitivity", "FP per scan", f"FP per scan at {100 * shared:.2f} %")
    lines = [table_head("", *numbers, "FROC score", "steps", "training s", "prediction s")]
    for values in _numbers(study):
        if values["lesions"] == "definite":
            ranking = f" of {values['ranking']}" if values["ranking"] else ""
            cells = [
                values["row"],
                str(values["seed"]),
                f"{values['operating_point']:.3f}{ranking}",
                *(_number(values[key], 3) for key in ("sensitivity",)),
                *(_number(values[key], 2) for key in ("fp_per_scan", "fp_at_shared_sensitivity")),
                _number(values["froc_score"], 3),
                *(str(values[key]) for key in ("steps", "train_seconds", "predict_seconds")),
            ]
            lines.append(table_row(*cells))
    return lines


def _provenance(study: Study) -> list[str]:
    commands = []
    for row in study.rows:
        commands += study.of_row(row)[0].state["commands"].values()
    return [
        f"{'; '.join(made_with(result.state for result in study.results))}. "
        "Seconds are those of the whole commands; training includes validation.",
        "",
        f"Commands of seed {study.seeds[0]}:",
        "",
        "```",
        *commands,
        "```",
    ]


def _numbers(study: Study) -> list[dict[str, Any]]:
    """One dictionary per finished run and scope."""
    collected = []
    for result in study.results:
        entry = result.entry
        point = entry.fold_folder.operating_point
        for scope, cases in result.cases.items():
            classes = Dataset.load(entry.task).classes
            config = dataclasses.replace(result.config, sensitivities=TARGETS)
            metrics = measure(cases, classes, config)
            kinds = metrics["false_positive_kinds"]
            shared = fp_at_sensitivity(result.curves[scope], study.sensitivity[scope])
            collected.append(
                {
                    "row": entry.method.name,
                    "seed": entry.seed,
                    "lesions": scope,
                    "model": result.state.get("model", entry.name),
                    "n_cases": metrics["n_cases"],
                    "n_lesions": metrics["n_lesions"],
                    "operating_point": metrics["operating_point"]["score"],
                    "ranking": (read_json(point).get("ranking") if point.is_file() else None) or "",
                    **{key: metrics[key] for key in ("sensitivity", "precision", "f1", "fp_per_scan", "froc_score")},
                    **{f"sensitivity_at_{rate}_fp": value for rate, value in metrics["froc"].items()},
                    **{f"fp_at_{share}": value for share, value in metrics["fp_at_sensitivity"].items()},
                    "shared_sensitivity": study.sensitivity[scope],
                    "fp_at_shared_sensitivity": shared,
                    "highest_sensitivity": result.highest(scope),
                    **{f"fp_{kind}": value for kind, value in (kinds["per_scan"] if kinds else {}).items()},
                    "steps": trained_steps(entry),
                    **{f"{phase}_seconds": round(value) for phase, value in result.state["seconds"].items()},
                    "threads": result.state["threads"],
                    "jobs": result.state["jobs"],
                    "commit": result.state["machine"]["commit"],
                }
            )
    return collected


def raw_numbers(study: Study) -> str:
    """The same as a CSV."""
    rows = _numbers(study)
    return as_csv(columns_of(rows), rows)


def show(estimate: Estimate, decimals: int = 2) -> str:
    """``0.86 (0.52-1.31)``; an interval without an upper end ends in ``∞``."""
    if estimate.value is None:
        return "-" if estimate.low is None else f"not reached (from {estimate.low:.{decimals}f})"
    if estimate.low is None:
        return f"{estimate.value:.{decimals}f}"
    high = "∞" if estimate.high is None else f"{estimate.high:.{decimals}f}"
    return f"{estimate.value:.{decimals}f} ({estimate.low:.{decimals}f}-{high})"


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
