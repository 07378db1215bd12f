"""The space in which a trainer compares detections with prototypes: what each prototype stands for, and a picture."""

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
    kinds: Sequence[str], nearest: np.ndarray, seen: Sequence[str]
) -> tuple[list[str], list[dict[str, int]]]:
    """Names prototypes by what lies nearest to them.

    Args:
        kinds: kind of each of the K prototypes: ``mimic``, or the name of a lesion class.
        nearest: [N] index of the prototype that each detection is nearest to.
        seen: what each detection truly is: the name of a class, the kind of a mimic, or ``none``.

    Returns:
        K names (``cmb 1``, ``mimic 2``, or ``mimic 2 (vein_straight)`` where that kind is at least half of what lies
        nearest to it), and for each prototype how many detections of what lie nearest to it.
    """
    members = [Counter(np.asarray(seen, dtype=object)[np.asarray(nearest) == k].tolist()) for k in range(len(kinds))]
    numbers: Counter[str] = Counter()
    names = []
    for kind, counts in zip(kinds, members, strict=True):
        numbers[kind] += 1
        known = [name for name, n in counts.items() if name not in (NO_MIMIC, *kinds) and 2 * n >= counts.total()]
        meaning = f" ({known[0]})" if kind == MIMIC and known else ""
        names.append(f"{kind} {numbers[kind]}{meaning}")
    return names, [dict(counts.most_common()) for counts in members]


def principal_plane(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """The plane in which points spread most (principal components).

    Args:
        points: [N, E], N >= 1; they define the plane.
        others: [M, E], brought into the same plane.

    Returns:
        [N, 2] and [M, 2] coordinates, and the share of the points' variance that the plane shows.
    """
    middle = points.mean(axis=0)
    _, values, axes = np.linalg.svd(points - middle, full_matrices=False)
    axes = np.vstack([axes, np.zeros((2, points.shape[1]))])[:2]
    total = float((values**2).sum())
    shown = float((values[:2] ** 2).sum()) / total if total > 0 else 1.0
    return (points - middle) @ axes.T, (others - middle) @ axes.T, shown


def embedding_figure(
    embeddings: np.ndarray,
    seen: Sequence[str],
    prototypes: np.ndarray,
    names: Sequence[str],
    lesions: Sequence[str],
    title: str = "",
) -> Figure:
    """Detections as dots coloured by what they truly are, prototypes as stars, in the plane of greatest spread.

    Args:
        embeddings: [N, E] of the detections.
        seen: N kinds, as for ``name_prototypes``.
        prototypes: [K, E].
        names: K names.
        lesions: names of the lesion classes; they are drawn last and largest.
        title: for instance task, model and fold.
    """
    figure = Figure(figsize=(8.6, 6.2), layout="constrained")
    axes = figure.subplots()
    everything = np.concatenate([embeddings.reshape(-1, prototypes.shape[1]), prototypes])
    dots, stars, shown = principal_plane(everything, prototypes)
    dots = dots[: len(embeddings)]
    counts = Counter(seen)
    order = [kind for kind, _ in counts.most_common() if kind not in lesions] + [c for c in lesions if c in counts]
    colours = {NO_MIMIC: GREY} | dict(
        zip([k for k in order if k != NO_MIMIC and k not in lesions], _COLOURS, strict=False)
    )
    for kind in order:
        chosen = np.array([is_kind == kind for is_kind in seen], dtype=bool)
        is_lesion = kind in lesions
        axes.scatter(
            dots[chosen, 0],
            dots[chosen, 1],
            s=34 if is_lesion else 14,
            c=VERMILION if is_lesion else colours.get(kind, GREY),
            marker="o",
            alpha=0.9 if is_lesion else 0.55,
            edgecolors="black" if is_lesion else "none",
            linewidths=0.5,
            label=f"{'no known mimic' if kind == NO_MIMIC else kind} ({counts[kind]})",
            zorder=3 if is_lesion else 2,
        )
    for (x, y), name in zip(stars, names, strict=True):
        colour = "black" if name.startswith(MIMIC) else VERMILION
        axes.plot(x, y, "*", markersize=15, color=colour, markeredgecolor="white", zorder=4)
        axes.annotate(name, (x, y), xytext=(6, 5), textcoords="offset points", fontsize=7, color=colour, zorder=5)
    axes.set(xlabel="first principal component", ylabel="second principal component")
    axes.set_title(f"{title}\n{shown:.0%} of the variance shown; stars are prototypes", fontsize=10)
    if counts:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False, title="detections")
    return figure
