"""Region maps kept beside predictions: ``{case}_regions.nii.gz`` to look at, ``{case}_regions.json`` for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask, write_image

from .regions import CODES, Place, RegionMap

SCHEMA = 1


def map_file(folder: Path, case_id: str) -> Path:
    """``{folder}/{case}_regions.nii.gz``: its values are explained in the JSON beside it."""
    return folder / f"{case_id}_regions.nii.gz"


def save_map(folder: Path, case_id: str, regions: RegionMap, key: str) -> None:
    """Writes a map; ``key`` changes with what it was made from, so that a later run knows whether it still holds."""
    write_image(map_file(folder, case_id), regions.labels, regions.grid)
    write_json(
        _json_file(folder, case_id),
        {
            "schema": SCHEMA,
            "case": case_id,
            "key": key,
            **{field.name: getattr(regions, field.name) for field in dataclasses.fields(_Facts)},
            "places": {str(value): dataclasses.asdict(place) for value, place in sorted(regions.places.items())},
        },
    )


def load_map(folder: Path, case_id: str, key: str | None = None) -> RegionMap | None:
    """The map of a case; None where there is none, it was made from something else than ``key``, or it is damaged.

    Args:
        folder: where it was saved.
        case_id: name of the case.
        key: that of the map that is wanted; None takes any.
    """
    try:
        content = read_json(_json_file(folder, case_id))
        if content["schema"] != SCHEMA or (key is not None and content["key"] != key):
            return None
        labels, grid = read_mask(map_file(folder, case_id))
        where = str(_json_file(folder, case_id))
        places = {int(value): from_json(Place, place, where) for value, place in content["places"].items()}
        if not {place.group for place in places.values()} <= set(CODES):
            return None
        facts = from_json(_Facts, {field.name: content[field.name] for field in dataclasses.fields(_Facts)}, where)
        return RegionMap(labels.astype("uint16"), grid, places, **vars(facts))
    except (UserError, KeyError, TypeError, ValueError, AttributeError):
        return None


@dataclasses.dataclass(frozen=True)
class _Facts:
    """The fields of a ``RegionMap`` that its JSON holds as they are."""

    source: str
    quality: float | None
    trusted: bool
    why: str
    findings: tuple[str, ...]
    midplane: tuple[float, float, float, float] | None


def _json_file(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}_regions.json"
