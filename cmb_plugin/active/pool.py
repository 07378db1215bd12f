"""What a model says about a pool of scans: predictions of all folds together, and of each member of a committee."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cmb_plugin.dataset import Dataset, boxes_file, read_case_predictions
from cmb_plugin.errors import UserError
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.training.module import read_checkpoint
from cmb_plugin.workflows.predict import PredictOptions, predict
from cmb_plugin.workflows.scan_selection import ScanSelection, select_for

from .evidence import Calibration, Evidence, ScanEvidence
from .strategies import COMMITTEE, LABELLED

TOGETHER = "together"


@dataclass(frozen=True)
class PoolScan:
    """A scan that may be chosen: its name, files by number of the modality, domain and folder of predictions."""

    case_id: str
    images: Mapping[int, Path]
    domain: str
    predictions: Path


@dataclass
class Pool:
    """Folders of unlabelled scans as a model predicted them.

    Attributes:
        scans: those that could be predicted, in the order of ``evidence.scans``.
        evidence: what a strategy looks at.
        failures: case -> why it could not be predicted.
        passed_over: scans that the Task has already.
    """

    scans: list[PoolScan]
    evidence: Evidence
    failures: dict[str, str] = field(default_factory=dict)
    passed_over: int = 0


def committee_of(model: TrainedModel) -> dict[str, TrainedModel]:
    """Name -> the members that may disagree: the folds, or of one fold its averaged, last and best weights.

    Raises:
        UserError: there is one fold, and one set of weights of it.
    """
    if len(model.folds) > 1:
        return {f"fold{each.folds[0]}": each for each in model.each()}
    fold = model.folder.fold(model.folds[0])
    members = {"last": replace(model, checkpoint="last")}
    content = read_checkpoint(fold.last)
    if content.get("averaged_weights"):
        members["raw"] = replace(model, checkpoint="raw")
    if fold.best.is_file() and read_checkpoint(fold.best)["global_step"] != content["global_step"]:
        members["best"] = replace(model, checkpoint="best")
    if len(members) < 2:
        raise UserError(
            f"{fold.root}: one fold with one set of weights cannot disagree with itself",
            remedy="train a further fold (-o exp.fold=1), or with trainer_cfg.swa_epochs=2, or choose another strategy",
        )
    return members


def predict_pool(
    dataset: Dataset,
    model: TrainedModel,
    folders: Mapping[str, Path],
    output: Path,
    needs: frozenset[str],
    config: InferenceConfig | None = None,
    device: torch.device | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Pool:
    """Predicts what is not predicted yet by this model, and gathers what strategies need.

    Args:
        dataset: the Task of the model; its scans are passed over wherever a folder has them too.
        model: what predicts.
        folders: domain -> folder of scans, in any form that ``nndet_predict --input`` reads; the domain may be "".
        output: where predictions go; kept for the next call.
        needs: of the strategies.
        config, device: as for ``predict``.
        log: is given sentences about what is used.

    Raises:
        UserError: a folder holds no scan, or two have a scan of one name.
    """
    known = frozenset(
        path.resolve() for split in ("Tr", "Ts") for case in dataset.cases(split) for path in case.present
    )
    members = committee_of(model) if COMMITTEE in needs else {}
    pool = Pool([], Evidence(()))
    scans: list[ScanEvidence] = []
    for number, (domain, folder) in enumerate(folders.items()):
        place = output / (domain or f"pool{number}")
        selection = ScanSelection(dataset.task, inputs=(folder,), known=known)
        listed = select_for(model, replace(selection, known=frozenset())).sources
        options = PredictOptions(config, device, place / TOGETHER)
        report = predict(model, selection, options, log)
        pool.failures |= {failure.item.case.case_id: failure.error for failure in report.failures}
        selected = select_for(model, selection, place / TOGETHER)
        pool.passed_over += len(listed) - len(selected.sources)
        for name, member in members.items():
            predict(member, selection, PredictOptions(config, device, place / name, draw=False))
        for source in selected.sources:
            case = source.case
            if case.case_id in pool.failures:
                continue
            if any(scan.case_id == case.case_id for scan in pool.scans):
                remedy = "rename the scans of one of the folders"
                raise UserError(f"{folder}: has a scan {case.case_id}, as another pool does", remedy=remedy)
            images = {n: path for n, path in enumerate(case.images) if n not in case.missing}
            pool.scans.append(PoolScan(case.case_id, images, domain, place / TOGETHER))
            scans.append(evidence_of(case.case_id, place / TOGETHER, [place / name for name in members], domain))
    if not scans:
        known_too = f", {pool.passed_over} are in {dataset.task.name} already" if pool.passed_over else ""
        raise UserError(
            f"{', '.join(map(str, folders.values()))}: holds no scan to choose{known_too}",
            remedy="name a folder with further scans with --pool",
        )
    labelled = _labelled(dataset, model, output / "labelled", config, device) if LABELLED in needs else ()
    pool.evidence = Evidence(tuple(scans), labelled, calibrate(dataset, model))
    return pool


def evidence_of(case_id: str, folder: Path, members: Sequence[Path] = (), domain: str = "") -> ScanEvidence:
    """What folders of predictions say about a scan: that of all folds together, and those of the members."""
    together, *each = (read_case_predictions(boxes_file(place, case_id)) for place in (folder, *members))
    return ScanEvidence(together, tuple(each), domain)


def calibrate(dataset: Dataset, model: TrainedModel) -> Calibration | None:
    """The calibration of a model's scores by what its folds found in the scans that they held out; None without."""
    try:
        predictions = PredictionSet.of_model(dataset, model, "val")
        return Calibration.fit(predictions.read().cases)
    except UserError:  # a packed model, or one that validated on nothing
        return None


def _labelled(
    dataset: Dataset, model: TrainedModel, output: Path, config: InferenceConfig | None, device: torch.device | None
) -> tuple[ScanEvidence, ...]:
    """The training scans of the Task, predicted as the pool is."""
    selection = ScanSelection(dataset.task, inputs=(dataset.task.images("Tr"),))
    report = predict(model, selection, PredictOptions(config, device, output, draw=False))
    failed = {failure.item.case.case_id for failure in report.failures}
    sources = select_for(model, selection, output).sources
    return tuple(evidence_of(s.case.case_id, output) for s in sources if s.case.case_id not in failed)
