"""What the prototypes stand for that a trainer compares detections with: their names, and a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from cmb_plugin.reporting.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, YELLOW

MIMIC = "mimic"
NO_MIMIC = "none"  # as ``mimic_kinds`` calls what lies on no known mimic
_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, YELLOW, "#56B4E9", "#000000")


def name_prototypes(
    kinds: Sequence[str], likeliest: np.ndarray, seen: Sequence[str]
) -> tuple[list[str], list[dict[str, int]]]:
    """Names prototypes by what they stand for.

    Args:
        kinds: kind of each of the K prototypes: ``mimic``, or the name of a lesion class.
        likeliest: [N] index of the likeliest prototype of each detection.
        seen: what each detection truly is: the name of a class, the kind of a mimic, or ``none``.

    Returns:
        K names (``cmb 1``, ``mimic 2``, or ``mimic 2 (vein_straight)`` where that kind is at least half of what it
        stands for), and for each prototype how many detections of what it stands for.
    """
    members = [Counter(np.asarray(seen, dtype=object)[np.asarray(likeliest) == k].tolist()) for k in range(len(kinds))]
    numbers: Counter[str] = Counter()
    names = []
    for kind, counts in zip(kinds, members, strict=True):
        numbers[kind] += 1
        known = [name for name, n in counts.items() if name not in (NO_MIMIC, *kinds) and 2 * n >= counts.total()]
        meaning = f" ({known[0]})" if kind == MIMIC and known else ""
        names.append(f"{kind} {numbers[kind]}{meaning}")
    return names, [dict(counts.most_common()) for counts in members]


def prototypes_figure(
    odds: np.ndarray,
    likeliest: np.ndarray,
    seen: Sequence[str],
    names: Sequence[str],
    lesions: Sequence[str],
    title: str = "",
) -> Figure:
    """Detections as dots coloured by what they truly are: a row for each prototype with those that it stands for,
    from what looks like a mimic on the left to what looks like a lesion on the right.

    Args:
        odds: [N] log of the odds that a detection is a lesion and no mimic, by its distances to all prototypes and by
            how rare lesions are.
        likeliest: [N] index of the likeliest prototype of each detection.
        seen: N kinds, as for ``name_prototypes``.
        names: K names.
        lesions: names of the lesion classes; they are drawn last and largest.
        title: for instance task, model and fold.
    """
    figure = Figure(figsize=(8.6, 1.6 + 0.42 * len(names)), layout="constrained")
    axes = figure.subplots()
    counts = Counter(seen)
    order = [kind for kind, _ in counts.most_common() if kind not in lesions] + [c for c in lesions if c in counts]
    colours = {NO_MIMIC: GREY} | dict(
        zip([k for k in order if k != NO_MIMIC and k not in lesions], _COLOURS, strict=False)
    )
    rows = likeliest + np.random.default_rng(0).uniform(-0.34, 0.34, size=len(likeliest))  # dots beside each other
    for kind in order:
        chosen = np.array([is_kind == kind for is_kind in seen], dtype=bool)
        is_lesion = kind in lesions
        axes.scatter(
            odds[chosen],
            rows[chosen],
            s=30 if is_lesion else 9,
            c=VERMILION if is_lesion else colours.get(kind, GREY),
            marker="o",
            alpha=0.9 if is_lesion else 0.5,
            edgecolors="black" if is_lesion else "none",
            linewidths=0.5,
            label=f"{'no known mimic' if kind == NO_MIMIC else kind} ({counts[kind]})",
            zorder=3 if is_lesion else 2,
        )
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=GREY, linewidth=0.3, alpha=0.5, zorder=1)
    held = np.bincount(likeliest, minlength=len(names))
    axes.set_yticks(range(len(names)), [f"{name}: {n}" for name, n in zip(names, held, strict=True)], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("like mimics   <   log odds by the distances to all prototypes   >   like lesions")
    axes.set_ylabel("likeliest prototype, and of how many detections")
    axes.set_title(title, fontsize=10)
    if counts:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, title="detections")
    return figure
