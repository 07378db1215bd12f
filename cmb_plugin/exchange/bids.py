"""Predictions as a BIDS derivative: masks, tables of lesions with a dictionary of their columns, a description."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.anatomy.counts import burden
from cmb_plugin.anatomy.regions import GROUPS
from cmb_plugin.dataset import CasePredictions
from cmb_plugin.documents import RESEARCH_USE_ONLY
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json, write_text
from cmb_plugin.images import write_image
from cmb_plugin.tabular import write_table

from .case import ExportedCase, reported_lesions

BIDS_VERSION = "1.10.0"
PROGRAM = "cmb_plugin"
"""How ``GeneratedBy`` names what wrote a derivative."""
DESCRIPTION = "cmb"
MASK, LESIONS = f"desc-{DESCRIPTION}_dseg", f"desc-{DESCRIPTION}_lesions"
GROUP_TABLE = "group_microbleeds"
# "nndet/" would leave the validator the folder itself, which it takes for a misnamed file.
IGNORED = ("*_lesions.tsv", "*_lesions.json", f"{GROUP_TABLE}.*", "nndet")
"""What the derivative holds that BIDS has no name for yet."""

_PLACE = (
    "of the lesion's centre; world coordinates of the scan's header, x to the right, y to the front, z up (RAS), as "
    "NIfTI viewers show them"
)
COLUMNS: dict[str, dict[str, Any]] = {
    "index": {"Description": "Number of the lesion: its voxels in the dseg image have this value."},
    "class": {"Description": "Kind of lesion."},
    "score": {"Description": "Score of the detector from 0 to 1; it ranks lesions and is no probability."},
    "diameter": {"Description": "Geometric mean of the box's sides: of a sphere its diameter.", "Units": "mm"},
    "volume": {"Description": "Volume of the lesion's voxels in the dseg image.", "Units": "mm^3"},
    **{name: {"Description": f"Coordinate {name} {_PLACE}.", "Units": "mm"} for name in "xyz"},
    **{
        name: {"Description": f"Index of the voxel that holds the centre along the image's axis {axis}, from 0."}
        for name, axis in zip("ijk", ("1", "2", "3"), strict=True)
    },
    "group": {
        "Description": "Where the lesion lies, as the Microbleed Anatomical Rating Scale groups regions; n/a where no "
        "map of regions was asked for or it is not trusted.",
        "Levels": {
            "lobar": "Cortex and white matter of the lobes, insula",
            "deep": "Basal ganglia, thalamus, capsules, corpus callosum, deep and periventricular white matter",
            "infratentorial": "Brainstem and cerebellum",
        },
    },
    "region": {"Description": "Sub-region of the Microbleed Anatomical Rating Scale; n/a where it is not known."},
    "side": {"Description": "Hemisphere.", "Levels": {"left": "Left", "right": "Right"}},
}  # fmt: skip
BURDENS = ("0", "1", "2-4", ">=5")
GROUP_COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "The subject."},
    "scan": {"Description": "Name of the scan without its suffix: subject, session, run and further entities."},
    "microbleeds": {"Description": "Number of reported lesions."},
    **{group: {"Description": f"Those that lie in the group {group}; n/a without a trusted map."} for group in GROUPS},
    "burden": {"Description": "Category of their number.", "Levels": {n: f"{n} microbleeds" for n in BURDENS}},
    "volume": {"Description": "Sum of their volumes.", "Units": "mm^3"},
}  # fmt: skip


def scan_entities(case_id: str) -> dict[str, str]:
    """BIDS entities of a case: those of its name where it is made of such, else the name as the subject's label."""
    pairs = [part.partition("-") for part in case_id.split("_")]
    if pairs[0][0] == "sub" and all(value.isalnum() and key.isalpha() for key, _, value in pairs):
        return {key: value for key, _, value in pairs}
    return {"sub": re.sub(r"[^A-Za-z0-9]", "", case_id)}


def check_derivative(root: Path, inputs: Sequence[Path] = ()) -> None:
    """Refuses a folder for a derivative that is somebody else's data set: its description would be overwritten.

    Args:
        root: of the derivative.
        inputs: data sets and folders that are predicted.

    Raises:
        UserError: the folder is one of ``inputs``, or has a ``dataset_description.json`` that this program did not
            write.
    """
    remedy = f"name a folder of its own for the derivatives, for instance {root / 'derivatives' / 'microbleeds'}"
    if root.resolve() in {path.resolve() for path in inputs}:
        raise UserError(f"{root}: is the data set that is predicted", remedy=remedy)
    description = root / "dataset_description.json"
    if os.path.lexists(description) and not _is_ours(read_json(description)):
        raise UserError(f"{description}: describes another data set, GeneratedBy names no {PROGRAM}", remedy=remedy)


def _is_ours(description: Any) -> bool:
    generated = description.get("GeneratedBy") if isinstance(description, dict) else None
    programs = generated if isinstance(generated, list) else []
    return any(isinstance(program, dict) and program.get("Name") == PROGRAM for program in programs)


def write_description(root: Path, model: str, raw: Path | None = None) -> None:
    """Writes ``dataset_description.json``, and ``README.md`` and ``.bidsignore`` where there are none of others.

    Args:
        root: of the derivative.
        model: what predicted, in words.
        raw: the BIDS data set that was predicted.

    Raises:
        UserError: see ``check_derivative``.
    """
    check_derivative(root, [] if raw is None else [raw])
    own = version("cmb_plugin")
    generated = {"Name": PROGRAM, "Version": own, "Description": f"Cerebral microbleeds found by {model}"}
    links = {} if raw is None else {"DatasetLinks": {"raw": Path(os.path.relpath(raw, root)).as_posix()}}
    write_json(
        root / "dataset_description.json",
        {
            "Name": "Cerebral microbleeds",
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "License": "n/a",
            "GeneratedBy": [generated],
            **links,
        },
    )
    # Ours of an earlier run, or version, is replaced: nothing but our lines stands in it.
    if not set(_text(root / ".bidsignore").splitlines()) - set(IGNORED):
        write_text(root / ".bidsignore", "\n".join(IGNORED) + "\n")
    head = f"# Cerebral microbleeds\n\nFound by {PROGRAM} "
    if not _text(root / "README.md", head).startswith(head):
        return
    write_text(
        root / "README.md",
        f"{head}{own}, {model}. {RESEARCH_USE_ONLY}\n\n"
        f"- `*_{MASK}.nii.gz`: the reported lesions, numbered, on the grid of the scan.\n"
        f"- `*_{LESIONS}.tsv`: a row for each; the JSON beside it describes the columns.\n"
        f"- `{GROUP_TABLE}.tsv`: a row for each scan, written by `nndet_bids ... group`.\n",
    )


def _text(path: Path, default: str = "") -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else default


def write_case(root: Path, case: ExportedCase, scores: Mapping[str, str], raw: Path | None = None) -> Path:
    """Writes mask and table of one case and returns the table's path.

    Args:
        root: of the derivative.
        case: the case.
        scores: further score columns of the model, and what they mean.
        raw: the BIDS data set that was predicted.

    Raises:
        UserError: a file of the case is missing or damaged.
    """
    predictions = case.predictions()
    stem = _stem(root, case.case_id)
    mask, grid = case.mask()
    write_image(stem.with_name(f"{stem.name}_{MASK}.nii.gz"), mask.astype(np.uint16), grid)
    sources = _sources(case, raw)
    write_json(
        stem.with_name(f"{stem.name}_{MASK}.json"),
        {"Description": f"Reported cerebral microbleeds, numbered. {RESEARCH_USE_ONLY}", **sources},
    )
    known = {name: text for name, text in scores.items() if name in predictions.detections.columns}
    table = stem.with_name(f"{stem.name}_{LESIONS}.tsv")
    columns = [*COLUMNS, *known]
    write_table(table, columns, [_row(lesion, known) for lesion in reported_lesions(predictions, list(known))])
    described = {**COLUMNS, **{name: {"Description": text} for name, text in known.items()}}
    about = {"OperatingPoint": predictions.operating_point, "RegionsFrom": _regions(predictions), **sources}
    write_json(table.with_suffix(".json"), {**described, **{k: v for k, v in about.items() if v is not None}})
    return table


def forget_case(root: Path, case_id: str) -> None:
    """Removes what an earlier run wrote of a case that could not be predicted now: it is no longer true."""
    if scan_entities(case_id)["sub"]:
        stem = _stem(root, case_id)
        for ending in (f"{MASK}.nii.gz", f"{MASK}.json", f"{LESIONS}.tsv", f"{LESIONS}.json"):
            stem.with_name(f"{stem.name}_{ending}").unlink(missing_ok=True)


def _row(lesion: Any, known: Mapping[str, str]) -> dict[str, Any]:
    x, y, z = lesion.centre_lps_mm
    i, j, k = lesion.voxel
    values = {
        "index": lesion.instance,
        "class": lesion.name,
        "score": f"{lesion.score:.4f}",
        "diameter": f"{lesion.diameter_mm:.2f}",
        "volume": None if lesion.volume_mm3 is None else f"{lesion.volume_mm3:.2f}",
        "x": f"{0.0 - x:.2f}",
        "y": f"{0.0 - y:.2f}",
        "z": f"{z:.2f}",
        **{"i": i, "j": j, "k": k},
        "group": lesion.group if lesion.group in GROUPS else None,
        "region": lesion.region,
        "side": lesion.side,
        **{name: f"{float((lesion.columns or {})[name]):.4f}" for name in known},
    }
    return {name: "n/a" if value in (None, "") else value for name, value in values.items()}


def _regions(predictions: CasePredictions) -> str | None:
    regions = predictions.regions
    return None if regions is None else str(regions["source"] if regions.get("trusted") else "unknown")


def _stem(root: Path, case_id: str) -> Path:
    entities = scan_entities(case_id)
    folder = root / f"sub-{entities['sub']}"
    if "ses" in entities:
        folder /= f"ses-{entities['ses']}"
    return folder / "anat" / "_".join(f"{key}-{value}" for key, value in entities.items())


def _sources(case: ExportedCase, raw: Path | None) -> dict[str, Any]:
    if raw is None or case.source is None:
        return {}
    files = [volume.path for _, volume in sorted(case.source.volumes.items())]
    inside = [file.relative_to(raw).as_posix() for file in files if file.is_relative_to(raw)]
    return {"Sources": [f"bids:raw:{name}" for name in inside]} if inside else {}


def without_name(case_ids: Sequence[str]) -> dict[str, UserError]:
    """Why a case gets no name of its own in BIDS, which knows letters and digits only; of several the first has it."""
    seen: dict[str, str] = {}
    errors = {}
    for case_id in case_ids:
        entities = scan_entities(case_id)
        name = "_".join(f"{key}-{value}" for key, value in entities.items())
        if not entities["sub"] or name in seen:
            remedy = "rename the scan: BIDS names hold letters and digits"
            why = (
                f"gets the name of {seen[name]} in BIDS"
                if name in seen
                else "has no letter and no digit for a name in BIDS"
            )
            errors[case_id] = UserError(f"{case_id}: {why}", remedy=remedy)
        else:
            seen[name] = case_id
    return errors


def write_group(root: Path) -> int:
    """Writes ``group_microbleeds.tsv`` from the tables of all scans in a derivative; returns how many there are.

    Raises:
        UserError: there is none.
    """
    tables = sorted(root.glob(f"sub-*/**/*_{LESIONS}.tsv"))
    if not tables:
        raise UserError(f"{root}: holds no table of lesions", remedy="run the level participant first")
    rows = [_group_row(table) for table in tables]
    write_table(root / f"{GROUP_TABLE}.tsv", list(GROUP_COLUMNS), rows)
    write_json(root / f"{GROUP_TABLE}.json", GROUP_COLUMNS)
    return len(rows)


def _group_row(table: Path) -> dict[str, Any]:
    header, *lines = (line.split("\t") for line in table.read_text(encoding="utf-8").splitlines())
    lesions = [dict(zip(header, line, strict=True)) for line in lines]
    placed = read_json(table.with_suffix(".json")).get("RegionsFrom", "unknown") != "unknown"
    scan = table.name.removesuffix(f"_{LESIONS}.tsv")
    volumes = [float(lesion["volume"]) for lesion in lesions if lesion["volume"] != "n/a"]
    groups = {group: sum(lesion["group"] == group for lesion in lesions) if placed else "n/a" for group in GROUPS}
    return {
        "participant_id": scan.partition("_")[0],
        "scan": scan,
        "microbleeds": len(lesions),
        **groups,
        "burden": burden(len(lesions)),
        "volume": f"{sum(volumes):.2f}",
    }
