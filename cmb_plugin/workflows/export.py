"""``export_cases``: predicted cases in the forms that others read, BIDS derivatives and DICOM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cmb_plugin.dataset import Case
from cmb_plugin.documents import counted
from cmb_plugin.exchange import bids, dicom
from cmb_plugin.exchange.case import ExportedCase
from cmb_plugin.workers import Outcome, Workers, failures, run_cases

if TYPE_CHECKING:
    from cmb_plugin.intake import InputCase


@dataclass(frozen=True)
class ExportTargets:
    """What is written beside the predictions folder.

    Attributes:
        derivatives: folder of a BIDS derivative.
        dicom: folder for segmentations and structured reports of DICOM series.
        raw: the BIDS data set that was predicted, to which derivatives refer.
    """

    derivatives: Path | None = None
    dicom: Path | None = None
    raw: Path | None = None

    @property
    def any(self) -> bool:
        """Whether anything is wanted."""
        return self.derivatives is not None or self.dicom is not None

    def check(self, inputs: Sequence[Path]) -> None:
        """Refuses targets that hold somebody else's data set.

        Args:
            inputs: what is predicted.

        Raises:
            UserError: see ``exchange.bids.check_derivative``.
        """
        if self.derivatives is not None:
            bids.check_derivative(self.derivatives, [*inputs, *([] if self.raw is None else [self.raw])])


def export_cases(
    folder: Path,
    cases: Sequence[Case],
    inputs: Mapping[str, InputCase],
    targets: ExportTargets,
    model: str,
    scores: Mapping[str, str],
    log: Callable[[str], None],
    workers: Workers = 0,
    gone: Sequence[str] = (),
) -> list[Outcome[ExportedCase, Path]]:
    """Writes predicted cases to the targets and returns the failures; a case that has no name in BIDS is one.

    Args:
        folder: predictions folder.
        cases: those that stand in it.
        inputs: case -> what it was in the input.
        targets: where to.
        model: what predicted, in words.
        scores: further score columns of the model, and what they mean.
        log: is given what was written.
        workers: processes, or machines.
        gone: names of cases that could not be predicted, of which nothing of an earlier run stays.
    """
    exported = [ExportedCase(folder, case.case_id, case.images[0], inputs.get(case.case_id)) for case in cases]
    failed: list[Outcome[ExportedCase, Path]] = []
    if targets.derivatives is not None:
        nameless = bids.without_name([case.case_id for case in exported])
        bids.write_description(targets.derivatives, model, targets.raw)
        for case_id in gone:
            bids.forget_case(targets.derivatives, case_id)
        write = partial(_write_bids, root=targets.derivatives, scores=scores, raw=targets.raw)
        outcomes = run_cases(write, [case for case in exported if case.case_id not in nameless], workers)
        failed += [Outcome(case, None, str(nameless[case.case_id])) for case in exported if case.case_id in nameless]
        unwritten = failures(outcomes)
        failed += unwritten
        log(f"BIDS derivatives of {counted(len(outcomes) - len(unwritten), 'case')}: {targets.derivatives}")
    if targets.dicom is not None:
        for case_id in gone:
            dicom.forget_case(targets.dicom, case_id)
        outcomes = run_cases(partial(_write_dicom, folder=targets.dicom), exported, workers)
        unwritten = failures(outcomes)
        failed += unwritten
        written = counted(len(outcomes) - len(unwritten), "case")
        log(f"DICOM segmentations and reports of {written}: {targets.dicom}")
    return failed


def _write_bids(case: ExportedCase, root: Path, scores: Mapping[str, str], raw: Path | None) -> Path:
    return bids.write_case(root, case, scores, raw)


def _write_dicom(case: ExportedCase, folder: Path) -> Path:
    return dicom.write_dicom(folder, case)[-1]
