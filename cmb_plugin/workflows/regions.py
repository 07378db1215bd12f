"""``--regions``: the words of the command line become a source of region maps for every scan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cmb_plugin.anatomy import RegionMap
from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError

NONE, AUTO = "none", "auto"
FORMS = "auto, model:NAME, parcellation:DIR, atlas:FILE[:LABELS.tsv], atlas:builtin, none"


@dataclass(frozen=True)
class RegionSource:
    """Makes the region map of a scan.

    Attributes:
        words: of the command line, made definite: never ``auto``.
        make: map of a case, on the grid of its scan.
        key: a text that changes when the map of a case would.
    """

    words: str
    make: Callable[[Case], RegionMap]
    key: Callable[[Case], str]


def maps_folder(predictions: Path) -> Path:
    """``{predictions}/regions``: the maps that were made for a folder of predictions."""
    return predictions / "regions"


def check_words(words: str) -> tuple[str, str]:
    """Kind and what follows it: ``atlas:a.nii.gz:b.tsv`` -> ``atlas``, ``a.nii.gz:b.tsv``.

    Raises:
        UserError: no such kind, or nothing follows where something must.
    """
    kind, _, rest = words.partition(":")
    if (kind in (NONE, AUTO) and not rest) or (kind in ("model", "parcellation", "atlas") and rest):
        return kind, rest
    raise UserError(f"--regions {words}: no known source of regions", remedy=f"known: {FORMS}")
