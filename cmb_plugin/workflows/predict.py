"""``predict``: a trained model and scans become lesions in the scans' own space, one case after another."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cmb_plugin.dataset import (
    Case,
    CasePredictions,
    boxes_file,
    find_cases,
    instances_file,
    read_case_predictions,
    read_splits,
    write_lesions,
    write_summary,
)
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest, read_json, write_json
from cmb_plugin.inference import InferenceConfig, predict_array
from cmb_plugin.models.ensemble import Ensemble, choose_model, load_ensemble
from cmb_plugin.models.missing_modalities import declared_missing, lacking, without_channels
from cmb_plugin.models.output import write_case
from cmb_plugin.paths import ModelFolder, TaskFolder
from cmb_plugin.plugins import import_additional
from cmb_plugin.preparation import Scan, ScanSource, input_cases, prepared_cases, prepared_scans
from cmb_plugin.regions.localisation import Placing, forget_case, place_cases, restore_cases
from cmb_plugin.regions.prediction import predict_maps
from cmb_plugin.regions.sources import NONE
from cmb_plugin.settings import Overrides, check_ranges, read_settings, typed
from cmb_plugin.workers import Outcome, default_workers, failures, progress, run_cases


@dataclass
class PredictReport:
    """What became of the cases.

    Attributes:
        folders: predictions folders that were written.
        predicted: cases predicted now.
        kept: cases that an earlier run had finished with the same model and settings.
        lesions: reported lesions in all of them.
        failures: the cases that could not be predicted, and why.
        unplaced: the cases whose map of regions could not be made, and why; their lesions have no place.
        unknown: case -> why its map of regions is not trusted.
        remarks: what the trainer has to say about what it predicted.
    """

    folders: list[Path] = field(default_factory=list)
    predicted: int = 0
    kept: int = 0
    lesions: int = 0
    failures: list[Outcome[ScanSource, Any]] = field(default_factory=list)
    unplaced: list[Outcome[Case, Any]] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, folder: Path, predicted: int, kept: int, failures: Sequence[Outcome[ScanSource, Any]]) -> None:
        """Counts what happened in one folder."""
        self.folders.append(folder)
        self.predicted += predicted
        self.kept += kept
        self.failures += failures

    @property
    def exit_code(self) -> int:
        """0, 2 when the user has scans or maps to repair, 1 when a case met a bug."""
        bugs = [failure.is_bug for failure in self.failures] + [failure.is_bug for failure in self.unplaced]
        return 1 if any(bugs) else 2 if bugs else 0


def predict(
    task: str,
    model: str | None = None,
    fold: int | None = None,
    *,
    input: Path | str | None = None,
    output: Path | str | None = None,
    split: str = "Ts",
    tta: int | None = None,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    device: str | None = None,
    checkpoint: str = "last",
    num_models: int | None = None,
    overwrite: bool = False,
    regions: str = NONE,
    without: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> PredictReport:
    """Predicts the test scans of a task, the validation scans of folds, or any folder of scans.

    Cases that an earlier run finished with the same model, settings and scans are kept. A scan that cannot be
    predicted is reported, and the others go on.

    Args:
        task: number, name or path of the Task folder.
        model: name or path of the model folder; None when there is only one.
        fold: number of the fold; None or -1 takes all trained folds together.
        input: folder of scans to predict instead of the task's own; needs ``output``.
        output: predictions folder; None puts it into the model folder.
        split: ``Ts``: imagesTs; ``val``: each fold predicts the cases that it was not trained on.
        tta: mirrorings, 0..8; None takes ``inference_cfg.tta``, else 8 on a GPU and 1 (none) on a CPU.
        overrides: ``inference_cfg.x=y`` instead of what the (first) fold was trained with,
            ``additional_imports=[module]``.
        workers: processes that preprocess while the network works; None chooses.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes the GPU if there is one.
        checkpoint: ``last`` or ``best``.
        num_models: use the first so many folds only.
        overwrite: predict also what is finished.
        regions: where maps of brain regions come from (``workflows.regions``); ``none`` takes places that an earlier
            run gave the lesions away again.
        without: modalities to leave out of every case, by name, as if there were no file of them; needs ``output``.
        say: is given sentences about what is used; None is silent.

    Raises:
        UserError: nothing can be predicted.
    """
    say = say or (lambda _: None)
    if split not in ("Ts", "val"):
        raise UserError(f"unknown split '{split}'", remedy="known: Ts, val")
    if input is not None and (output is None or split == "val"):
        raise UserError(f"{input}: an input folder needs an output folder and no split", remedy="add --output DIR")
    if input is not None and Path(input).resolve() == Path(output or "").resolve():
        raise UserError(f"{output}: is the input folder too", remedy="choose another output folder")
    if without and output is None:
        remedy = "add --output DIR: what all modalities show would be overwritten"
        raise UserError(f"--without {','.join(without)}: needs a folder of its own", remedy=remedy)
    words = Overrides.parse(overrides)
    import_additional(words.take_imports())
    chosen_device = _device(device)
    folder, model_folder, folds = choose_model(task, model, fold, num_models=num_models, data_needed=input is None)
    unfinished = model_folder.unfinished_folds() if fold is None or fold == -1 else []
    if unfinished:
        say(f"Note: left out, since not finished: fold {', '.join(map(str, unfinished))}; train.mode=resume goes on")
    trained_with = model_folder.fold(folds[0]).settings
    stored = typed(InferenceConfig, read_settings(trained_with).get("inference_cfg", {}), str(trained_with))
    settings = words.apply(inference_cfg=stored)["inference_cfg"]
    if tta is not None or settings.tta is None:
        default_tta = 8 if chosen_device.type == "cuda" else 1
        settings = dataclasses.replace(settings, tta=default_tta if tta is None else tta)
        check_ranges(settings, "inference_cfg")

    report = PredictReport()
    groups = [[number] for number in folds] if split == "val" else [folds]
    for group in groups:
        ensemble = load_ensemble(model_folder, group, chosen_device, checkpoint, settings)
        _introduce(ensemble, say)
        left_out = without_channels(ensemble, without)
        if left_out:
            say(f"Without {', '.join(ensemble.plan.modalities[channel] for channel in sorted(left_out))}")
        target = Path(output) if output is not None else default_output(model_folder, group, split)
        if split == "val" and output is not None and len(groups) > 1:
            target = target / f"fold{group[0]}"
        sources = _sources(folder, ensemble, group, split, input, left_out)
        # What prepares scans in the background takes a core from the network where the network runs on the cores.
        number = min(3, default_workers() - 1) if workers is None else workers
        if ensemble.plan.target == "regions":
            made, failed = predict_maps(ensemble, sources, target, number, overwrite)
            report.add(target, made, len(sources) - made - len(failed), failed)
            continue
        placing = None
        if regions != NONE:
            placing = Placing.of(regions, folder, sources[0].case.images[0].parent, ensemble)
            say(f"Regions: {placing.source.words}; {placing.rules.words}")
        _predict_group(ensemble, sources, target, number, overwrite, placing, report)
    return report


def default_output(model: ModelFolder, folds: Sequence[int], split: str) -> Path:
    """``fold0/val_predictions``, ``fold0/test_predictions`` or, of several folds, ``consolidated/test_predictions``."""
    place = model.fold(folds[0]) if len(folds) == 1 else model.consolidated
    return place.predictions("val" if split == "val" else "test")


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' cannot be used ({reason})", remedy="leave --device out, or use cpu") from None
    return device


def _introduce(ensemble: Ensemble, say: Callable[[str], None]) -> None:
    """Says what predicts, and what the reader should know about it."""
    folds = ", ".join(str(fold) for fold in ensemble.folds)
    views = max(ensemble.settings.tta or 1, 1)
    say(
        f"Model {ensemble.model.name}, fold{'s' if len(ensemble.folds) > 1 else ''} {folds}, checkpoint "
        f"{ensemble.checkpoint}, on {ensemble.device}, {views} mirroring{'s' if views > 1 else ''} per tile"
    )
    if ensemble.plan.target == "lesions":
        say(f"Operating point {ensemble.score:g}: {ensemble.score_source}")
    for number in ensemble.folds:
        run = ensemble.model.fold(number).predictions("val") / "run.json"
        if ensemble.model.fold(number).operating_point.is_file() and run.is_file():
            swept_views = max(read_json(run).get("settings", {}).get("tta") or 1, 1)
            if swept_views != views:
                say(
                    f"Note: the operating point of fold {number} was chosen with {swept_views} mirrorings, "
                    f"now there are {views}; -ntta {swept_views} makes scores comparable"
                )
    if not _can_draw():
        say("Note: SimpleITK is not installed, so no instance masks are written")


def _can_draw() -> bool:
    return importlib.util.find_spec("SimpleITK") is not None


def _sources(
    task: TaskFolder,
    ensemble: Ensemble,
    folds: Sequence[int],
    split: str,
    input: Path | str | None,
    without: frozenset[int] = frozenset(),
) -> list[ScanSource]:
    """The cases to predict, each from its prepared array where there is a current one.

    Raises:
        UserError: there are none.
    """
    plan, tolerates = ensemble.plan, ensemble.tolerates_missing
    if input is not None:
        cases = [plan.case(case) for case in input_cases(Path(input), plan.n_files)]
        return [ScanSource(lacking(case, without, tolerates), tolerates_missing=tolerates) for case in cases]
    part = "Tr" if split == "val" else "Ts"
    images, prepared = task.images(part), task.prepared(plan.name, part)
    missing = declared_missing(task)
    found = find_cases(images, plan.n_files, part)
    known = {case.case_id: dataclasses.replace(case, missing=missing.get(case.case_id, ())) for case in found}
    ids = sorted({*known, *prepared_cases(prepared)})
    if split == "val":
        path = ensemble.model.fold(folds[0]).splits
        splits = read_splits(path)
        if not folds[0] < len(splits):
            raise UserError(f"{path}: has no fold {folds[0]}", remedy="restore the file")
        ids = sorted(splits[folds[0]]["val"])
    if not ids:
        raise UserError(f"{images}: holds no scan to predict", remedy="add scans, or name a folder with --input")
    cases = [plan.case(known.get(case_id) or _absent(case_id, images, plan.n_files, part)) for case_id in ids]
    cases = [lacking(case, without, tolerates) for case in cases]
    return [ScanSource.of(case, prepared, plan.preprocessing, tolerates) for case in cases]


def _absent(case_id: str, images: Path, n_modalities: int, part: str) -> Case:
    """A case whose scans are not here: its prepared array may be."""
    paths = tuple(images / f"{case_id}_{m:04d}.nii.gz" for m in range(n_modalities))
    return Case(case_id, paths, split=part, raw=images.parent)


def _predict_group(
    ensemble: Ensemble,
    sources: Sequence[ScanSource],
    folder: Path,
    workers: int,
    overwrite: bool,
    placing: Placing | None,
    report: PredictReport,
) -> None:
    """Predicts cases into one folder and adds what happened to ``report``."""
    recipe, draw = ensemble.plan.preprocessing, _can_draw()
    keys = _case_keys(ensemble, sources, folder)
    todo = [s for s in sources if overwrite or not _is_finished(folder, s.case.case_id, keys[s.case.case_id], draw)]
    failed: dict[str, str] = {}
    scans = prepared_scans(todo, recipe, workers)
    with progress(f"Predicting into {folder.name}", len(todo)) as advance, closing(scans):
        for outcome in scans:
            case_id = outcome.item.case.case_id
            if outcome.result is not None:
                work = partial(
                    _predict_scan, ensemble=ensemble, folder=folder, case_id=case_id, key=keys[case_id], draw=draw
                )
                done = run_cases(work, [outcome.result])[0]
                if done.result:
                    report.remarks.append(
                        f"{case_id}: {done.result} candidates beyond the strongest were left out: raise "
                        "inference_cfg.max_detections (-o) if they may be lesions"
                    )
                outcome = Outcome(outcome.item, error=done.error, is_bug=done.is_bug, details=done.details)
            if outcome.error:
                failed[case_id] = outcome.error
                report.failures.append(outcome)
                boxes_file(folder, case_id).unlink(missing_ok=True)  # of an earlier run: no longer true
                instances_file(folder, case_id).unlink(missing_ok=True)
                forget_case(folder, case_id)
            advance()
    _place([source.case for source in sources if source.case.case_id not in failed], folder, placing, report)
    report.folders.append(folder)
    report.predicted += len(todo) - len(failed)
    report.kept += len(sources) - len(todo)
    written = _write_tables(folder, [source.case.case_id for source in sources], failed)
    report.lesions += sum(int(case.reported.sum()) for case in written)
    report.remarks += ensemble.remarks(written)


def _place(cases: Sequence[Case], folder: Path, placing: Placing | None, report: PredictReport) -> None:
    """Gives the lesions of predicted cases their places, or takes them away again."""
    if placing is None:
        restore_cases(folder, cases)
        return
    outcomes = place_cases(folder, cases, placing)
    report.unplaced += failures(outcomes)
    report.unknown |= {outcome.item.case_id: outcome.result for outcome in outcomes if outcome.result}


def _case_keys(ensemble: Ensemble, sources: Sequence[ScanSource], folder: Path) -> dict[str, str]:
    """Writes ``run.json`` and returns for every case a key that changes with the models, the settings and its scan."""
    description = ensemble.description()
    write_json(folder / "run.json", description)
    # In words where the operating point comes from decides nothing.
    of_classes = ensemble.swept.class_scores if ensemble.swept else {}
    deciding = {**description, "operating_point": [ensemble.score, ensemble.ranking, *sorted(of_classes.items())]}
    recipe = ensemble.plan.preprocessing
    return {source.case.case_id: digest([deciding, source.key(recipe)]) for source in sources}


def _predict_scan(scan: Scan, ensemble: Ensemble, folder: Path, case_id: str, key: str, draw: bool) -> int:
    """Predicts one scan and writes its files; returns how many detections were left out because there were too many."""
    try:
        prediction = predict_array(
            ensemble.members, scan.data, ensemble.settings, ensemble.device, ranking=ensemble.ranking
        )
    except torch.cuda.OutOfMemoryError:
        remedy = "try -o inference_cfg.batch_size=1, or --device cpu"
        raise UserError(f"{case_id}: does not fit into the GPU's memory", remedy=remedy) from None
    if ensemble.swept is not None:
        prediction.detections = ensemble.swept.apply(prediction.detections)
    forget_case(folder, case_id)
    write_case(
        folder,
        case_id,
        prediction,
        scan.mapping,
        classes=ensemble.plan.classes,
        operating_point=ensemble.score,
        model=ensemble.model.name,
        folds=ensemble.folds,
        key=key,
        modalities=[name for channel, name in enumerate(ensemble.plan.modalities) if channel not in scan.missing],
        draw=draw,
    )
    return prediction.dropped


def _is_finished(folder: Path, case_id: str, key: str, draw: bool) -> bool:
    path = boxes_file(folder, case_id)
    if not path.is_file() or (draw and not instances_file(folder, case_id).is_file()):
        return False
    try:
        return read_case_predictions(path).key == key
    except UserError:  # a damaged file: the case is predicted again
        return False


def _write_tables(folder: Path, case_ids: Sequence[str], failed: dict[str, str]) -> list[CasePredictions]:
    """Writes ``lesions.tsv`` and ``summary.tsv`` from the cases' files; returns what these hold."""
    done = [read_case_predictions(boxes_file(folder, case_id)) for case_id in case_ids if case_id not in failed]
    write_lesions(folder / "lesions.tsv", done)
    rows = {
        case.case_id: {
            "case": case.case_id,
            "status": "done",
            "reported": int(case.reported.sum()),
            "candidates": len(case.detections),
        }
        for case in done
    }
    rows |= {case_id: {"case": case_id, "status": "failed", "error": error} for case_id, error in failed.items()}
    write_summary(folder / "summary.tsv", [rows[case_id] for case_id in case_ids])
    return done
