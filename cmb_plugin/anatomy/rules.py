"""Impossible places: what is found outside the brain or in its fluid is removed, by rules in mm chosen on validation.

The second half of Kim et al. 2023 (arXiv 2306.13020). What counts is how far a detection lies from tissue that could
bleed (``tissue_mm`` of ``locate``), in mm and never in voxels; how close to the brain's edge it lies within does not
count, because lobar microbleeds lie in the cortex, at the edge itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.detections import Detections

from .regions import GROUPS, NOT_TISSUE

MARGIN_MM = 2.0
ENOUGH_LESIONS = 20

WORDS = {"outside": "outside the brain", "csf": "in CSF", "ventricle": "in a ventricle"}


@dataclass(frozen=True)
class RemovalRules:
    """How far from tissue a detection may lie, at most, and stay.

    The defaults are for maps that were registered, whose outline of the brain is wrong by millimetres, and for lesions
    of validation scans that nobody has looked at: they remove what no error of that kind explains.

    Attributes:
        outside_mm: for a detection most of which lies outside the brain, or in the CSF around it.
        ventricle_mm: for one in a ventricle.
        source: kind of the region maps that the limits were chosen with (``atlas``, ...); "" for defaults.
        n_lesions: true lesions of validation that they were chosen on; 0 for defaults.
        farthest_outside_mm, farthest_ventricle_mm: the farthest of those lesions from tissue.
    """

    outside_mm: float = 10.0
    ventricle_mm: float = 5.0
    source: str = ""
    n_lesions: int = 0
    farthest_outside_mm: float = 0.0
    farthest_ventricle_mm: float = 0.0

    def limit(self, group: str) -> float:
        """In mm; infinite for tissue and what is unknown."""
        if group not in NOT_TISSUE:
            return np.inf
        return self.ventricle_mm if group == "ventricle" else self.outside_mm

    @property
    def description(self) -> str:
        """What is removed, as half a sentence."""
        chosen = f"chosen on {self.n_lesions} lesions of validation" if self.n_lesions else "defaults"
        return (
            f"what lies more than {self.outside_mm:g} mm outside the brain or {self.ventricle_mm:g} mm deep in a "
            f"ventricle is removed ({chosen})"
        )

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RemovalRules:
        """What ``dataclasses.asdict`` gave; further keys are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in names})


def remove_impossible(located: Detections, rules: RemovalRules) -> Detections:
    """Adds the column ``removed``: why a detection is none, "" for those that stay. All stay in the list, with scores.

    Args:
        located: detections with the columns of ``locate``. Where their place is unknown all stay.
    """
    groups, depths = located.columns["region_group"], located.columns["tissue_mm"].astype(float)
    reasons = [
        f"{WORDS[group]}, {depth:.1f} mm from tissue (limit {rules.limit(group):.1f} mm)"
        if depth > rules.limit(group)
        else ""
        for group, depth in zip(groups.tolist(), depths.tolist(), strict=True)
    ]
    return dataclasses.replace(located, columns={**located.columns, "removed": np.array(reasons, dtype=str)})


def choose_rules(
    lesions: Sequence[Detections],
    source: str,
    count: int | None = None,
    margin_mm: float = MARGIN_MM,
    enough: int = ENOUGH_LESIONS,
) -> RemovalRules:
    """The narrowest limits that keep every true lesion of the validation scans, and a margin.

    With n lesions kept, up to about 3 / n of new ones may lie farther than all of them (rule of three, 95 %); the
    margin is for those. Fewer than ``enough`` lesions say too little: then no limit is narrower than the default.

    Args:
        lesions: per scan the true lesions with the columns of ``locate``: their own boxes and those of the detections
            that found them.
        source: of the region maps, as on the command line; only its kind (``atlas``, ...) is kept.
        count: how many lesions those are, where some stand there twice.
        margin_mm: added to the distance of the farthest lesion.
        enough: so many lesions must be known.
    """
    groups = np.concatenate([scan.columns["region_group"] for scan in lesions] or [np.zeros(0, str)])
    depths = np.concatenate([scan.columns["tissue_mm"].astype(float) for scan in lesions] or [np.zeros(0)])
    placed = np.isin(groups, (*GROUPS, *NOT_TISSUE))
    in_ventricle = groups == "ventricle"
    farthest_outside = _farthest(depths[placed & ~in_ventricle])
    farthest_ventricle = _farthest(depths[placed & in_ventricle])
    count = int(placed.sum()) if count is None else count
    floor = RemovalRules() if count < enough else RemovalRules(outside_mm=0.0, ventricle_mm=0.0)
    return RemovalRules(
        outside_mm=max(round(farthest_outside + margin_mm, 1), floor.outside_mm),
        ventricle_mm=max(round(farthest_ventricle + margin_mm, 1), floor.ventricle_mm),
        source=source_kind(source),
        n_lesions=count,
        farthest_outside_mm=round(farthest_outside, 2),
        farthest_ventricle_mm=round(farthest_ventricle, 2),
    )


def source_kind(source: str) -> str:
    """``atlas:builtin`` -> ``atlas``: maps of one kind err alike, and share their limits."""
    return source.partition(":")[0]


def widest(rules: Sequence[RemovalRules]) -> RemovalRules:
    """Of rules chosen on several folds the widest limits: no fold may lose a lesion to another's."""
    values = {
        name: max(getattr(rule, name) for rule in rules)
        for name in ("outside_mm", "ventricle_mm", "farthest_outside_mm", "farthest_ventricle_mm")
    }
    return RemovalRules(source=rules[0].source, n_lesions=sum(rule.n_lesions for rule in rules), **values)


def _farthest(depths: np.ndarray) -> float:
    finite = depths[np.isfinite(depths)]
    return float(finite.max(initial=0.0))
