"""What the check of a case found, and where that is kept as long as the case's files stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.files import digest, read_json, stamp, write_json

from .dataset import Case

RULES = 1
"""Of the check; what earlier ones found is looked for again."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong or odd.

    Attributes:
        case_id: the case; empty when it concerns the data set as a whole.
        file: path of the file.
        message: what is wrong, without the path.
        remedy: what to do about it.
        fatal: whether the case (or the data set) cannot be used as it is.
    """

    case_id: str
    file: str
    message: str
    remedy: str
    fatal: bool

    def __str__(self) -> str:
        return f"{'error' if self.fatal else 'warning'}: {self.file}: {self.message} - {self.remedy}"


@dataclass
class CaseFacts:
    """What the check of one case saw.

    Attributes:
        findings: what is wrong with its files.
        axis_codes: nearest world directions of the array axes, empty when no image could be read.
        labels: class index of every instance; None when there is no (readable) label.
    """

    findings: list[Finding] = field(default_factory=list)
    axis_codes: str = ""
    labels: list[int] | None = None


@dataclass(frozen=True)
class KeptFacts:
    """What checks saw of cases, a file for each, so that reading every voxel again is only for what has changed.

    Attributes:
        folder: where the files lie; None keeps nothing.
        settings: of the check; facts of other settings are not taken.
    """

    folder: Path | None
    settings: tuple[Any, ...]

    def of(self, case: Case) -> CaseFacts | None:
        """The facts of a case whose files are as they were when it was checked; None without."""
        path = self._path(case)
        if path is None or not path.is_file():
            return None
        try:
            content = read_json(path)
            if content["key"] != self._key(case):
                return None
            findings = [Finding(**finding) for finding in content["findings"]]
            return CaseFacts(findings, str(content["axis_codes"]), content["labels"])
        except (UserError, KeyError, TypeError, AttributeError):  # damaged: the case is checked again
            return None

    def made(self, case: Case, check: Callable[[Case], CaseFacts]) -> CaseFacts:
        """Checks a case and keeps what was seen, but not where it cannot be used: that is looked at again each time,
        since what is mended may lie outside of its files."""
        key = self._key(case)  # before: a file that changes meanwhile is checked again
        facts = check(case)
        path = self._path(case)
        if path is not None and not any(finding.fatal for finding in facts.findings):
            write_json(path, {"key": key, **asdict(facts)})
        return facts

    def _path(self, case: Case) -> Path | None:
        return None if self.folder is None else self.folder / case.split / f"{case.case_id}.json"

    def _key(self, case: Case) -> str:
        """Changes with the place, size and time of change of a file that the check reads, and with its settings."""
        files = [(str(path), *stamp(path)) for path in (*case.present, case.label, case.classes_file) if path]
        return digest([RULES, *self.settings, files])
