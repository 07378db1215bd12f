"""``simulate``: plays rounds of active learning with labels that exist, so that strategies can be compared.

Every step leaves a file when it is done and is skipped when the file is there, so that a simulation can be killed
anywhere and goes on. All chance comes from the seed, the strategy and the round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmb_plugin.dataset import Case, Dataset, Truth
from cmb_plugin.dataset.domains import UNNAMED
from cmb_plugin.errors import UserError
from cmb_plugin.evaluation import CaseResult, EvaluationConfig, SweepConfig
from cmb_plugin.files import digest, locked, read_json, write_json
from cmb_plugin.models.operating_point import OperatingPoint
from cmb_plugin.models.scored_cases import PredictionSet
from cmb_plugin.models.trained import TrainedModel
from cmb_plugin.paths import FoldFolder, ModelFolder
from cmb_plugin.plugins import suggest
from cmb_plugin.preparation import StoredCase, prepared_cases
from cmb_plugin.settings import plain_settings, write_settings
from cmb_plugin.training import ExperimentConfig, fit
from cmb_plugin.training.module import read_checkpoint, read_weights
from cmb_plugin.workflows.predict import PredictOptions, predict
from cmb_plugin.workflows.scan_selection import ScanSelection
from cmb_plugin.workflows.train import after_training
from cmb_plugin.workflows.training_run import TrainingRun

from .evidence import Calibration, Evidence, unseen
from .pool import evidence_of
from .strategies import COMMITTEE, LABELLED, needs_of, strategy_named

ALL = "all"
"""Not a strategy: everything is labelled from the beginning, and trained on as long as the rounds are."""

LOOKED_AT = 2
"""Scans that a trainer's step after training looks at: what it names there is of no matter to a simulation."""

FIELDS = ("strategies", "rounds", "acquire", "start", "start_domain", "seeds", "pool_scans", "test_scans")


@dataclass(frozen=True)
class SimulationConfig:
    """What is played.

    Attributes:
        strategies: names.
        rounds: rounds of acquisition after the start.
        acquire: scans that are labelled in each.
        start: scans that are labelled at the start, drawn at random, the same ones for all strategies of a seed.
        start_domain: of which domain they are; empty for any.
        seeds: 0 to ``seeds`` - 1.
        pool_scans, test_scans: at most so many scans of the Task take part, evenly of all domains; None for all.
    """

    strategies: tuple[str, ...]
    rounds: int = 3
    acquire: int = 10
    start: int = 10
    start_domain: str = ""
    seeds: int = 3
    pool_scans: int | None = None
    test_scans: int | None = None


@dataclass(frozen=True)
class RoundResult:
    """One trained round.

    Attributes:
        seed, strategy, number: which; round 0 is the start.
        labelled: scans that were learned from.
        lesions: labelled lesions in them.
        model: the trained model.
    """

    seed: int
    strategy: str
    number: int
    labelled: tuple[str, ...]
    lesions: int
    model: TrainedModel


@dataclass
class Simulation:
    """One simulation in its folder.

    Attributes:
        config: what is played.
        first, later: how the start, and how each further round is trained.
        output: folder.
        log: is given sentences on what is done.
        dataset: the Task.
        pool: training scans that take part, sorted.
        test: test scans that are measured.
        truths: lesions by case, as far as they were read.
    """

    config: SimulationConfig
    first: TrainingRun
    later: TrainingRun
    output: Path
    log: Callable[[str], None] = lambda _: None
    dataset: Dataset = field(init=False)
    pool: tuple[Case, ...] = field(init=False)
    test: tuple[Case, ...] = field(init=False)
    truths: dict[str, Truth] = field(default_factory=dict)
    _lesion_counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        config, task = self.config, self.first.task
        self.dataset = Dataset.load(task)
        prepared = set(prepared_cases(task.prepared(self.first.plan.name, "Tr")))
        pool = [case for case in self.dataset.cases("Tr") if case.case_id in prepared and case.label is not None]
        test = [case for case in self.dataset.cases("Ts") if case.label is not None]
        if not test:
            raise UserError(f"{task.labels('Ts')}: holds no label to measure against", remedy="add labelled test scans")
        self.pool = even_share(pool, config.pool_scans)
        self.test = even_share(test, config.test_scans)
        if ALL in config.strategies or not config.strategies:
            raise UserError("--strategies: names no strategy to compare", remedy="give for instance random,uncertainty")
        for name in config.strategies:
            strategy_named(name)
        least = min(config.rounds, config.acquire, config.start, config.seeds)
        if least < 1:
            raise UserError("--rounds, --acquire, --start, --seeds: at least one is 0", remedy="give 1 or more each")
        needed = config.start + config.rounds * config.acquire
        if needed > len(self.pool):
            raise UserError(
                f"{task.name}: has {len(self.pool)} labelled and prepared training scans, "
                f"{config.start} + {config.rounds} x {config.acquire} are asked for",
                remedy="lower --start, --rounds or --acquire, or run nndet_prep",
            )
        if self.first.settings["trainer_cfg"].devices != 1:
            raise UserError("trainer_cfg.devices: a simulation trains on one", remedy="leave it out")
        of_domain = [case for case in self.pool if case.domain == config.start_domain]
        if config.start_domain and len(of_domain) < config.start:
            known = sorted({case.domain for case in self.pool})
            raise UserError(
                f"--start-domain {config.start_domain}: has {len(of_domain)} scans, --start asks for {config.start}",
                remedy=suggest(config.start_domain, known),
            )

    # The whole --------------------------------------------------------------------------------------------------------

    def run(self) -> list[RoundResult]:
        """Plays what has not been played yet; returns every round.

        Raises:
            UserError: the folder holds another simulation, or something that the user can mend.
            KeyboardInterrupt: interrupted; the next call goes on.
        """
        with locked(self.output / ".lock"):
            self._claim()
            results = []
            for seed in range(self.config.seeds):
                for strategy in (*self.config.strategies, ALL):
                    results += self._play(seed, strategy)
            return results

    def _claim(self) -> None:
        """Notes what is played, or checks that it is the same as before."""
        path = self.output / "simulation.json"
        settings = {
            name: plain_settings(_deciding(run)) for name, run in (("first", self.first), ("later", self.later))
        }
        config = {name: getattr(self.config, name) for name in FIELDS}
        content = {"task": self.first.task.name, "plan": self.first.plan.name, **config, **settings}
        content |= {"pool": [case.case_id for case in self.pool], "test": [case.case_id for case in self.test]}
        if path.is_file():
            before = read_json(path)
            # Strategies and seeds may be added; every run is its own.
            for name in sorted({*content, *before} - {"strategies", "seeds"}):
                if digest(before.get(name)) != digest(content.get(name)):
                    raise UserError(
                        f"{path}: {name} was another when this simulation began",
                        remedy="give the options that it began with, or another --output",
                    )
        write_json(path, content)

    def _play(self, seed: int, strategy: str) -> list[RoundResult]:
        """All rounds of one strategy and seed."""
        folder = self.output / f"seed{seed}" / strategy
        everything = [case.case_id for case in self.pool]
        labelled = everything if strategy == ALL else self._start(seed)
        results: list[RoundResult] = []
        for number in range(self.config.rounds + 1):
            acquired: list[str] = []
            if number and strategy != ALL:
                acquired = self._acquired(folder / f"round{number}.json", seed, strategy, results)
                labelled = [*labelled, *acquired]
            shared = number == 0 and strategy != ALL  # the start is the same for all strategies
            place = ModelFolder(self.output / f"seed{seed}" / "start" if shared else folder / f"round{number}")
            before = results[-1].model if results else None
            model = self._trained(place, labelled, before, acquired, seed, number)
            self._predict_test(model, f"seed {seed}, {strategy}, round {number}")
            lesions = sum(self._lesions(case_id) for case_id in labelled)
            results.append(RoundResult(seed, strategy, number, tuple(labelled), lesions, model))
        return results

    def _start(self, seed: int) -> list[str]:
        """The scans that are labelled at the start."""
        domain = self.config.start_domain
        names = [case.case_id for case in self.pool if not domain or case.domain == domain]
        chosen = np.random.default_rng([seed, 1]).permutation(len(names))[: self.config.start]
        return sorted(names[number] for number in chosen.tolist())

    # A round ----------------------------------------------------------------------------------------------------------

    def _trained(
        self,
        place: ModelFolder,
        labelled: Sequence[str],
        before: TrainedModel | None,
        acquired: Sequence[str],
        seed: int,
        number: int,
    ) -> TrainedModel:
        """The model of a round, trained on from the one before as far as it is not trained yet."""
        run, fold = self.later if before else self.first, place.fold(0)
        # Rounds draw other patches than those before them.
        settings = {**run.settings, "exp": ExperimentConfig(seed=seed * 1000 + number)}
        run = dataclasses.replace(run, settings=settings, fold=fold)
        if not fold.is_finished():
            begun = fold.last.is_file()
            if not begun:
                fold.root.mkdir(parents=True, exist_ok=True)
                run.plan.save(fold.plan)
                write_json(fold.splits, [{"train": list(labelled), "val": [case.case_id for case in self.pool]}])
                write_settings(fold.settings, {"task": run.task.name, **settings})
                if before and acquired:
                    self._choose_point(before, acquired, fold)
                fold.mark(finished=False)
            module = run.module()
            if before and not begun:
                module.load_state_dict(read_weights(before.folder.fold(0).last))
            balance = settings["trainer_cfg"].domain_balance
            fit(
                module,
                fold,
                run.task.prepared(run.plan.name, "Tr"),
                labelled,
                (),
                settings["augment_cfg"],
                resume=begun,
                inference_cfg=settings["inference_cfg"],
                domains=self.dataset.domain if balance else None,
            )
            after_training(run, labelled[:LOOKED_AT], module.device)
            fold.mark(finished=True)
        return TrainedModel(place, (0,))

    def _choose_point(self, before: TrainedModel, acquired: Sequence[str], fold: FoldFolder) -> None:
        """The operating point of a round: chosen on the scans that were labelled for it, as the model of the round
        before, which had not seen them, predicted them. The weights are not the same, but no scan is lost for it."""
        cases = self._scored(before, acquired)
        if any(len(case.truth_boxes) for case in cases):
            OperatingPoint.choose(cases, SweepConfig(), EvaluationConfig(), fold.root.name).save(fold.operating_point)

    def _acquired(self, path: Path, seed: int, strategy: str, results: Sequence[RoundResult]) -> list[str]:
        """The scans that a strategy has labelled for a round, chosen now if they were not yet."""
        if path.is_file():
            return list(read_json(path)["acquired"])
        last = results[-1]
        left = [case.case_id for case in self.pool if case.case_id not in last.labelled]
        choose = strategy_named(strategy)
        rng = np.random.default_rng([seed, last.number, int(digest(strategy)[:8], 16)])
        evidence = self._evidence(needs_of(choose), left, results)
        ranking = choose(evidence, rng)
        chosen = ranking.order[: self.config.acquire].tolist()
        acquired = [left[number] for number in chosen]
        self.log(f"seed {seed}, {strategy}, round {last.number + 1}: {len(acquired)} scans of {len(left)} are labelled")
        values = {left[number]: float(ranking.values[number]) for number in chosen}
        write_json(
            path, {"acquired": acquired, "values": {k: v if np.isfinite(v) else None for k, v in values.items()}}
        )
        return acquired

    def _evidence(self, needs: frozenset[str], left: Sequence[str], results: Sequence[RoundResult]) -> Evidence:
        """What the model of the last round says about the scans that are left."""
        if not needs:
            return Evidence(tuple(unseen(case_id) for case_id in left))
        last = results[-1]
        fold, config = last.model.folder.fold(0), self.later.settings["inference_cfg"]
        labelled = list(last.labelled) if LABELLED in needs else []
        self._predict(last.model, "val", [*left, *labelled])
        folder = fold.predictions("val")
        members: list[Path] = []
        if COMMITTEE in needs:
            members = [folder]
            if read_checkpoint(fold.last).get("averaged_weights"):
                members.append(fold.root / "raw_predictions")
                raw = dataclasses.replace(last.model, checkpoint="raw")
                selection = ScanSelection(self.first.task, "val", only=tuple(left))
                _checked(predict(raw, selection, PredictOptions(config, output=members[-1], draw=False)).failures)
            if len(results) > 1:  # the weights of the round before, which has predicted the same scans
                members.append(results[-2].model.folder.fold(0).predictions("val"))
        calibration = None
        if len(results) > 1:
            new = [case_id for case_id in last.labelled if case_id not in results[-2].labelled]
            calibration = Calibration.fit(self._scored(results[-2].model, new))
        return Evidence(
            tuple(evidence_of(case_id, folder, members) for case_id in left),
            tuple(evidence_of(case_id, folder) for case_id in labelled),
            calibration,
        )

    def _scored(self, model: TrainedModel, case_ids: Sequence[str]) -> list[CaseResult]:
        """Scans of the pool with what a model that had not seen them detected, and their lesions."""
        self._predict(model, "val", case_ids)
        cases = tuple(case for case in self.pool if case.case_id in case_ids)
        predictions = PredictionSet.of_model(self.dataset, model, "val")
        scored = dataclasses.replace(predictions, cases=cases).read(truths=self.truths)
        scored.check_complete()
        return scored.cases

    # Measuring --------------------------------------------------------------------------------------------------------

    def _predict(self, model: TrainedModel, split: str, case_ids: Sequence[str]) -> None:
        selection = ScanSelection(self.first.task, split, only=tuple(case_ids))
        _checked(predict(model, selection, PredictOptions(self.later.settings["inference_cfg"], draw=False)).failures)

    def _predict_test(self, model: TrainedModel, title: str) -> None:
        """Predicts the test scans once; the file says that all are there."""
        done = model.folder.fold(0).root / "measured.json"
        if done.is_file():
            return
        names = [case.case_id for case in self.test]
        self._predict(model, "test", names)
        write_json(done, {"test": names})
        self.log(f"{title}: trained and predicted")

    def measured(self, result: RoundResult) -> list[CaseResult]:
        """The test scans with what a round's model detected, and their lesions."""
        predictions = PredictionSet.of_model(self.dataset, result.model, "test")
        scored = dataclasses.replace(predictions, cases=self.test).read(truths=self.truths)
        scored.check_complete()
        return scored.cases

    def _lesions(self, case_id: str) -> int:
        if case_id not in self._lesion_counts:
            stored = StoredCase.open(self.first.task.prepared(self.first.plan.name, "Tr"), case_id)
            self._lesion_counts[case_id] = len(stored.labels)
        return self._lesion_counts[case_id]


def even_share(cases: Sequence[Case], count: int | None) -> tuple[Case, ...]:
    """At most ``count`` cases, as evenly of all domains as there are, sorted by name; all of them with None."""
    if count is None or count >= len(cases):
        return tuple(sorted(cases, key=lambda case: case.case_id))
    rng = np.random.default_rng(0)
    by_domain: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        by_domain.setdefault(case.domain or UNNAMED, []).append(case)
    turns = [
        (turn, name, own[i]) for name, own in by_domain.items() for turn, i in enumerate(rng.permutation(len(own)))
    ]
    chosen = [case for _, _, case in sorted(turns, key=lambda item: item[:2])[:count]]
    return tuple(sorted(chosen, key=lambda case: case.case_id))


def _deciding(run: TrainingRun) -> Mapping[str, Any]:
    return {name: value for name, value in run.settings.items() if name != "exp"}


def _checked(failures: Sequence[Any]) -> None:
    """A simulation without some of its scans would be another one.

    Raises:
        UserError: a scan could not be predicted.
        RuntimeError: one met a bug.
    """
    for failure in failures:
        if failure.is_bug:
            raise RuntimeError(f"{failure.item.case.case_id} cannot be predicted\n{failure.details}")
        raise UserError(
            f"{failure.item.case.case_id}: {failure.error}", remedy="mend it, and run the same command again"
        )
