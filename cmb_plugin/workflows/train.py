"""``train``: a prepared Task folder becomes a trained fold with an operating point and validation results."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import torch

from cmb_plugin.dataset import Dataset, Truth, read_splits, without_domain
from cmb_plugin.dataset.domains import UNNAMED
from cmb_plugin.dataset.splits import Split
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import EvaluationConfig, SweepConfig
from cmb_plugin.files import locked, write_json
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import FoldFolder, ModelFolder
from cmb_plugin.plugins import suggest
from cmb_plugin.preparation import StoredCase, prepared_cases
from cmb_plugin.settings import write_settings
from cmb_plugin.training import (
    ExperimentConfig,
    LabelledCases,
    PreparedCases,
    fit,
)

from .evaluate import evaluate
from .evaluate import sweep as choose_operating_point
from .predict import PredictOptions, PredictReport, predict
from .scan_selection import ScanSelection
from .training_run import TrainingRun
from .unchanged import check_other_folds, check_unchanged


def train(run: TrainingRun, sweep: bool = True, log: Callable[[str], None] = lambda _: None) -> None:
    """Trains one fold, then predicts and evaluates its validation scans and chooses the operating point there.

    The run's folder then holds checkpoints, ``history.csv``, ``progress.png``, predictions and results.

    Args:
        run: what to train, from ``resolve``.
        sweep: choose the operating point on validation; without it 0.5 stands.
        log: is given a sentence on the weights that training begins with.

    Raises:
        UserError: something the user can fix, before anything is written; or a validation scan that cannot be
            predicted, after training.
    """
    train_ids, val_ids = split_of(run)
    first = is_first_process()  # the other processes of a DDP run come through here too
    with locked(run.fold.lock) if first else nullcontext():
        if first and (run.mode != "resume" or not run.fold.settings.is_file()):
            _settle(run.fold)
        module = run.module()
        resumed = run.mode == "resume" and run.fold.last.is_file()
        if run.initial is not None and not resumed:  # before anything is written or removed: they may not fit
            log(run.initial.begin(module))
        try:
            if first:
                _open_folder(run)
            fit(
                module,
                run.fold,
                run.task.prepared(run.plan.name, "Tr"),
                train_ids,
                val_ids,
                run.settings["augment_cfg"],
                resume=resumed,
                inference_cfg=run.settings["inference_cfg"],
                domains=Dataset.load(run.task).domain if run.settings["trainer_cfg"].domain_balance else None,
            )
        finally:
            if first:
                _settle(run.fold)
        if first:
            after_training(run, val_ids or train_ids, module.device)
            run.fold.mark(finished=True)
            if val_ids:
                _validate(run, sweep)


def after_training(run: TrainingRun, case_ids: Sequence[str], device: torch.device) -> None:
    """The trainer's own step after training, with the weights that predict."""
    prepared = PreparedCases(run.task.prepared(run.plan.name, "Tr"), tuple(case_ids))
    trained = run.trainer.load(run.fold, device)
    trained.after_training(run.fold, LabelledCases(run.task, prepared, run.settings["inference_cfg"]))


def split_of(run: TrainingRun) -> tuple[list[str], list[str]]:
    """Training and validation cases of the run's fold, as far as they are prepared. A training that goes on keeps those
    that it began with: splits.json may have been made anew for new cases, and what was held out would be learned.

    Raises:
        UserError: no such fold or domain, or nothing to train on.
    """
    goes_on = run.mode == "resume" and run.fold.splits.is_file()
    split = (read_splits(run.fold.splits) if goes_on else folds_of(run))[run.settings["exp"].number]
    prepared = prepared_cases(run.task.prepared(run.plan.name, "Tr"))
    train_ids, val_ids = ([case for case in split[part] if case in prepared] for part in ("train", "val"))
    if not train_ids:
        raise UserError(
            f"{run.task.prepared(run.plan.name, 'Tr')}: no prepared case of fold {run.settings['exp'].fold}",
            remedy=f"run nndet_prep {run.task.name}",
        )
    _check_cases(run, [*train_ids, *val_ids])
    return train_ids, val_ids


def folds_of(run: TrainingRun) -> list[Split]:
    """The folds that a model of the run can have: those of the task; or, without a domain, the one of
    ``without_domain``, with the domain's training scans as ``unseen``.

    Raises:
        UserError: the run's fold is none of them, or there is no such domain.
    """
    splits, exp = read_splits(run.task.splits), run.settings["exp"]
    if not exp.without:
        if not 0 <= exp.number < len(splits):
            raise UserError(
                f"{run.task.splits}: no fold {exp.number}", remedy=f"choose exp.fold from 0 to {len(splits) - 1}"
            )
        return splits
    dataset = Dataset.load(run.task)
    domains = {case.case_id: case.domain or UNNAMED for case in dataset.cases("Tr")}
    known = sorted(set(domains.values()))
    if len(known) < 2:
        raise UserError(
            f"{run.task.name}: has no second domain to train on",
            remedy='name them under "domain" in dataset.json, or run nndet_prep with -o planner_cfg.domains=geometry',
        )
    if exp.without not in known:
        raise UserError(f"{run.task.name}: has no domain {exp.without}", remedy=suggest(exp.without, known))
    split = without_domain(splits, exp.without, domains, dataset.session_id)
    if not split["val"]:
        raise UserError(
            f"{run.task.name}: all patients have scans of {exp.without}",
            remedy="leave another domain out; no scan of them may be trained on",
        )
    whole = {
        case.case_id for case in dataset.cases("Tr") if case.judged is None
    }  # what is found elsewhere has no truth
    return [{**split, "unseen": [case for case, name in domains.items() if name == exp.without and case in whole]}]


def _check_cases(run: TrainingRun, case_ids: Sequence[str]) -> None:
    """Refuses cases that the trainer cannot learn from.

    Raises:
        UserError: one lacks a modality, or was judged in places only, and the trainer cannot do with that.
    """
    folder, module = run.task.prepared(run.plan.name, "Tr"), run.settings["module"]
    cases = {case_id: StoredCase.open(folder, case_id) for case_id in case_ids}
    incomplete = [case_id for case_id, case in cases.items() if case.missing]
    if incomplete and not run.trainer.tolerates_missing:
        raise UserError(
            f"{module} needs every modality, {incomplete[0]} lacks some ({len(incomplete)} cases do)",
            remedy="add the scans, remove the cases, or choose a trainer that can do without (docs/predictions.md)",
        )
    judged = [case_id for case_id, case in cases.items() if case.judged_boxes is not None]
    if judged and not run.trainer.leaves_out_unjudged:
        raise UserError(
            f"{module} takes what is not labelled for background, {judged[0]} was judged in places only "
            f"({len(judged)} cases were)",
            remedy="train CMBRetinaUNet or RetinaUNetV001, or leave these cases out (nndet_review --done_only)",
        )


def is_first_process() -> bool:
    """Lightning and torchrun start the others of a DDP run with these variables, Slurm with its own."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def _open_folder(run: TrainingRun) -> None:
    """Makes the fold's folder, or checks that the run may go on in it."""
    fold, mode = run.fold, run.mode
    checkpoints = [path for path in fold.root.glob("*.ckpt") if not path.name.startswith(".")]
    if mode == "new" and checkpoints:
        state = "a trained model is" if fold.is_finished() else "a training that has not finished is"
        raise UserError(
            f"{fold.root}: {state} there already",
            remedy="add -o train.mode=resume to go on with it, train.mode=overwrite to start afresh, "
            "or exp.tag=NAME to keep both",
        )
    if mode == "resume":
        if not fold.settings.is_file():
            raise UserError(
                f"{fold.root}: nothing to resume{', settings.yaml is not there' if checkpoints else ''}",
                remedy="restore the file" if checkpoints else "leave train.mode=resume out, or check exp.fold, exp.tag",
            )
        check_unchanged(run)
        if not fold.is_finished():
            fold.mark(finished=False)
        return
    check_other_folds(run)
    if checkpoints:
        fold.root.rename(_replaced(fold))
    elif fold.root.is_dir():
        shutil.rmtree(fold.root)
    fold.root.mkdir(parents=True)
    fold.mark(finished=False)
    run.plan.save(fold.plan)
    write_json(fold.splits, folds_of(run))
    versions = {package: version(package) for package in ("cmb_plugin", "torch", "lightning", "nnunetv2")}
    write_settings(fold.settings, {"task": run.task.name, **run.settings, "versions": versions})


def _replaced(fold: FoldFolder) -> Path:
    """Where a fold that is trained afresh lies until its successor has a checkpoint."""
    return fold.root.with_name(f".{fold.root.name}_replaced")


def _settle(fold: FoldFolder) -> None:
    """Of a fold that was to be trained afresh: the one of before goes where there is a checkpoint now, else it takes
    its place again, because a setting was wrong or the training ended in its first epoch."""
    replaced = _replaced(fold)
    if not replaced.is_dir():
        return
    if fold.last.is_file():
        shutil.rmtree(replaced)
        return
    if fold.root.is_dir():
        shutil.rmtree(fold.root)
    replaced.rename(fold.root)


def _validate(run: TrainingRun, sweep: bool) -> None:
    exp: ExperimentConfig = run.settings["exp"]
    model = TrainedModel(ModelFolder(run.fold.root.parent), (exp.number,))
    for split in ("val", *(["unseen"] if exp.without else [])):
        report = predict(model, ScanSelection(run.task, split), PredictOptions(run.settings["inference_cfg"]))
        _check_predicted(run, report)
    dataset, config = Dataset.load(run.task), EvaluationConfig()
    truths: dict[str, Truth] = {}  # masks are slow to read: once for both
    if sweep and run.plan.target == "lesions":
        choose_operating_point(dataset, model, SweepConfig(), config, truths)
    evaluate(PredictionSet.of_model(dataset, model, "val"), config, truths=truths)
    if exp.without:
        evaluate(PredictionSet.of_model(dataset, model, "unseen"), config, truths=truths)


def _check_predicted(run: TrainingRun, report: PredictReport) -> None:
    """An operating point or a figure without some of the validation scans would be one of other scans.

    Raises:
        UserError: some could not be predicted; they are named, and what is to be done after they are mended.
        RuntimeError: one met a bug.
    """
    for failure in report.failures:
        if failure.is_bug:
            raise RuntimeError(f"{failure.item.case.case_id} cannot be predicted\n{failure.details}")
    if report.failures:
        reasons = "; ".join(f"{failure.item.case.case_id}: {failure.error}" for failure in report.failures)
        count = len(report.failures)
        raise UserError(
            f"{run.fold.root}: is trained, but {count} of its scans cannot be predicted ({reasons})",
            remedy="mend or remove them, then run the same command with train.mode=resume, which goes on from here",
        )
