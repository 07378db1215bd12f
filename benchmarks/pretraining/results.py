"""What rounds of pretraining brought: the number that decides, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.tools.markdown import table_head, table_row
from cmb_plugin.tabular import show_number

from .recipe import POOL_SEED

RATES = ("0.25", "0.5", "1", "2")


def quality_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """What decides, the mean sensitivity at ``RATES``, and the sensitivities themselves.

    Args:
        metrics: the content of ``metrics.json``.
    """
    froc = metrics["froc"]
    reached = {rate: froc[rate] or 0.0 for rate in RATES}
    return {
        "quality": round(sum(reached.values()) / len(RATES), 4),
        "sensitivity": {rate: round(value, 4) for rate, value in reached.items()},
        "healthy_fp_per_scan": metrics["healthy"]["fp_per_scan"],
        "protocols": metrics["strata"].get("domain") or {},
    }


def table(results: Sequence[dict[str, Any]]) -> str:
    """What each round brought, in Markdown."""
    lines = [
        table_head(
            *("round", "seed", "scans", "steps", "hours", "mean"), *(f"at {rate} FP" for rate in RATES), "replaced"
        )
    ]
    for result in results:
        recipe = result["recipe"]
        name = "start" if result["round"] < 0 else result["round"]
        lines.append(
            table_row(
                *(
                    "start" if result["round"] < 0 else result["round"],
                    result["seed"],
                    recipe["scans"],
                    recipe["steps"],
                    f"{result['hours']:.2f}",
                ),
                f"{result['quality']:.3f}",
                *(f"{result['sensitivity'][rate]:.3f}" for rate in RATES),
                "yes" if result["kept"] else "no",
            )
        )
    best = [result for result in results if result["kept"]][-1]
    lines += [
        "",
        f"Round {best['round']} by protocol, at its operating point:",
        "",
        table_head("protocol", "scans", "definite lesions", "sensitivity", "false positives per scan"),
    ]
    for name, own in best["protocols"].items():
        reached = (show_number(own[key], 3) for key in ("sensitivity", "fp_per_scan"))
        lines.append(table_row(name, own["n_cases"], own["n_lesions"], *reached))
    last = results[-1]
    lines += [
        "",
        f"Sensitivity on {last['recipe']['pool']} phantoms of seed {POOL_SEED}, on which operating points are chosen "
        f"too. Last round: {last['machine']}.",
    ]
    return "\n".join(lines)
