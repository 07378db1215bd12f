"""Region maps by a trained model: of the scans of a task or a folder, and of one scan for ``--regions model:NAME``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cmb_plugin.anatomy import RegionMap
from cmb_plugin.anatomy.learned import doubts, places_of
from cmb_plugin.anatomy.storage import load_map, map_file, save_map
from cmb_plugin.dataset import Case
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest, write_json
from cmb_plugin.inference import InferenceConfig, PatchSegmenter, class_map, segment_array
from cmb_plugin.models.ensemble import Ensemble, load_ensemble
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import ModelFolder
from cmb_plugin.preparation import Scan, ScanSource, prepared_scans
from cmb_plugin.tabular import write_table
from cmb_plugin.workers import Outcome, Workers, progress, run_cases


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
    (scan,) = prepared_scans([source], plan.preprocessing, workers=0)
    return map_of_scan(scan.value, ensemble)


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


@dataclass(frozen=True)
class MapWriter:
    """Predicts the map of a scan and writes it. It can be sent to other machines, which load the weights once.

    Attributes:
        model: folds of a region model.
        settings: of tiled prediction.
        device: where the network works.
        folder: predictions folder.
        keys: case -> what changes with the model and the scan.
    """

    model: TrainedModel
    settings: InferenceConfig
    device: str
    folder: Path
    keys: Mapping[str, str]

    @cached_property
    def ensemble(self) -> Ensemble:
        """The folds."""
        return load_ensemble(self.model, torch.device(self.device), self.settings)

    def __call__(self, source: ScanSource) -> dict[str, object]:
        """Reads, predicts and writes a scan; its row in the summary.

        Raises:
            UserError: it cannot be read.
        """
        (scan,) = prepared_scans([source], self.ensemble.plan.preprocessing, workers=0)
        return self.write(source, map_of_scan(scan.value, self.ensemble))

    def write(self, source: ScanSource, regions: RegionMap) -> dict[str, object]:
        """Writes the map of a scan; its row in the summary."""
        name = source.case.case_id
        save_map(self.folder, name, regions, self.keys[name])
        return _row(name, regions)


def predict_maps(
    ensemble: Ensemble, sources: Sequence[ScanSource], folder: Path, workers: Workers, overwrite: bool
) -> tuple[int, list[Outcome[ScanSource, Any]]]:
    """Writes ``{case}_regions.nii.gz`` and its JSON for every scan, and ``summary.tsv`` with the volumes.

    Args:
        ensemble: a region model.
        sources: the scans.
        folder: predictions folder; maps in it that were made of the same scans by the same model are kept.
        workers: processes that preprocess, or machines that do all.
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
    failed: list[Outcome[ScanSource, Any]] = []
    writer = MapWriter(ensemble.model, ensemble.settings, str(ensemble.device), folder, keys)
    title = f"Predicting into {folder.name}"
    outcomes: Iterable[Outcome[ScanSource, Any]]
    if isinstance(workers, int):
        outcomes = _written(writer, ensemble, todo, workers, title)
    else:
        outcomes = workers.run(writer, todo, title)
    for outcome in outcomes:
        name = outcome.item.case.case_id
        if outcome.result is None:
            failed.append(outcome)
            rows[name] = {"case": name, "status": "failed", "error": outcome.error}
            map_file(folder, name).unlink(missing_ok=True)  # of an earlier run: no longer true
        else:
            rows[name] = outcome.result
    volumes = [
        f"{place.region or place.group}_ml" for value, place in places_of(ensemble.plan.classes).items() if value
    ]
    columns = ["case", "status", *volumes, "doubt", "error"]
    write_table(folder / "summary.tsv", columns, [rows[source.case.case_id] for source in sources])
    return len(todo) - len(failed), failed


def _written(
    writer: MapWriter, ensemble: Ensemble, sources: Sequence[ScanSource], workers: int, title: str
) -> Iterator[Outcome[ScanSource, dict[str, object]]]:
    """What becomes of each scan in this process, which prepares the next ones meanwhile."""
    scans = prepared_scans(sources, ensemble.plan.preprocessing, workers)
    with progress(title, len(sources)) as advance, closing(scans):
        for scan in scans:
            if scan.result is None:
                yield Outcome(scan.item, None, scan.error, scan.is_bug, scan.details)
            else:
                work = partial(_predict_and_write, scan=scan.result, writer=writer, ensemble=ensemble)
                yield run_cases(work, [scan.item])[0]
            advance()


def _predict_and_write(source: ScanSource, scan: Scan, writer: MapWriter, ensemble: Ensemble) -> dict[str, object]:
    return writer.write(source, map_of_scan(scan, ensemble))


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
