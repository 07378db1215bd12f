"""What ``prepare`` did with each case of a Task, as objects; ``nndet_prep`` prints them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cmb_plugin.paths import TaskFolder
from cmb_plugin.planning import Plan


@dataclass(frozen=True)
class PreparedSummary:
    """What became of one case.

    Attributes:
        case_id: its name.
        split: ``Tr`` or ``Ts``.
        lesions_before: instances in the label file, or regions in the region mask; None without.
        lesions_after: how many of them are in the stored mask.
        redrawn: numbers of the instances that resampling alone would have lost.
        nonfinite: number of NaN and infinite values that became 0.
        fresh: False when it was prepared before and nothing had changed.
        outside: numbers of the instances outside the crop, which is made without looking at labels. They are not
            learned, and count as missed in every evaluation.
        domain: site, scanner or protocol; empty where nobody says.
    """

    case_id: str
    split: str
    lesions_before: int | None
    lesions_after: int | None
    redrawn: tuple[int, ...]
    nonfinite: int
    fresh: bool
    outside: tuple[int, ...] = ()
    domain: str = ""


@dataclass(frozen=True)
class Failure:
    """A case that could not be used, and why."""

    split: str
    case_id: str
    reason: str
    is_bug: bool = False


@dataclass
class PrepReport:
    """Everything that ``prepare`` measured and did.

    Attributes:
        task: the Task folder.
        plan: the plan in use.
        plan_path: where it stands.
        cases: what became of each case that was prepared.
        failures: the cases that could not be used.
        warnings: findings that do not keep a case from being used, as sentences.
        seconds: time it took.
        plan_from: the trained model that the plan is like, as the user named it; None where a planner planned.
    """

    task: TaskFolder
    plan: Plan
    plan_path: Path
    cases: list[PreparedSummary]
    failures: list[Failure]
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    plan_from: str | None = None

    @property
    def exit_code(self) -> int:
        """0, 2 when the user has cases to repair, 1 when a case met a bug."""
        return 1 if any(failure.is_bug for failure in self.failures) else 2 if self.failures else 0

    def of(self, split: str) -> list[PreparedSummary]:
        """The prepared cases of ``Tr`` or ``Ts``."""
        return [case for case in self.cases if case.split == split]

    @property
    def domains(self) -> list[str]:
        """Domains of the prepared cases, sorted; of cases without one ``""``."""
        return sorted({case.domain for case in self.cases})
