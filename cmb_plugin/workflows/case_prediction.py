"""Prediction of one case, from its scan to its files: in stages that overlap, or whole in any process."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from cmb_plugin.errors import UserError
from cmb_plugin.files import digest
from cmb_plugin.images import place_doubt
from cmb_plugin.inference import InferenceConfig, Prediction, predict_array
from cmb_plugin.models.ensemble import Ensemble, load_ensemble
from cmb_plugin.models.output import write_case
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.preparation import Scan, ScanSource, prepared_scans
from cmb_plugin.regions.restoration import forget_case
from cmb_plugin.workers import Outcome, guarded

_loaded: dict[str, Ensemble] = {}
"""The ensemble of this process that predicted last, by ``CasePredictor.token``."""


@dataclass(frozen=True)
class CaseJob:
    """One case that is to be predicted.

    Attributes:
        source: where its scan comes from.
        key: changes with the models, the settings and the scan; kept in its file.
        contrast: what its first channel shows, "" where nobody knows.
    """

    source: ScanSource
    key: str
    contrast: str = ""

    @property
    def case_id(self) -> str:
        """Name of the case."""
        return self.source.case.case_id


@dataclass(frozen=True)
class CaseResult:
    """What a run keeps of a case whose files are written.

    Attributes:
        left_out: candidates that were left out because there were too many; 0 where only such were that are not
            reported.
    """

    left_out: int = 0


@dataclass(frozen=True)
class CasePredictor:
    """Predicts cases into one folder. It can be sent to other processes, which load the weights when they first need
    them.

    Attributes:
        model: the folds that work together.
        settings: of tiled prediction.
        device: where the network works.
        folder: predictions folder.
        draw: whether instance masks are written.
        token: the same for predictors whose models say the same.
        packed: file of a packed model, which each machine unpacks for itself; None for another one.
    """

    model: TrainedModel
    settings: InferenceConfig
    device: str
    folder: Path
    draw: bool
    token: str
    packed: Path | None = None

    @classmethod
    def of(cls, ensemble: Ensemble, folder: Path, draw: bool) -> CasePredictor:
        """Predicts with an ensemble that is loaded here."""
        device = str(ensemble.device)
        token = digest([ensemble.description(), ensemble.operating_point.deciding(), device])
        _keep(token, ensemble)
        packed = ensemble.model.packed
        file = None if packed is None else Path(packed["file"])
        return cls(ensemble.model, ensemble.settings, device, folder, draw, token, file)

    @property
    def ensemble(self) -> Ensemble:
        """The models, loaded at most once in a process."""
        if self.token not in _loaded:
            model = self.model
            if self.packed is not None:
                from cmb_plugin.models.packed import unpacked

                model = replace(model, folder=unpacked(self.packed))
            _keep(self.token, load_ensemble(model, torch.device(self.device), self.settings))
        return _loaded[self.token]

    def __call__(self, job: CaseJob) -> CaseResult:
        """Predicts a case from its scan to its files, which are written atomically.

        Raises:
            UserError: the scan cannot be read or predicted.
        """
        (scan,) = prepared_scans([job.source], self.ensemble.plan.preprocessing, workers=0)
        return self.write(job, scan.value, self.detect(job, scan.value))

    def stream(self, jobs: list[CaseJob], workers: int) -> Generator[Outcome[CaseJob, CaseResult], None, None]:
        """Predicts cases one after another while the next ones are prepared and the one before is written.

        The network waits neither for reading nor for writing, and no more than these are in memory: the scan that it
        sees, and of the case before it what is written. Whoever stops early gets the files of the case that is
        being written whole.

        Args:
            jobs: the cases.
            workers: processes that prepare scans; 0 prepares each when its turn comes.

        Yields:
            what became of each case, in order.
        """
        scans = prepared_scans([job.source for job in jobs], self.ensemble.plan.preprocessing, workers)
        written: Future[Outcome[CaseJob, CaseResult]] | None = None
        with ThreadPoolExecutor(1, "write") as writer, closing(scans):
            for done in self._detected(jobs, scans):
                if written is not None:
                    yield written.result()
                written = writer.submit(self._written, done)
                del done  # its foreground is as large as the scan
            if written is not None:
                yield written.result()

    def detect(self, job: CaseJob, scan: Scan) -> Prediction:
        """What the network sees in a prepared scan, with scores as the operating point counts them.

        Raises:
            UserError: it does not fit into the GPU's memory.
        """
        ensemble = self.ensemble
        point = ensemble.operating_point
        try:
            prediction = predict_array(
                ensemble.members, scan.data, ensemble.settings, ensemble.device, ranking=point.ranking
            )
        except torch.cuda.OutOfMemoryError:
            remedy = "try -o inference_cfg.batch_size=1 or inference_cfg.tile_voxels=2000000, or --device cpu"
            raise UserError(f"{job.case_id}: does not fit into the GPU's memory", remedy=remedy) from None
        prediction.detections = point.apply(prediction.detections)
        return prediction

    def write(self, job: CaseJob, scan: Scan, prediction: Prediction) -> CaseResult:
        """Writes the files of a case; of ``scan`` everything but its array is needed."""
        ensemble, case_id = self.ensemble, job.case_id
        point, seen = ensemble.operating_point, ensemble.model.seen
        doubts = [] if seen is None else seen.doubts(scan.mapping.source, scan.negative, job.contrast)
        if place := next((place_doubt(path, scan.mapping.source) for path in job.source.case.present), ""):
            doubts.append(place)
        forget_case(self.folder, case_id)
        write_case(
            self.folder,
            case_id,
            prediction,
            scan.mapping,
            classes=ensemble.plan.classes,
            operating_point=point.score,
            model=ensemble.model.name,
            folds=ensemble.model.folds,
            key=job.key,
            modalities=[name for channel, name in enumerate(ensemble.plan.modalities) if channel not in scan.missing],
            warnings=doubts,
            draw=self.draw,
        )
        scores = prediction.detections.scores
        return CaseResult(prediction.dropped if len(scores) and scores.min() >= point.score else 0)

    def _detected(
        self, jobs: list[CaseJob], scans: Iterator[Outcome[ScanSource, Scan]]
    ) -> Iterator[Outcome[CaseJob, tuple[Scan, Prediction]]]:
        """Each case as the network sees it; nothing of a case is held when the next one is asked for."""
        for job in jobs:
            yield self._detect_next(job, next(scans))

    def _detect_next(
        self, job: CaseJob, prepared: Outcome[ScanSource, Scan]
    ) -> Outcome[CaseJob, tuple[Scan, Prediction]]:
        scan = prepared.result
        if scan is None:
            return prepared.failure_of(job)
        done = guarded(partial(self.detect, scan=scan), job)
        if done.result is None:
            return done.failure_of(job)
        return Outcome(job, (replace(scan, data=None), done.result))

    def _written(self, seen: Outcome[CaseJob, tuple[Scan, Prediction]]) -> Outcome[CaseJob, CaseResult]:
        if seen.result is None:
            return seen.failure_of(seen.item)
        scan, prediction = seen.result
        return guarded(partial(self.write, scan=scan, prediction=prediction), seen.item)


def _keep(token: str, ensemble: Ensemble) -> None:
    """Of several ensembles only the last stays in memory."""
    _loaded.clear()
    _loaded[token] = ensemble
