"""``TrainedModel``: folds of a model folder that work together, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cmb_plugin.documents import from_json
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.inference import InferenceConfig
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder, splits_file
from cmb_plugin.settings import read_settings, typed

from .operating_point import OperatingPoint

if TYPE_CHECKING:  # only packed models know what they have seen
    from .seen import SeenScans

CHECKPOINTS = ("last", "best", "raw")
"""``raw``: of the last one the weights before averaging, a further member of a committee (``cmb_plugin.active``)."""
PARTS = {"val": "Tr", "test": "Ts", "unseen": "Tr"}
"""Where the scans of a split lie in the Task folder: ``imagesTr`` holds those that folds validate on, and those of the
domain that a model was trained without."""
PACKED = "packed.json"
"""In a model folder that a packed model was unpacked to: which file it was, its digest, and what scans it has seen."""


@dataclass(frozen=True)
class TrainedModel:
    """Trained folds of one model.

    Attributes:
        folder: of the model.
        folds: numbers of the folds that are used, at least one.
        checkpoint: of each fold, one of ``CHECKPOINTS``.
        left_out: further folds, whose training has not finished.
        fp_per_scan: false positives per scan for which the operating point is taken; None for what the sweeps chose.
    """

    folder: ModelFolder
    folds: tuple[int, ...]
    checkpoint: str = "last"
    left_out: tuple[int, ...] = ()
    fp_per_scan: float | None = None

    def __post_init__(self) -> None:
        if self.checkpoint not in CHECKPOINTS:
            raise UserError(f"unknown checkpoint '{self.checkpoint}'", remedy=f"known: {', '.join(CHECKPOINTS)}")

    @property
    def name(self) -> str:
        """Name of the model folder."""
        return self.folder.name

    @property
    def target(self) -> str:
        """What it learned: ``lesions`` or ``regions``."""
        return self.folder.target

    @property
    def fold_folders(self) -> dict[int, FoldFolder]:
        """Number -> folder of the folds that are used."""
        return {number: self.folder.fold(number) for number in self.folds}

    @property
    def place(self) -> FoldFolder:
        """Where predictions and results of the folds together go: the fold itself, or ``consolidated``."""
        return self.folder.fold(self.folds[0]) if len(self.folds) == 1 else self.folder.consolidated

    @property
    def title(self) -> str:
        """``CMBRetinaUNet_D3CMB_3d, folds 0, 1``."""
        return f"{self.name}, fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))}"

    @property
    def doubt_of_checkpoint(self) -> str:
        """A sentence where validation scans were predicted, and so operating points chosen, with another checkpoint of
        the folds than this model has; empty otherwise."""
        runs = {number: fold.predictions("val") / "run.json" for number, fold in self.fold_folders.items()}
        known = {number: read_json(path).get("checkpoint") for number, path in runs.items() if path.is_file()}
        others = [number for number, name in known.items() if name not in (None, self.checkpoint)]
        if not others:
            return ""
        return (
            f"fold {', '.join(map(str, others))}: validation scans were predicted, and the operating point is chosen, "
            f"with checkpoint {known[others[0]]}, not {self.checkpoint}; run nndet_predict with -f {others[0]} "
            f"--test_split --ckpt {self.checkpoint}, then nndet_sweep"
        )

    @property
    def packed(self) -> dict[str, Any] | None:
        """Where it is a packed model: ``file``, ``weights_sha256`` and ``seen``."""
        path = self.folder.root / PACKED
        return dict(read_json(path)) if path.is_file() else None

    @property
    def seen(self) -> SeenScans | None:
        """What the scans that a packed model learned from are like; None for models in folders of their own."""
        packed = self.packed
        if packed is None:
            return None
        from .seen import SeenScans

        return from_json(SeenScans, packed["seen"], packed["file"])

    def each(self) -> list[TrainedModel]:
        """Every fold alone."""
        return [replace(self, folds=(number,)) for number in self.folds]

    def inference_config(self) -> InferenceConfig:
        """How scans are predicted, as the first fold was trained with.

        Raises:
            UserError: its settings cannot be read.
        """
        path = self.folder.fold(self.folds[0]).settings
        return typed(InferenceConfig, read_settings(path).get("inference_cfg", {}), str(path))

    def operating_point(self) -> OperatingPoint:
        """What the sweeps of the folds chose, or kept for ``fp_per_scan``, together; the default where there was none.

        Raises:
            UserError: a file holds no score, or none for ``fp_per_scan``.
        """
        points = [OperatingPoint.load(fold.operating_point) for fold in self.fold_folders.values()]
        if self.fp_per_scan is not None:
            points = [point.at_rate(self.fp_per_scan) for point in points]
        return OperatingPoint.mean(points)

    def validation_cases(self, task: TaskFolder) -> Mapping[str, int]:
        """Validation case -> number of the fold that was not trained on it, by the splits that each was trained with.

        Raises:
            UserError: a fold's splits cannot be read, or have no such fold.
        """
        return self._cases(task, "val")

    def unseen_cases(self, task: TaskFolder) -> Mapping[str, int]:
        """Case of the domain that the model was trained without -> number of a fold.

        Raises:
            UserError: as ``validation_cases``; also where it was trained on all domains.
        """
        cases = self._cases(task, "unseen")
        if not cases:
            raise UserError(
                f"{self.folder.root}: was trained on all domains",
                remedy=f"train another with nndet_train {task.name} -o exp.fold=without:DOMAIN",
            )
        return cases

    def held_out_cases(self, task: TaskFolder, split: str) -> Mapping[str, int]:
        """``validation_cases`` or ``unseen_cases``, for ``val`` and ``unseen``."""
        return self.unseen_cases(task) if split == "unseen" else self.validation_cases(task)

    def _cases(self, task: TaskFolder, part: str) -> dict[str, int]:
        from cmb_plugin.dataset import read_splits  # test scans and folders of scans have none

        cases: dict[str, int] = {}
        for number, fold in self.fold_folders.items():
            path = splits_file(task, fold)
            splits = read_splits(path)
            if number >= len(splits):
                raise UserError(f"{path}: has no fold {number}", remedy="restore the file")
            cases |= dict.fromkeys(splits[number].get(part, ()), number)
        return cases
