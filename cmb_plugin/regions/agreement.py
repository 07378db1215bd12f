"""How well region maps agree with ``regionsTr`` and ``regionsTs``: Dice of each region, and the places of lesions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.anatomy import GROUPS, RegionMap, locate
from cmb_plugin.anatomy.learned import places_of
from cmb_plugin.anatomy.storage import load_map
from cmb_plugin.dataset import Case, Dataset, read_lesion_facts, read_truth
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import dice_intervals, dice_scores, mean_dice
from cmb_plugin.files import write_json
from cmb_plugin.images import read_mask
from cmb_plugin.models.results import EvaluationRun
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.tabular import write_table

FAR_MM = 5.0
"""A lesion this far from every border has no excuse."""


@dataclass(frozen=True)
class LesionPlace:
    """Where a labelled lesion lies, and where a region map has it.

    Attributes:
        case_id: of its scan.
        truth: one of ``GROUPS``: what the data set says of it, else its place in the true map.
        found: group by the map under test.
        border_mm: distance of its centre to the nearest tissue of another group, in the true map.
    """

    case_id: str
    truth: str
    found: str
    border_mm: float


@dataclass
class RegionAgreement:
    """What a comparison of maps found.

    Attributes:
        regions: names of what is compared.
        dice: case -> [K] Dice of the regions, NaN where a region is in neither.
        lesions: of all scans.
        doubts: case -> why its map is not trusted; its Dice counts all the same.
        missing: cases without a map.
        unreadable: case -> what is wrong.
        unlabelled: cases without true regions.
    """

    regions: tuple[str, ...]
    dice: dict[str, np.ndarray] = field(default_factory=dict)
    lesions: list[LesionPlace] = field(default_factory=list)
    doubts: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)

    def metrics(self, patients: Mapping[str, str]) -> dict[str, Any]:
        """Numbers as plain data.

        Args:
            patients: case -> patient, whom the bootstrap draws.
        """
        names = sorted(self.dice)
        scores = np.array([self.dice[name] for name in names]).reshape(len(names), len(self.regions))
        means, intervals = mean_dice(scores), dice_intervals(scores, [patients.get(name, name) for name in names])
        known = [value for value in means if value is not None]
        far = [lesion for lesion in self.lesions if lesion.border_mm > FAR_MM]
        return {
            "target": "regions",
            "n_cases": len(names),
            "missing_cases": self.missing,
            "unreadable_cases": sorted(self.unreadable),
            "doubted_cases": self.doubts,
            "mean_dice": sum(known) / len(known) if known else None,
            "regions": {
                name: {"dice": means[i], "interval": intervals[i], "lowest": _lowest(scores[:, i])}
                for i, name in enumerate(self.regions)
            },
            "lesions": {"all": _counts(self.lesions), f"farther_than_{FAR_MM:g}_mm_from_a_border": _counts(far)},
            "cases": {name: dict(zip(self.regions, _plain(self.dice[name]), strict=True)) for name in names},
        }


def _lowest(scores: np.ndarray) -> float | None:
    known = scores[np.isfinite(scores)]
    return float(known.min()) if len(known) else None


def _plain(scores: np.ndarray) -> list[float | None]:
    return [float(score) if np.isfinite(score) else None for score in scores]


def _counts(lesions: Sequence[LesionPlace]) -> dict[str, Any]:
    """Lesions, share with the right group, and the table of true and found groups."""
    table: dict[str, dict[str, int]] = {}
    for lesion in lesions:
        row = table.setdefault(lesion.truth, {})
        row[lesion.found] = row.get(lesion.found, 0) + 1
    right = sum(lesion.truth == lesion.found for lesion in lesions)
    return {"n": len(lesions), "accuracy": right / len(lesions) if lesions else None, "found_as": table}


def compare(cases: Iterable[tuple[Case, RegionMap | None]], dataset: Dataset, names: Sequence[str]) -> RegionAgreement:
    """Compares maps with the true regions, scan by scan; one bad scan does not stop the others.

    Maps of any source are compared by the groups that their labels stand for.

    Args:
        cases: each with its map, None where there is none.
        dataset: whose lesions they hold.
        names: the regions to compare.
    """
    agreement = RegionAgreement(tuple(names))
    for case, regions in cases:
        try:
            path = case.extra("regions")
            if path is None:
                agreement.unlabelled.append(case.case_id)
            elif regions is None:
                agreement.missing.append(case.case_id)
            else:
                _compare_case(agreement, case, path, regions, dataset)
        except UserError as error:
            agreement.unreadable[case.case_id] = str(error)
    return agreement


def _compare_case(agreement: RegionAgreement, case: Case, path: Path, regions: RegionMap, dataset: Dataset) -> None:
    truth, grid = read_mask(path)
    if not regions.grid.same_as(grid):
        raise UserError(f"{case.case_id}: its map lies on another grid than {path}", remedy="make the map anew")
    true_map = RegionMap(truth.astype(np.uint16), grid, places_of(dataset.regions), source="truth")
    numbers = [_numbers(source, agreement.regions) for source in (regions, true_map)]
    found, true = (table[source.labels] for table, source in zip(numbers, (regions, true_map), strict=True))
    agreement.dice[case.case_id] = dice_scores(found, true, len(agreement.regions))
    if not regions.trusted:
        agreement.doubts[case.case_id] = regions.why
    if case.label is not None:
        agreement.lesions += _lesions(case, regions, true_map)


def _numbers(regions: RegionMap, names: Sequence[str]) -> np.ndarray:
    """Label -> 1 + the place of its region's name in ``names``, 0 for none of them."""
    table = np.zeros(int(regions.labels.max(initial=0)) + 1, dtype=np.uint8)
    for value, place in regions.places.items():
        name = place.group if place.group in names else place.region
        if value < len(table) and name in names:
            table[value] = 1 + list(names).index(name)
    return table


def _lesions(case: Case, regions: RegionMap, true_map: RegionMap) -> list[LesionPlace]:
    truth = read_truth(case)
    detections = Detections(truth.boxes, np.ones(len(truth), dtype=np.float32), truth.labels)
    found, true = (locate(detections, source).columns for source in (regions, true_map))
    said = read_lesion_facts(case, truth.instances.tolist()).regions or [None] * len(truth)
    groups = [name if name in GROUPS else str(group) for name, group in zip(said, true["nearest_group"], strict=True)]
    return [
        LesionPlace(case.case_id, group, str(guess), float(distance))
        for group, guess, distance in zip(groups, found["nearest_group"], true["border_mm"], strict=True)
    ]


def evaluate_regions(predictions: PredictionSet, output: Path) -> EvaluationRun:
    """Measures the maps that a region model predicted; writes metrics.json, regions.tsv and dice.png.

    Args:
        predictions: the maps, of scans of a Task.
        output: where to write.

    Raises:
        UserError: nothing can be compared.
    """
    from cmb_plugin.reporting.figures import dice_figure, save_figure

    dataset, folders = predictions.dataset, predictions.folders
    assert dataset is not None, "region models learn from Tasks"
    maps = ((case, load_map(folders[case.case_id], case.case_id)) for case in predictions.cases)
    agreement = compare(maps, dataset, dataset.regions)
    if not agreement.dice:
        if agreement.unreadable:
            raise UserError(next(iter(agreement.unreadable.values())))
        raise UserError(
            f"{next(iter(folders.values()))}: holds no map of a case with true regions",
            remedy=f"run nndet_predict {dataset.task.name} with this model, and add masks to regionsTr or regionsTs",
        )
    patients = dataset.patients(sorted(agreement.dice))
    metrics = {"task": predictions.name, "split": predictions.split, **agreement.metrics(patients)}
    files = [output / name for name in ("metrics.json", "regions.tsv", "dice.png")]
    write_json(files[0], metrics)
    rows = [{"case": name, **scores} for name, scores in metrics["cases"].items()]
    write_table(files[1], ["case", *agreement.regions], rows)
    title = predictions.full_title
    save_figure(dice_figure(np.array(list(agreement.dice.values())), agreement.regions, title), files[2])
    notes = [f"left out, because they have no regions: {', '.join(agreement.unlabelled)}"] * bool(agreement.unlabelled)
    notes += [f"no map of {', '.join(agreement.missing)}: not counted"] * bool(agreement.missing)
    notes += [f"left out {name}: {error}" for name, error in agreement.unreadable.items()]
    notes += [f"{name} is not trusted: {why}" for name, why in agreement.doubts.items()]
    return EvaluationRun(title, metrics, output, files, notes)
