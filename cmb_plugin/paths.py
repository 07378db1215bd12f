"""Every path of a Task folder and of a model folder."""

from __future__ import annotations

import csv
import os
import re
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .files import read_json, write_json

SCHEMA = 1


def data_root() -> Path:
    """The folder of Task folders: ``$det_data``, or ``det_data`` in the current directory."""
    return _folder("det_data")


def models_root() -> Path:
    """The folder of trained models: ``$det_models``, or ``det_models`` in the current directory."""
    return _folder("det_models")


def _folder(variable: str) -> Path:
    """nnDetection's environment variables are written in small letters."""
    return Path(os.environ.get(variable) or variable).expanduser().resolve()


@dataclass(frozen=True)
class TaskFolder:
    """A Task folder as nnDetection has it: ``{det_data}/Task101_CMB``."""

    root: Path

    @property
    def name(self) -> str:
        """``Task101_CMB``."""
        return self.root.name

    @property
    def raw(self) -> Path:
        """``raw_splitted``: the scans and labels as they came."""
        return self.root / "raw_splitted"

    def images(self, split: str) -> Path:
        """``raw_splitted/imagesTr`` or ``imagesTs``; ``split`` is ``Tr`` or ``Ts``."""
        return self.raw / f"images{split}"

    def labels(self, split: str) -> Path:
        """``raw_splitted/labelsTr`` or ``labelsTs``; ``split`` is ``Tr`` or ``Ts``."""
        return self.raw / f"labels{split}"

    def extra(self, kind: str, split: str) -> Path:
        """Optional folders beside nnDetection's own: ``kind`` is ``mimics``, ``lesions``, ``regions`` or ``brain``."""
        return self.raw / f"{kind}{split}"

    @property
    def conversion(self) -> Path:
        """What the folder was converted from, where ``nndet_convert`` made it."""
        return self.root / "conversion.json"

    @property
    def preprocessed(self) -> Path:
        """What ``nndet_prep`` makes."""
        return self.root / "preprocessed"

    @property
    def fingerprint(self) -> Path:
        """What the planner knows of the data set."""
        return self.preprocessed / "fingerprint.json"

    @property
    def splits(self) -> Path:
        """Training and validation cases of each fold."""
        return self.preprocessed / "splits.json"

    @property
    def domains(self) -> Path:
        """Domains that ``nndet_prep`` derived from the scans' geometry, where it was asked to."""
        return self.preprocessed / "domains.json"

    def plan(self, plan_name: str) -> Path:
        """``preprocessed/D3CMB_3d/plan.json``."""
        return self.preprocessed / plan_name / "plan.json"

    def prepared(self, plan_name: str, split: str) -> Path:
        """``preprocessed/D3CMB_3d/imagesTr``: the arrays that training and prediction read."""
        return self.preprocessed / plan_name / f"images{split}"


@dataclass(frozen=True)
class FoldFolder:
    """One trained fold: ``{det_models}/{task}/{trainer}_{plan}[_{tag}]/fold0``."""

    root: Path

    @property
    def last(self) -> Path:
        """Weights after the last epoch."""
        return self.root / "model_last.ckpt"

    @property
    def best(self) -> Path:
        """Weights after the best validation; not there where no validation had lesions."""
        return self.root / "model_best.ckpt"

    def checkpoint(self, name: str) -> Path:
        """That of the ``best`` validation, or else the ``last``."""
        return self.best if name == "best" else self.last

    @property
    def plan(self) -> Path:
        """The plan that the fold was trained with."""
        return self.root / "plan.json"

    @property
    def settings(self) -> Path:
        """The settings that it was trained with."""
        return self.root / "settings.yaml"

    @property
    def splits(self) -> Path:
        """Which cases it was trained with; packed models have none."""
        return self.root / "splits.json"

    @property
    def history(self) -> Path:
        """One row per epoch that the training has done."""
        return self.root / "history.csv"

    @property
    def training(self) -> Path:
        """Whether the training has finished."""
        return self.root / "training.json"

    @property
    def lock(self) -> Path:
        """Held while a process trains the fold; beside the folder, which training afresh removes."""
        return self.root.with_name(f"{self.root.name}.lock")

    def mark(self, finished: bool) -> None:
        """Notes that the training begins or goes on, or that it has finished."""
        write_json(self.training, {"schema": SCHEMA, "finished": finished})

    def is_finished(self) -> bool:
        """Whether the fold holds the weights of a whole training, not those of an epoch on the way.

        Raises:
            UserError: what says so cannot be read.
        """
        if not self.last.is_file():
            return False
        if self.training.is_file():
            return bool(read_json(self.training).get("finished"))
        return _has_all_epochs(self)

    @property
    def operating_point(self) -> Path:
        """What ``nndet_sweep`` chose on validation."""
        return self.root / "operating_point.json"

    def predictions(self, split: str) -> Path:
        """``val_predictions`` or ``test_predictions``."""
        return self.root / f"{split}_predictions"

    def results(self, split: str) -> Path:
        """``val_results`` or ``test_results``."""
        return self.root / f"{split}_results"


def _has_all_epochs(fold: FoldFolder) -> bool:
    """Whether a fold from before ``training.json`` was written has done the epochs of its settings. A packed model has
    no history, since it is finished; where the settings cannot be read, whoever needs them will name the file."""
    import yaml

    if not fold.history.is_file():
        return True
    rows = list(csv.DictReader(fold.history.read_text(encoding="utf-8").splitlines()))
    try:
        config = yaml.safe_load(fold.settings.read_text(encoding="utf-8"))["trainer_cfg"]
        return int(rows[-1]["epoch"]) >= config["epochs"] + config["swa_epochs"]
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError):
        return True


@dataclass(frozen=True)
class ModelFolder:
    """All folds of one model: ``{det_models}/{task}/{trainer}_{plan}[_{tag}]``."""

    root: Path

    @property
    def name(self) -> str:
        """``{trainer}_{plan}[_{tag}]``."""
        return self.root.name

    def fold(self, number: int) -> FoldFolder:
        """The folder of a fold, trained or not."""
        return FoldFolder(self.root / f"fold{number}")

    def trained_folds(self) -> list[int]:
        """Numbers of the folds whose training has finished, in order."""
        return [number for number in self._begun_folds() if self.fold(number).is_finished()]

    def unfinished_folds(self) -> list[int]:
        """Numbers of the folds that have a checkpoint, but whose training goes on or was interrupted."""
        return [number for number in self._begun_folds() if not self.fold(number).is_finished()]

    def _begun_folds(self) -> list[int]:
        matches = (re.fullmatch(r"fold(\d+)", path.parent.name) for path in self.root.glob("fold*/model_last.ckpt"))
        return sorted(int(match[1]) for match in matches if match)

    def chosen_folds(self, fold: int | None) -> list[int]:
        """The finished folds that ``fold`` means: None or -1 for all of them, or one number.

        Raises:
            UserError: the fold is not there, or its training has not finished.
        """
        trained, unfinished = self.trained_folds(), self.unfinished_folds()
        every = fold is None or fold == -1
        if fold in unfinished or (every and not trained and unfinished):
            number = unfinished[0] if every else fold
            raise UserError(
                f"{self.root}: the training of fold {number} has not finished",
                remedy=f"wait for it, or go on with nndet_train {self.root.parent.name} -o exp.fold={number} "
                "train.mode=resume and the settings that it began with",
            )
        if not trained:
            raise UserError(f"{self.root}: holds no trained fold", remedy=f"run nndet_train {self.root.parent.name}")
        if every:
            return trained
        if fold not in trained:
            raise UserError(
                f"{self.root}: fold {fold} is not trained", remedy=f"trained folds: {', '.join(map(str, trained))}"
            )
        return [fold]

    @property
    def target(self) -> str:
        """What the model learned, as its plan says: ``lesions`` or ``regions``."""
        plans = [path for number in self.trained_folds() if (path := self.fold(number).plan).is_file()]
        return str(read_json(plans[0]).get("target", "lesions")) if plans else "lesions"

    @property
    def consolidated(self) -> FoldFolder:
        """Predictions and results of all folds together."""
        return FoldFolder(self.root / "consolidated")


def splits_file(task: TaskFolder, fold: FoldFolder) -> Path:
    """The splits that a fold was trained with; those of the task where it has no copy."""
    return fold.splits if fold.splits.is_file() else task.splits
