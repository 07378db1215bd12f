"""``settle_domains``: which domain each scan of a Task is of, as its preparation was asked to decide."""

from __future__ import annotations

from dataclasses import replace

from cmb_plugin.dataset import Case, Dataset, geometry_domains
from cmb_plugin.dataset.dataset import SPLITS
from cmb_plugin.dataset.domains import read_derived, write_derived
from cmb_plugin.errors import UserError
from cmb_plugin.images import Mapping, read_grid
from cmb_plugin.plugins import suggest
from cmb_plugin.workers import Workers, run_cases

SOURCES = ("dataset", "geometry")


def settle_domains(dataset: Dataset, source: str | None, workers: Workers = 0) -> Dataset:
    """The data set with the domains that are to hold from now on, for every command.

    Args:
        dataset: as it was loaded.
        source: ``geometry`` derives domains from the headers of all scans, training and test, and keeps them in
            ``preprocessed/domains.json``; ``dataset`` forgets what was derived; None changes nothing, but
            for scans that are new since domains were derived, which derives them again.
        workers: processes or machines that read headers. A scan whose header cannot be read gets no domain here;
            whoever needs its voxels will name the file.

    Raises:
        UserError: there is no such source.
    """
    cases = [case for split in SPLITS for case in dataset.cases(split)]
    if source is None:
        derived = read_derived(dataset.task)
        if derived is None or {case.case_id for case in cases} <= {*derived}:
            return dataset
        source = "geometry"
    if source not in SOURCES:
        raise UserError(f"planner_cfg.domains={source}: unknown", remedy=suggest(source, SOURCES))
    if source == "dataset":
        dataset.task.domains.unlink(missing_ok=True)
        return Dataset.load(dataset.task)
    outcomes = run_cases(_spacing, cases, workers=workers)
    spacings = {outcome.item.case_id: outcome.result for outcome in outcomes if outcome.result is not None}
    domains = geometry_domains(spacings)
    write_derived(dataset.task, domains)
    return replace(dataset, domain=domains)


def _spacing(case: Case) -> tuple[float, float, float]:
    """mm along the body's z, y, x."""
    return Mapping.plan(read_grid(case.present[0])).oriented_spacing
