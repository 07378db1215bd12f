"""``predict``: a trained model and scans become lesions in the scans' own space, one case after another."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cmb_plugin.dataset import (
    Case,
    CasePredictions,
    StoredPredictions,
    boxes_file,
    instances_file,
    read_case_predictions,
    write_lesions,
    write_summary,
)
from cmb_plugin.documents import counted, some_of
from cmb_plugin.errors import UserError
from cmb_plugin.files import digest, write_json
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.models.ensemble import Ensemble, load_ensemble
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.preparation import ScanSource
from cmb_plugin.regions.restoration import forget_case, restore_cases
from cmb_plugin.workers import Machines, Outcome, Workers, default_workers, failures, progress

from .case_prediction import CaseJob, CasePredictor, CaseResult
from .scan_selection import ScanSelection

if TYPE_CHECKING:  # what regions and other input need is imported where they are asked for
    from cmb_plugin.exchange.case import ExportedCase
    from cmb_plugin.intake import InputRow
    from cmb_plugin.regions.localisation import Localisation
    from cmb_plugin.regions.sources import RegionChoice

    from .export import ExportTargets

MOST_ROWS = 40  # of an input that are shown; inputs.tsv has all


@dataclass
class PredictReport:
    """What became of the cases.

    Attributes:
        folders: predictions folders that were written.
        predicted: cases predicted now.
        kept: cases that an earlier run had finished with the same model and settings.
        lesions: reported lesions in all of them.
        failures: the cases that could not be predicted, and why.
        unwritten: the cases that could not be written in another form, and why.
        unplaced: the cases whose map of regions could not be made, and why; their lesions have no place.
        unknown: case -> why its map of regions is not trusted.
        remarks: what there is to say about what was predicted.
    """

    folders: list[Path] = field(default_factory=list)
    predicted: int = 0
    kept: int = 0
    lesions: int = 0
    failures: list[Outcome[ScanSource, Any]] = field(default_factory=list)
    unplaced: list[Outcome[Case, Any]] = field(default_factory=list)
    unwritten: list[Outcome[ExportedCase, Any]] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, 2 when the user has scans or maps to repair, 1 when a case met a bug."""
        bugs = [failure.is_bug for failure in self.failures] + [failure.is_bug for failure in self.unplaced]
        bugs += [failure.is_bug for failure in self.unwritten]
        return 1 if any(bugs) else 2 if bugs else 0


@dataclass(frozen=True)
class PredictOptions:
    """How scans are predicted.

    Attributes:
        config: of tiled prediction; None as the model was trained with.
        device: where the network works; None takes the GPU if there is one.
        output: predictions folder; None puts it into the model folder.
        regions: where maps of brain regions come from; None takes places that an earlier run gave the lesions away.
        workers: processes that preprocess while the network works; None chooses.
        overwrite: predict also what is finished.
        export: further forms in which the cases are written; None for none.
        draw: write instance masks, where SimpleITK is installed.
        machines: that predict instead of this process, each with a network of its own.
    """

    config: InferenceConfig | None = None
    device: torch.device | None = None
    output: Path | None = None
    regions: RegionChoice | None = None
    workers: int | None = None
    overwrite: bool = False
    export: ExportTargets | None = None
    draw: bool = True
    machines: Machines | None = None

    @property
    def targets(self) -> list[Path]:
        """The folders that are written into."""
        export = self.export
        folders = [self.output, *((export.derivatives, export.dicom) if export is not None else ())]
        return [folder for folder in folders if folder is not None]


def predict(
    model: TrainedModel,
    scans: ScanSelection,
    options: PredictOptions | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> PredictReport:
    """Predicts the test scans of a task, the validation scans of folds, or any folder of scans.

    Cases that an earlier run finished with the same model, settings and scans are kept. A scan that cannot be
    predicted is reported, and the others go on.

    Args:
        model: the folds that work together; validation scans are predicted by each alone.
        scans: what is predicted.
        options: how.
        log: is given sentences about what is used.

    Raises:
        UserError: nothing can be predicted.
    """
    options = options or PredictOptions()
    _check_output(model, scans, options.output)
    for target in options.targets:
        if target.exists() and not target.is_dir():
            raise UserError(f"{target}: is a file", remedy="name a folder for the results")
    if options.export is not None:
        options.export.check(scans.inputs)
    device = options.device or default_device()
    config = (options.config or model.inference_config()).on(device, model.operating_point().views)
    # What prepares scans in the background takes a core from the network where the network runs on the cores.
    workers = min(3, default_workers() - 1) if options.workers is None else options.workers
    if scans.split == "test" and model.left_out:
        numbers = ", ".join(map(str, model.left_out))
        log(f"Note: left out, since not finished: fold {numbers}; train.mode=resume goes on")
    report = PredictReport()
    groups = [model] if scans.split == "test" else model.each()
    for group in groups:
        ensemble = load_ensemble(group, device if options.machines is None else torch.device("cpu"), config)
        ensemble = replace(ensemble, device=device)  # of the machines; this one may not have it
        _introduce(ensemble, log)
        folder = options.output or group.place.predictions(scans.split)
        if options.output is not None and len(groups) > 1:
            folder = folder / f"fold{group.folds[0]}"
        selected = scans.select(group, ensemble.plan, ensemble.tolerates_missing, folder)
        sources = selected.sources
        if selected.rows:
            _show_input(selected.rows, folder, log)
        if scans.without:
            log(f"Without {', '.join(name for name in ensemble.plan.modalities if name in scans.without)}")
        if ensemble.plan.target == "regions":
            from cmb_plugin.regions.prediction import predict_maps

            made, failed = predict_maps(ensemble, sources, folder, options.machines or workers, options.overwrite)
            report.folders.append(folder)
            report.predicted += made
            report.kept += len(sources) - made - len(failed)
            report.failures += failed
            continue
        if options.output is not None:
            from cmb_plugin.dataset import write_scans

            write_scans(folder, (source.case for source in sources), ensemble.plan.modalities)
        localisation = None
        if options.regions is not None and sources:
            from cmb_plugin.regions.localisation import Localisation

            localisation = Localisation.of(options.regions, sources[0].case.images[0].parent, ensemble)
            log(f"Regions: {localisation.source.name}; {localisation.rules.description}")
        contrasts = {case.case_id: case.volumes[0].contrast for case in selected.inputs if 0 in case.volumes}
        draw = options.draw and _can_draw()
        run = _Run(ensemble, folder, options.machines or workers, options.overwrite, contrasts, draw)
        predicted = run.predict(sources, report)
        # The network is done: what prepared scans for it, and this process, may each make the map of a scan.
        alone = not workers or (localisation is not None and localisation.source.uses_all_cores)
        _localise(predicted, folder, localisation, report, options.machines or (0 if alone else workers + 1))
        run.write_tables(sources, report)
        if options.export is not None:
            from .export import export_cases

            inputs = {case.case_id: case for case in selected.inputs}
            title = f"{group.title}, checkpoint {group.checkpoint}"
            gone = sorted({source.case.case_id for source in sources} - {case.case_id for case in predicted})
            exported = export_cases(
                folder, predicted, inputs, options.export, title, ensemble.scores, log, options.machines or 0, gone
            )
            report.unwritten += exported
    return report


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _check_output(model: TrainedModel, scans: ScanSelection, output: Path | None) -> None:
    if model.packed is not None and scans.split != "test":
        remedy = "predict imagesTs or --input; scans with labels are then measured with nndet_eval --predictions"
        raise UserError(f"{model.name}: a packed model has held out no scans of a Task", remedy=remedy)
    if model.packed is not None and output is None:
        raise UserError(f"{model.name}: a packed model needs a folder for what it finds", remedy="add --output DIR")
    if scans.inputs and (output is None or scans.split != "test"):
        raise UserError(
            f"{scans.inputs[0]}: an input folder needs an output folder and no split", remedy="add --output DIR"
        )
    if output is not None and output.resolve() in {path.resolve() for path in scans.inputs}:
        raise UserError(f"{output}: is the input folder too", remedy="choose another output folder")
    if scans.without and output is None:
        remedy = "add --output DIR: what all modalities show would be overwritten"
        raise UserError(f"--without {','.join(scans.without)}: needs a folder of its own", remedy=remedy)


def _introduce(ensemble: Ensemble, log: Callable[[str], None]) -> None:
    """Says what predicts, and what the reader should know about it."""
    model = ensemble.model
    views = max(ensemble.settings.tta or 1, 1)
    log(
        f"Model {model.title}, checkpoint {model.checkpoint}, on {ensemble.device}, "
        f"{views} mirroring{'s' if views > 1 else ''} per tile"
    )
    if ensemble.plan.target == "lesions":
        log(f"Operating point {ensemble.operating_point.score:g}: {ensemble.operating_point.origin}")
    for point in ensemble.operating_point.members or (ensemble.operating_point,):
        if point.views is not None and point.views != views:
            log(
                f"Note: the operating point of {', '.join(point.folds)} was chosen with "
                f"{counted(point.views, 'mirroring')}, now there {'is' if views == 1 else 'are'} {views}; "
                f"-ntta {point.views} makes scores comparable"
            )
    if not _can_draw():
        log("Note: SimpleITK is not installed, so no instance masks are written")


def _show_input(rows: Sequence[InputRow], folder: Path, log: Callable[[str], None]) -> None:
    """Writes ``inputs.tsv``, and says what is not taken and why; all of it where the input is small."""
    from cmb_plugin.intake import TAKEN, count_text, table_text, write_inputs

    path = write_inputs(folder, rows)
    shown = rows if len(rows) <= MOST_ROWS else [row for row in rows if row.status != TAKEN][:MOST_ROWS]
    log(f"Input: {count_text(rows)} ({path})")
    if any(row.status != TAKEN for row in shown):
        log(table_text(shown))


def _can_draw() -> bool:
    return importlib.util.find_spec("SimpleITK") is not None


@dataclass(frozen=True)
class _Run:
    """One ensemble that predicts scans into one folder."""

    ensemble: Ensemble
    folder: Path
    workers: Workers
    overwrite: bool
    contrasts: Mapping[str, str]
    draw: bool

    def predict(self, sources: Sequence[ScanSource], report: PredictReport) -> list[Case]:
        """Predicts what is not finished, adds what happened to ``report``, and returns the cases that stand."""
        folder = self.folder
        keys = self._keys(sources)
        jobs = [CaseJob(s, keys[s.case.case_id], self.contrasts.get(s.case.case_id, "")) for s in sources]
        todo = [job for job in jobs if self.overwrite or not self._stands(job)]
        failed = set()
        with closing(self._outcomes(todo)) as outcomes:
            for outcome in outcomes:
                case_id = outcome.item.case_id
                if outcome.result is None:
                    failed.add(case_id)
                    report.failures.append(
                        Outcome(outcome.item.source, None, outcome.error, outcome.is_bug, outcome.details)
                    )
                    boxes_file(folder, case_id).unlink(missing_ok=True)  # of an earlier run: no longer true
                    instances_file(folder, case_id).unlink(missing_ok=True)
                    forget_case(folder, case_id)
                elif outcome.result.left_out:
                    report.remarks.append(
                        f"{case_id}: {outcome.result.left_out} candidates beyond the strongest were left out: raise "
                        "inference_cfg.max_detections (-o) if they may be lesions"
                    )
        report.folders.append(folder)
        report.predicted += len(todo) - len(failed)
        report.kept += len(sources) - len(todo)
        return [source.case for source in sources if source.case.case_id not in failed]

    def _outcomes(self, jobs: list[CaseJob]) -> Generator[Outcome[CaseJob, CaseResult], None, None]:
        """Predicts cases, here or on machines; what became of each, in order."""
        predictor = CasePredictor.of(self.ensemble, self.folder, self.draw)
        title = f"Predicting into {self.folder.name}"
        if not isinstance(self.workers, int):
            yield from self.workers.run(predictor, jobs, title)
            return
        with progress(title, len(jobs)) as advance, closing(predictor.stream(jobs, self.workers)) as stream:
            for outcome in stream:
                yield outcome
                advance()

    def _stands(self, job: CaseJob) -> bool:
        """Whether a case is finished, and the scan that was made for it is still there to be looked at."""
        made = job.source.fetch is None or all(path.is_file() for path in job.source.case.present)
        return made and _is_finished(self.folder, job, self.draw)

    def _keys(self, sources: Sequence[ScanSource]) -> dict[str, str]:
        """Writes ``run.json`` and returns for every case a key that changes with the models, the settings and its
        scan."""
        description = self.ensemble.description()
        write_json(self.folder / "run.json", {**description, "scores": self.ensemble.scores})
        # In words where the operating point comes from decides nothing.
        deciding = {**description, "operating_point": self.ensemble.operating_point.deciding()}
        recipe = self.ensemble.plan.preprocessing
        return {source.case.case_id: digest([deciding, source.key(recipe)]) for source in sources}

    def write_tables(self, sources: Sequence[ScanSource], report: PredictReport) -> None:
        """Writes ``lesions.tsv`` and ``summary.tsv`` from the cases' files, and counts what these hold; one case is
        read at a time."""
        failed = {failure.item.case.case_id: failure.error for failure in report.failures}
        case_ids = [source.case.case_id for source in sources]
        rows: dict[str, dict[str, Any]] = {
            name: {"case": name, "status": "failed", "error": error} for name, error in failed.items()
        }
        stored = StoredPredictions(self.folder, [name for name in case_ids if name not in failed])

        warned: dict[str, list[str]] = {}

        def tallied() -> Iterator[CasePredictions]:
            """The cases, of each of which a row and its warnings are kept."""
            for case in stored:
                reported, name = int(case.reported.sum()), case.case_id
                rows[name] = {"case": name, "status": "done", "reported": reported, "candidates": len(case.detections)}
                report.lesions += reported
                for sentence in case.warnings:
                    warned.setdefault(sentence, []).append(name)
                yield case

        write_lesions(self.folder / "lesions.tsv", tallied())
        write_summary(self.folder / "summary.tsv", [rows[name] for name in case_ids])
        report.remarks += [f"{some_of(names)}: {sentence}" for sentence, names in warned.items()]
        report.remarks += self.ensemble.remarks(stored)


def _is_finished(folder: Path, job: CaseJob, draw: bool) -> bool:
    path = boxes_file(folder, job.case_id)
    if not path.is_file() or (draw and not instances_file(folder, job.case_id).is_file()):
        return False
    try:
        return read_case_predictions(path).key == job.key
    except UserError:  # a damaged file: the case is predicted again
        return False


def _localise(
    cases: Sequence[Case], folder: Path, localisation: Localisation | None, report: PredictReport, workers: Workers
) -> None:
    """Gives the lesions of predicted cases their places, or takes them away again."""
    if localisation is None:
        restore_cases(folder, cases)
        return
    from cmb_plugin.regions.localisation import localise_cases

    outcomes = localise_cases(folder, cases, localisation, workers)
    report.unplaced += failures(outcomes)
    report.unknown |= {outcome.item.case_id: outcome.result for outcome in outcomes if outcome.result}
