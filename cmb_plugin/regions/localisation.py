"""``nndet_predict --regions``: predictions get the place of every lesion, impossible ones are removed, lesions counted.

Everything here can be done again from the predictions and the cached map: without ``--regions`` a folder gets its plain
predictions back, with another source or other rules the same as if it had never had the old ones.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cmb_plugin.anatomy import UNKNOWN, Place, RegionMap, locate
from cmb_plugin.anatomy.rules import RemovalRules, remove_impossible, source_kind
from cmb_plugin.anatomy.storage import load_map, save_map
from cmb_plugin.dataset import Case, CasePredictions, boxes_file, instances_file, read_case_predictions
from cmb_plugin.dataset.predictions import write_case_predictions
from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, digest
from cmb_plugin.images import Grid, read_mask, write_image
from cmb_plugin.models.ensemble import Ensemble
from cmb_plugin.preparation import brain_channel
from cmb_plugin.workers import Outcome, Workers, run_cases

from .case_report import write_case_report, write_cohort
from .restoration import drawn_copy, maps_folder, report_files, restore_case
from .sources import RegionChoice, RegionSource, Surroundings

VERSION = 2  # of what is worked out here: a change makes finished cases be placed again


@dataclass(frozen=True)
class Localisation:
    """How the lesions of a run are localised.

    Attributes:
        source: makes the map of a scan's regions.
        rules: what is removed.
        possible: from this score on a detection below the operating point counts as possible; None: not known.
        channel: modality that reports show.
        spacing: mm of the scans that the model sees.
    """

    source: RegionSource
    rules: RemovalRules
    possible: float | None = None
    channel: int = 0
    spacing: tuple[float, ...] | None = None

    @classmethod
    def of(cls, choice: RegionChoice, images: Path, ensemble: Ensemble) -> Localisation:
        """What the user's choice means for a model, with the rules that validation chose for such maps, if any.

        Args:
            choice: of the source.
            images: folder of the scans.
            ensemble: the model.

        Raises:
            UserError: what was chosen is not there.
        """
        channel = brain_channel(ensemble.plan.modalities) or 0
        source = choice(Surroundings(images, channel, str(ensemble.device)))
        point = ensemble.operating_point
        rules = point.removal.get(source_kind(source.name)) or RemovalRules()
        # A packed model knows better than by its plan what voxels it has seen, and predictions hold what it said.
        spacing = None if ensemble.model.seen else ensemble.plan.preprocessing.spacing
        return cls(source, rules, point.possible_score, channel, spacing)

    def key(self, predictions: CasePredictions, case: Case) -> str:
        """Changes when anything that decides the result does."""
        deciding = [
            VERSION,
            predictions.key,
            self.source.key(case),
            dataclasses.asdict(self.rules),
            self.possible,
            self.channel,
        ]
        return digest(deciding)


def localise_cases(
    folder: Path, cases: Sequence[Case], localisation: Localisation, workers: Workers = 0
) -> list[Outcome[Case, str]]:
    """Places the lesions of predicted cases and writes their reports and ``cohort.tsv``.

    Args:
        folder: predictions folder.
        cases: those that stand in it.
        localisation: how.
        workers: processes, or machines.

    Returns:
        for each case the reason why its regions are unknown, "" where they are known. Where the map could not be made
        the outcome has an error; the case's report says so too.
    """
    work = partial(localise_case, folder=folder, localisation=localisation)
    outcomes = [
        done.result or done.failure_of(done.item)
        for done in run_cases(work, cases, workers, f"Localising lesions of {folder.name}")
    ]
    write_cohort(folder, [case.case_id for case in cases])
    return outcomes


def localise_case(case: Case, folder: Path, localisation: Localisation) -> Outcome[Case, str]:
    """One case; its files are whole whenever this is interrupted, and right after it ran again."""
    stored = read_case_predictions(boxes_file(folder, case.case_id))
    key = localisation.key(stored, case)
    if (stored.regions or {}).get("key") == key and all(path.is_file() for path in report_files(folder, case.case_id)):
        return Outcome(case, result=(stored.regions or {})["why"])
    plain = restore_case(folder, case.case_id)
    outcome, regions = _region_map(case, plain.grid, folder, localisation.source)
    drawn = instances_file(folder, case.case_id)
    mask = read_mask(drawn)[0] if drawn.is_file() else None
    placed = dataclasses.replace(
        plain,
        detections=remove_impossible(locate(plain.detections, regions, mask), localisation.rules),
        regions={
            "key": "" if outcome.error else key,  # what failed is tried again
            **{
                name: getattr(regions, name)
                for name in ("source", "quality", "trusted", "why", "findings", "sub_regions")
            },
            "rules": dataclasses.asdict(localisation.rules),
            "possible_score": localisation.possible,
        },
    )
    if mask is not None:
        _erase_removed(folder, placed, mask)
    write_case_predictions(folder, placed)
    write_case_report(folder, placed, regions, case.images[localisation.channel], localisation.spacing)
    return outcome


def _region_map(case: Case, grid: Grid, folder: Path, source: RegionSource) -> tuple[Outcome[Case, str], RegionMap]:
    """The map from the cache or the source; one without any region, and why, where it cannot be made."""
    maps, key = maps_folder(folder), source.key(case)
    cached = load_map(maps, case.case_id, key)
    if cached is not None:
        return Outcome(case, result=cached.why), cached
    try:
        made = source.make(case)
        if not made.grid.same_as(grid):
            raise UserError(f"{case.case_id}: its regions lie on another grid than its predictions", remedy="see above")
    except UserError as error:
        return Outcome(case, error=str(error)), _nothing(grid, source.name, str(error))
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        outcome: Outcome[Case, str] = Outcome(case, error=words, is_bug=True, details=traceback.format_exc())
        return outcome, _nothing(grid, source.name, words)
    save_map(maps, case.case_id, made, key)
    return Outcome(case, result=made.why), made


def _nothing(grid: Grid, source: str, why: str) -> RegionMap:
    return RegionMap(np.zeros(grid.shape, np.uint16), grid, {0: Place(UNKNOWN)}, source, trusted=False, why=why)


def _erase_removed(folder: Path, placed: CasePredictions, mask: np.ndarray) -> None:
    """Takes removed lesions out of the mask; a copy of the mask as it was drawn is kept beside the map."""
    gone = 1 + np.flatnonzero(placed.withheld)
    if not len(gone):
        return
    drawn, copy = instances_file(folder, placed.case_id), drawn_copy(folder, placed.case_id)
    with atomic(copy) as temporary:
        temporary.write_bytes(drawn.read_bytes())
    write_image(drawn, np.where(np.isin(mask, gone), 0, mask).astype(np.uint16), placed.grid)
