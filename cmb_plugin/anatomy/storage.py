"""Region maps kept beside predictions: ``{case}_regions.nii.gz`` to look at, ``{case}_regions.json`` for the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask, write_image

from .regions import Place, RegionMap

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
            **{
                name: getattr(regions, name) for name in ("source", "quality", "trusted", "why", "findings", "midplane")
            },
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
        places = {int(value): Place(**place) for value, place in content["places"].items()}
        midplane = content["midplane"]
        return RegionMap(
            labels.astype("uint16"),
            grid,
            places,
            source=content["source"],
            quality=content["quality"],
            trusted=content["trusted"],
            why=content["why"],
            findings=tuple(content["findings"]),
            midplane=None if midplane is None else tuple(midplane),
        )
    except (UserError, KeyError, TypeError, ValueError):
        return None


def _json_file(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}_regions.json"
