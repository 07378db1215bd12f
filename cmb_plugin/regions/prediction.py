"""Region maps by a trained model: of the scans of a task or a folder, and of one scan for ``--regions model:NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from cmb_plugin.anatomy import RegionMap
from cmb_plugin.anatomy.learned import doubts, places_of
from cmb_plugin.anatomy.storage import load_map, map_file, save_map
from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest, write_json
from cmb_plugin.inference import PatchSegmenter, class_map, segment_array
from cmb_plugin.models.ensemble import Ensemble, load_ensemble
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import ModelFolder
from cmb_plugin.preparation import Scan, ScanSource, prepared_scans
from cmb_plugin.tabular import write_table
from cmb_plugin.workers import Outcome, progress, run_cases


@dataclass(frozen=True)
class RegionModel:
    """A trained region model that makes maps of single scans; its weights are read when the first is asked for.

    Attributes:
        folder: of the model; all its trained folds work together.
        device: where it works.
    """

    folder: ModelFolder
    device: str = "cpu"

    @cached_property
    def ensemble(self) -> Ensemble:
        """The folds.

        Raises:
            UserError: they cannot be loaded, or learned no regions.
        """
        folds = self.folder.trained_folds()
        if not folds or self.folder.target != "regions":
            raise UserError(f"{self.folder.root}: is no trained model of regions", remedy="train AnatomyUNet")
        model = TrainedModel(self.folder, tuple(folds))
        return load_ensemble(model, torch.device(self.device), model.inference_config())

    def files(self, case: Case) -> list[Path]:
        """What the map of a case is made from: its scans and the weights."""
        plan = self.ensemble.plan
        images = plan.case(case).images if plan.n_files <= len(case.images) else case.images
        return [*images, *(self.folder.fold(number).last for number in self.folder.trained_folds())]

    def __call__(self, case: Case) -> RegionMap:
        """``predict_regions`` of a case."""
        return predict_regions(self.ensemble, case)


def predict_regions(ensemble: Ensemble, case: Case) -> RegionMap:
    """The regions of one scan on its own grid.

    Args:
        ensemble: a region model.
        case: its files; those of the model's modalities are read, found by their numbers.

    Raises:
        UserError: a modality is missing or unreadable.
    """
    plan = ensemble.plan
    if plan.n_files > len(case.images):
        wanted = ", ".join(plan.modalities)
        raise UserError(
            f"{case.images[0]}: the region model needs {wanted}, modality {plan.n_files - 1} of a case",
            remedy="use a model that was trained on these modalities",
        )
    source = ScanSource(plan.case(case))
    outcome = next(prepared_scans([source], plan.preprocessing, workers=0))
    if outcome.result is None:
        raise RuntimeError(outcome.details) if outcome.is_bug else UserError(outcome.error)
    return map_of_scan(outcome.result, ensemble)


def map_of_scan(scan: Scan, ensemble: Ensemble) -> RegionMap:
    """The regions of a prepared scan, on the grid of the scan itself."""
    members = [member for member in ensemble.members if isinstance(member, PatchSegmenter)]
    probabilities = segment_array(members, scan.data, ensemble.settings, ensemble.device)
    labels = class_map(probabilities, scan.mapping)
    grid, places = scan.mapping.source, places_of(ensemble.plan.classes)
    why = doubts(labels, grid, places)
    return RegionMap(
        labels.astype(np.uint16), grid, places, source=f"model:{ensemble.model.name}", trusted=not why, why=why
    )


def predict_maps(
    ensemble: Ensemble, sources: Sequence[ScanSource], folder: Path, workers: int, overwrite: bool
) -> tuple[int, list[Outcome[ScanSource, RegionMap]]]:
    """Writes ``{case}_regions.nii.gz`` and its JSON for every scan, and ``summary.tsv`` with the volumes.

    Args:
        ensemble: a region model.
        sources: the scans.
        folder: predictions folder; maps in it that were made of the same scans by the same model are kept.
        workers: processes that preprocess.
        overwrite: make all maps anew.

    Returns:
        how many were made now, and the scans that could not be predicted.
    """
    description = ensemble.description()
    write_json(folder / "run.json", description)
    keys = {source.case.case_id: _key(description, source, ensemble) for source in sources}
    kept = {} if overwrite else {name: load_map(folder, name, key) for name, key in keys.items()}
    rows = {name: _row(name, regions) for name, regions in kept.items() if regions is not None}
    todo = [source for source in sources if source.case.case_id not in rows]
    failed: list[Outcome[ScanSource, RegionMap]] = []
    scans = prepared_scans(todo, ensemble.plan.preprocessing, workers)
    with progress(f"Predicting into {folder.name}", len(todo)) as advance, closing(scans):
        for outcome in scans:
            name = outcome.item.case.case_id
            made = _made(outcome, ensemble)
            if made.result is None:
                failed.append(made)
                rows[name] = {"case": name, "status": "failed", "error": made.error}
                map_file(folder, name).unlink(missing_ok=True)  # of an earlier run: no longer true
            else:
                save_map(folder, name, made.result, keys[name])
                rows[name] = _row(name, made.result)
            advance()
    volumes = [
        f"{place.region or place.group}_ml" for value, place in places_of(ensemble.plan.classes).items() if value
    ]
    columns = ["case", "status", *volumes, "doubt", "error"]
    write_table(folder / "summary.tsv", columns, [rows[source.case.case_id] for source in sources])
    return len(todo) - len(failed), failed


def _made(scan: Outcome[ScanSource, Scan], ensemble: Ensemble) -> Outcome[ScanSource, RegionMap]:
    """The map of a scan, or why there is none."""
    if scan.result is None:
        return Outcome(scan.item, None, scan.error, scan.is_bug, scan.details)
    done = run_cases(partial(map_of_scan, ensemble=ensemble), [scan.result])[0]
    return Outcome(scan.item, done.result, done.error, done.is_bug, done.details)


def _key(description: dict[str, object], source: ScanSource, ensemble: Ensemble) -> str:
    """Changes with the models, the settings and the scan."""
    deciding = {name: value for name, value in description.items() if name != "operating_point"}
    return digest([deciding, source.key(ensemble.plan.preprocessing)])


def _row(name: str, regions: RegionMap) -> dict[str, object]:
    """A scan's row in the summary: volumes in ml, or why the map is not trusted."""
    counts = np.bincount(regions.labels.ravel(), minlength=len(regions.places))
    volumes = counts * np.prod(regions.grid.spacing) / 1000
    named = {place.region or place.group: value for value, place in regions.places.items() if value}
    return {
        "case": name,
        "status": "done",
        **{f"{region}_ml": round(float(volumes[value]), 1) for region, value in named.items()},
        "doubt": regions.why,
    }
