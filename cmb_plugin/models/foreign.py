"""``evaluate_folders``: predictions of any program against a folder of masks, without a model or a Task of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cmb_plugin.dataset import Case, Labels, Truth, truth_of_labels
from cmb_plugin.dataset.foreign import find_prediction, foreign_cases, read_foreign, split_mask
from cmb_plugin.dataset.predictions import ENDING, read_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import DEFAULT_OPERATING_POINT, CaseResult, EvaluationConfig
from cmb_plugin.evaluation.masks import compare_masks
from cmb_plugin.images import SUFFIXES, Grid, image_stem, read_mask
from cmb_plugin.settings import Overrides
from cmb_plugin.workers import run_cases

from .results import EvaluationRun, measure_loaded, write_results
from .scored_cases import Loaded


@dataclass(frozen=True)
class _Item:
    case_id: str
    label: Path
    predictions: Path


def evaluate_folders(
    predictions: Path | str,
    labels: Path | str,
    *,
    images: Path | str | None = None,
    output: Path | str | None = None,
    classes: Sequence[str] = ("lesion",),
    words: Sequence[str] = (),
    workers: int = 0,
) -> EvaluationRun:
    """Measures a folder of predictions of any format (``cmb_plugin.dataset.foreign``) against a folder of masks.

    Args:
        predictions: the folder.
        labels: masks named by case: instance numbers, with ``{case}.json`` for their classes where there are several,
            or binary; then the lesions are its components (26 neighbours).
        images: folder of the scans that the galleries show, ``{case}.nii.gz`` or ``{case}_0000.nii.gz``.
        output: where to write; None for ``results`` in the predictions folder.
        classes: class names by index.
        words: overrides, ``eval_cfg.*``.
        workers: processes that read masks.

    Raises:
        UserError: nothing can be measured. A case that is missing or unreadable does not stop the others.
    """
    config: EvaluationConfig = Overrides.parse(words).apply(eval_cfg=EvaluationConfig())["eval_cfg"]
    source, masks = Path(predictions), Path(labels)
    found = {image_stem(path): path for path in _masks(masks)}
    if not found:
        raise UserError(f"{masks}: holds no mask", remedy="name the folder of the reference masks with --labels")
    known = foreign_cases(source)
    if not known:
        raise UserError(
            f"{source}: holds no predictions", remedy="see docs/evaluation.md for the formats that are read"
        )
    if not set(known) & set(found):
        remedy = "name predictions and labels alike, {case} and an ending"
        raise UserError(
            f"{source}: has no case of {masks} ({known[0]} is not {sorted(map(str, found))[0]})", remedy=remedy
        )
    items = [_Item(str(case_id), path, source) for case_id, path in sorted(found.items())]
    loaded = Loaded()
    read = partial(_load_case, classes=tuple(classes), connectivity=config.connectivity)
    for outcome in run_cases(read, items, workers=workers):
        if outcome.is_bug:
            raise RuntimeError(f"{outcome.item.case_id}: {outcome.details}")
        if outcome.result is None:
            loaded.unreadable[outcome.item.case_id] = outcome.error
            continue
        result, grid, point = outcome.result
        loaded.cases.append(result)
        loaded.grids[result.case_id] = grid
        if find_prediction(source, result.case_id) is None:
            loaded.missing.append(result.case_id)
        elif point is not None:
            loaded.operating_points.add(point)
    if not loaded.cases:
        raise UserError(next(iter(loaded.unreadable.values())))
    config, notes, origin = _operating_point(config, loaded)
    notes += [f"left out {case_id}: {error}" for case_id, error in sorted(loaded.unreadable.items())]
    if loaded.missing:
        notes.append(
            f"no predictions of {', '.join(loaded.missing)}: counted as without detections, all lesions missed"
        )
    unused = sorted(set(known) - {str(name) for name in found})
    if unused:
        notes.append(
            f"{len(unused)} predicted cases have no label: {', '.join(unused[:5])}{', ...' * (len(unused) > 5)}"
        )
    metrics = measure_loaded(loaded, classes, config, task=masks.name, split="")
    metrics["operating_point"] |= {"source": origin, "ranking": None}
    folder = Path(output) if output is not None else source / "results"
    title = f"{source.name} against {masks.name}"
    scans = {} if images is None else _scans(Path(images), loaded)
    files = write_results(folder, title, metrics, loaded, config, classes, scans, notes)
    return EvaluationRun(title, metrics, folder, files, notes)


def read_loose_truth(path: Path, classes: Sequence[str]) -> Truth:
    """The lesions of a mask that belongs to no Task folder.

    Raises:
        UserError: the mask, or its ``{case}.json``, cannot be read.
    """
    case_id = image_stem(path) or path.stem
    listed = path.parent / f"{case_id}.json"
    if listed.is_file():
        case = Case(case_id, (path,), path, listed, "", path.parent)
        return truth_of_labels(case.read_labels(len(classes)))
    mask, grid = read_mask(path)
    if mask.min(initial=0) < 0:
        raise UserError(f"{path}: holds negative numbers", remedy="number lesions 1, 2, ... on background 0")
    numbered, _ = split_mask(mask)
    return truth_of_labels(Labels(numbered, dict.fromkeys(sorted({*numbered[numbered > 0].tolist()}), 0), grid))


def _load_case(item: _Item, classes: Sequence[str], connectivity: int) -> tuple[CaseResult, Grid, float | None]:
    truth = read_loose_truth(item.label, classes)
    path = find_prediction(item.predictions, item.case_id)
    detections, mask, point = Detections.empty(), None, None
    if path is not None and path.name.endswith(ENDING):
        own = read_case_predictions(path)
        if not own.grid.same_as(truth.grid):
            raise UserError(f"{path}: was predicted on another grid than {item.label}", remedy="predict its scan")
        detections, point = own.kept, own.operating_point
    elif path is not None:
        foreign = read_foreign(path, item.case_id, truth.grid, classes)
        detections, mask = foreign.detections, foreign.mask
    spacing = truth.grid.spacing
    result = CaseResult(
        case_id=item.case_id,
        detections=detections,
        truth_boxes=truth.boxes,
        truth_labels=truth.labels,
        spacing=spacing,
        instances=truth.instances,
        centroids=truth.centroids,
        masks=None if mask is None else compare_masks(mask, read_mask(item.label)[0], spacing, connectivity),
    )
    return result, truth.grid, point


def _operating_point(config: EvaluationConfig, loaded: Loaded) -> tuple[EvaluationConfig, list[str], str]:
    if config.operating_point is not None:
        return config, [], "setting"
    if len(loaded.operating_points) == 1:
        return replace(config, operating_point=next(iter(loaded.operating_points))), [], "predictions"
    note = f"the predictions name no operating point: they count from score {DEFAULT_OPERATING_POINT:g} on"
    return replace(config, operating_point=DEFAULT_OPERATING_POINT), [note], "default"


def _masks(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if image_stem(path) and not path.name.startswith("."))


def _scans(folder: Path, loaded: Loaded) -> dict[str, Path]:
    scans = {}
    for case in loaded.cases:
        for name in (f"{case.case_id}_0000", case.case_id):
            path = next((folder / f"{name}{end}" for end in SUFFIXES if (folder / f"{name}{end}").is_file()), None)
            if path is not None:
                scans[case.case_id] = path
                break
    return scans
