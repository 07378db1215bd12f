"""``ExampleTask``: what a task gives that ``nndet_example`` can make, and what one run of it did."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from cmb_plugin.errors import UserError
from cmb_plugin.paths import TaskFolder
from cmb_plugin.workers import Outcome

MOST_LESIONS = 100
"""Microbleeds lie 7 mm apart, where scans show the head."""


@dataclass(frozen=True)
class ExampleOptions:
    """What the options of ``nndet_example`` ask for; a task takes those that mean something to it.

    Attributes:
        train, test: number of cases; None where the task chooses.
        healthy: share of the cases of each split that have no lesion.
        protocol: kind of scan, several separated by commas, or ``mixed``; cases take them in turn.
        modalities: names separated by commas; lesions are outlined on the first; None where the task chooses.
        classes: names separated by commas.
        seed: the same seed gives the same files.
        scans: scans of each subject, each from a scanner of its own.
        into: folder of measured scans that lesions are put into.
        copies: cases made of each of them, with lesions of their own.
        mimics: mean number of mimics put into each case.
        field_tesla, echo_ms: of these scans, where no file beside them says so.
        followup: number of later scans of each subject.
        followup_protocol: kind of the later scans; empty for that of the first.
        anatomy: a label image and its table, with a colon between; empty for the template.
        lesions: mean number of microbleeds of a case that has any; 0 for as many as in cohorts.
    """

    train: int | None = None
    test: int | None = None
    healthy: float = 0.3
    protocol: str = "demo"
    modalities: str | None = None
    classes: str = "cmb"
    seed: int = 0
    scans: int = 1
    into: str = ""
    copies: int = 1
    mimics: float = 0.0
    field_tesla: float = 3.0
    echo_ms: float = 20.0
    followup: int = 0
    followup_protocol: str = ""
    anatomy: str = ""
    lesions: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lesions <= MOST_LESIONS:
            raise UserError(
                f"--lesions {self.lesions}: cannot be made", remedy=f"give a number from 1 to {MOST_LESIONS}"
            )


@dataclass(frozen=True)
class ExampleReport:
    """What a run did.

    Attributes:
        task: the folder.
        outcomes: of the cases that were made in this run; an item begins with the split and the number of a case,
            ``result`` is the number of lesions.
        skipped: number of cases that were there already.
    """

    task: TaskFolder
    outcomes: list[Outcome[Any, int]]
    skipped: int


class ExampleTask(ABC):
    """A synthetic data set that is written as a Task folder.

    Class attributes:
        folder: name of the Task folder where the user gives none.
    """

    folder: ClassVar[str]

    @abstractmethod
    def settings(self, options: ExampleOptions) -> Any:
        """Everything that decides what the folder holds.

        Raises:
            UserError: an unknown name, or a number out of range.
        """

    @abstractmethod
    def write(self, task: TaskFolder, settings: Any, *, workers: int = 0, overwrite: bool = False) -> ExampleReport:
        """Fills ``task``; finished cases of the same settings are kept.

        Args:
            task: the folder.
            settings: from ``settings``.
            workers: processes; 0 or 1 works in this one.
            overwrite: replace cases made with other settings.

        Raises:
            UserError: the folder holds something else.
        """
