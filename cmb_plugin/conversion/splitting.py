"""The test split: by patient, alike in burden and domain, and the same for ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BURDENS = (0, 1, 4)
"""Upper ends of the classes of lesions per scan: none, one, two to four, five and more (as clinicians count)."""


@dataclass(frozen=True)
class Counted:
    """A case as the split sees it."""

    case_id: str
    patient: str
    domain: str
    lesions: int


def choose_test(
    cases: Sequence[Counted], fraction: float, seed: int, decided: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Says for each case whether it is ``Tr`` or ``Ts``.

    Patients are lined up by domain, then by the largest number of lesions in a scan of theirs, equals in an order that
    the seed gives; from this line every 1/fraction-th is taken. So each domain and burden gives its share, as far as
    whole patients allow.

    Args:
        cases: all cases.
        fraction: share of the patients that are tested.
        seed: decides among equals, and where in the line counting begins.
        decided: case -> split of an earlier run; it stands, and so it does for other cases of the same patient.
    """
    decided = dict(decided or {})
    fixed = {case.patient: decided[case.case_id] for case in cases if case.case_id in decided}
    patients: dict[str, list[Counted]] = {}
    for case in sorted(cases, key=lambda c: c.case_id):
        if case.patient not in fixed:
            patients.setdefault(case.patient, []).append(case)
    rng = np.random.default_rng(seed)
    names = sorted(patients)
    line = [names[i] for i in rng.permutation(len(names))]

    def stratum(patient: str) -> tuple[str, int]:
        """Domain of a patient, and the class of burden of the scan with most lesions."""
        most = max(case.lesions for case in patients[patient])
        return min(case.domain for case in patients[patient]), int(np.searchsorted(BURDENS, most))

    line.sort(key=stratum)  # stable: equals stay shuffled
    start = float(rng.random())
    for k, patient in enumerate(line):
        fixed[patient] = "Ts" if int((k + 1) * fraction + start) > int(k * fraction + start) else "Tr"
    if line and fraction < 1 and not decided and "Tr" not in fixed.values():
        fixed[line[0]] = "Tr"
    return {case.case_id: decided.get(case.case_id, fixed[case.patient]) for case in cases}
