"""What planners of brain scans share: the crop to the brain, and intensities by what a modality measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmb_plugin.errors import UserError
from cmb_plugin.preparation import (
    CaseFingerprint,
    DomainUnits,
    Fingerprint,
    Normalisation,
    Preprocessing,
    brain_channel,
    find_scheme,
    modality_kind,
)

from .network_planner import NetworkPlanner
from .plan import Plan, Spacing, Triple

SCHEMES = {"phase": "phase", "susceptibility": "qsm"}


def shape_around_brain(case: CaseFingerprint, margin_mm: float) -> Triple:
    """Voxels of the brain's block and its margin, within what is not empty; the body's axes."""
    if case.brain_shape is None:
        return case.cropped_shape
    kept = [
        min(whole, brain + 2 * math.ceil(margin_mm / side))
        for whole, brain, side in zip(case.cropped_shape, case.brain_shape, case.spacing, strict=True)
    ]
    return kept[0], kept[1], kept[2]


def brain_preprocessing(
    fingerprint: Fingerprint,
    spacing: Spacing,
    transpose: Triple,
    margin_mm: float,
    normalisation: tuple[Normalisation, ...],
) -> Preprocessing:
    """The recipe that crops a scan to its brain and a margin."""
    return Preprocessing(
        spacing,
        transpose,
        normalisation,
        brain_channel=brain_channel(fingerprint.modalities),
        brain_margin_mm=margin_mm,
        domain_units=_domain_units(fingerprint, normalisation),
    )


def brain_normalisation(fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
    """Each modality by what it measures, as its name says; one that says nothing is a phase if its values run from -pi
    to pi, else a magnitude."""
    steps = []
    for index, name in enumerate(fingerprint.modalities):
        kind = modality_kind(name)
        if kind == "unknown" and _runs_over_a_turn(fingerprint, index):
            kind = "phase"
        scheme = SCHEMES.get(kind, "robust")
        unit, _ = find_scheme(scheme).unit(fingerprint.cases, index)
        steps.append(Normalisation(scheme, unit=unit))
    return tuple(steps)


def _domain_units(fingerprint: Fingerprint, normalisation: Sequence[Normalisation]) -> tuple[DomainUnits, ...]:
    """The units of each domain that are not those of the data set as a whole: as if the domain were one of its own."""
    domains = sorted({case.domain for case in fingerprint.cases if case.domain})
    if len(domains) < 2:
        return ()
    common = tuple(step.unit for step in normalisation)
    entries = []
    for domain in domains:
        own = [case for case in fingerprint.cases if case.domain == domain]
        units = tuple(
            find_scheme(step.scheme).unit(own, index)[0] or step.unit for index, step in enumerate(normalisation)
        )
        if units != common:
            entries.append(DomainUnits(domain, units))
    return tuple(entries)


def brain_notes(plan: Plan, fingerprint: Fingerprint) -> list[str]:
    """What there is to say about such a recipe: the units that the modalities are stored in, and where the brain comes
    from."""
    steps = enumerate(zip(fingerprint.modalities, plan.preprocessing.normalisation, strict=True))
    units = [(name, find_scheme(step.scheme).unit(fingerprint.cases, index)[1]) for index, (name, step) in steps]
    notes = [f"{name}: {note}" for name, note in units if note]
    for entry in plan.preprocessing.domain_units:
        own = ", ".join(
            f"{name} {unit}" for name, unit in zip(fingerprint.modalities, entry.units, strict=True) if unit
        )
        notes.append(f"{entry.domain} is stored in units of its own: {own or 'each scan in its own'}.")
    if plan.preprocessing.brain_channel is None:
        return [*notes, "No modality shows where the brain is: scans are cropped to what is not empty."]
    cases = fingerprint.cases
    given = sum(case.brain_given for case in cases)
    missing = sum(case.brain_shape is None for case in cases)
    name = fingerprint.modalities[plan.preprocessing.brain_channel]
    note = f"Brain: mask given for {given} of {len(cases)} training scans, else estimated on {name}"
    return [*notes, note + (f"; not found in {missing}, which are kept whole." if missing else ".")]


def _runs_over_a_turn(fingerprint: Fingerprint, modality: int) -> bool:
    """Whether values run from near -pi to near pi and no further, as those of phase in noise do."""
    low = np.median([case.percentiles[modality][0] for case in fingerprint.cases])
    high = np.median([case.percentiles[modality][2] for case in fingerprint.cases])
    return bool(-math.pi * 1.01 <= low < -2.8 and 2.8 < high <= math.pi * 1.01)


class BrainPlanner(NetworkPlanner):
    """Base of planners whose scans are cropped to the brain and a margin, and normalised by what a modality measures.

    The margin is the setting ``brain_margin_mm``.
    """

    config: Any  # a ``PlannerConfig`` that has the margin

    def check_config(self, fingerprint: Fingerprint) -> None:
        """Refuses a negative margin too.

        Raises:
            UserError: naming the setting.
        """
        super().check_config(fingerprint)
        if not 0 <= self.config.brain_margin_mm < math.inf:
            raise UserError(f"planner_cfg.brain_margin_mm={self.config.brain_margin_mm}", remedy="give 0 or more mm")

    def kept_shape(self, case: CaseFingerprint) -> Triple:
        """Voxels of the brain's block and its margin, within what is not empty."""
        return shape_around_brain(case, self.config.brain_margin_mm)

    def preprocessing(self, fingerprint: Fingerprint, spacing: Spacing, transpose: Triple) -> Preprocessing:
        """Cropped to the brain and a margin."""
        normalisation = self.normalisation(fingerprint)
        return brain_preprocessing(fingerprint, spacing, transpose, self.config.brain_margin_mm, normalisation)

    def normalisation(self, fingerprint: Fingerprint) -> tuple[Normalisation, ...]:
        """Each modality by what it measures."""
        return brain_normalisation(fingerprint)
