"""nnU-Net v2 as a peer: a Task goes out in its layout, its own commands plan, train and predict, lesions come back.

Nothing of nnU-Net is imitated. Its trainer is used as it is, but for the number of epochs and of steps in one, which a
subclass sets that nnU-Net finds through its own extension variable ``nnUNet_extTrainer``.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import Case, Dataset, write_case_predictions
from cmb_plugin.dataset.predictions import CasePredictions, boxes_file
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json, write_text
from cmb_plugin.images import detections_of_instances, label_components, read_grid, read_scan, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.workers import default_workers

TRAINER = "nnUNetTrainerBudget"
PLANS = "nnUNetPlansBudget"
CONFIGURATION = "3d_fullres"
READER = "SimpleITKIO"  # probabilities then come back as [class, z, y, x]

TRAINER_FILE = '''"""nnU-Net's trainer with a given number of epochs and steps; written by nndet_benchmark."""

import ctypes
import os
import sys

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

if sys.platform == "linux":  # the processes that draw patches end with the training, even when it is killed
    os.register_at_fork(after_in_child=lambda: ctypes.CDLL(None).prctl(1, 9))


class nnUNetTrainerBudget(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device=torch.device("cuda")):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["NNDET_EPOCHS"])
        self.num_iterations_per_epoch = int(os.environ["NNDET_STEPS_PER_EPOCH"])
        self.num_val_iterations_per_epoch = min(5, self.num_iterations_per_epoch)
        self.save_every = 1
        torch.manual_seed(int(os.environ["NNDET_SEED"]))
        np.random.seed(int(os.environ["NNDET_SEED"]))

    def perform_actual_validation(self, save_probabilities=False):
        """Left out: the benchmark predicts the scans that it measures, each once."""
'''

# nnU-Net imports every trainer it has in its search for one by name, Primus among them, which needs torchvision. An
# environment without it (torchvision's CUDA build breaks other packages beside a torch for CPUs) hides that one module.
WITHOUT_TORCHVISION = '''"""Hides what cannot be imported without torchvision; written by nndet_benchmark."""

import sys
import types

name = "nnunetv2.training.nnUNetTrainer.primus.primus_trainers"
sys.modules[name] = types.ModuleType(name)
'''


@dataclass(frozen=True)
class NnunetTask:
    """A Task as nnU-Net sees it.

    Attributes:
        task: the Task folder.
        root: folder of nnU-Net's three folders and of the trainer.
    """

    task: TaskFolder
    root: Path

    @property
    def number(self) -> int:
        """The Task's number, 999 without one."""
        match = re.match(r"Task(\d+)", self.task.name)
        return int(match[1]) if match else 999

    @property
    def name(self) -> str:
        """nnU-Net's name of the data set."""
        return f"Dataset{self.number:03d}_{self.task.name.partition('_')[2] or self.task.name}"

    @property
    def raw(self) -> Path:
        """Folder of its scans and labels."""
        return self.root / "raw" / self.name

    @property
    def preprocessed(self) -> Path:
        """Folder of its plan and its preprocessed scans."""
        return self.root / "preprocessed" / self.name

    def environment(self, seed: int = 0, epochs: int = 1, steps: int = 1, cores: int | None = None) -> dict[str, str]:
        """nnU-Net's variables; each seed has results of its own. ``cores``: how many it may use, None for all."""
        hidden = {}
        if importlib.util.find_spec("torchvision") is None:
            paths = [str(self.root / "without_torchvision"), os.environ.get("PYTHONPATH", "")]
            hidden = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        return {
            **hidden,
            "nnUNet_raw": str(self.root / "raw"),
            "nnUNet_preprocessed": str(self.root / "preprocessed"),
            "nnUNet_results": str(self.root / f"results_seed{seed}"),
            "nnUNet_extTrainer": str(self.root / "trainer"),
            "NNDET_EPOCHS": str(epochs),
            "NNDET_STEPS_PER_EPOCH": str(steps),
            "NNDET_SEED": str(seed),
            "nnUNet_compile": "f",
            "nnUNet_n_proc_DA": str(min(4, max(1, (cores or default_workers()) - 1))),
        }

    def fold_folder(self, seed: int, fold: int) -> Path:
        """Where nnU-Net trains this fold with this seed."""
        trained = f"{TRAINER}__{PLANS}__{CONFIGURATION}"
        return self.root / f"results_seed{seed}" / self.name / trained / f"fold_{fold}"

    def plan_command(self, memory_gb: float, workers: int) -> list[str]:
        """Fingerprint, plan and preprocessing, in nnU-Net's one command."""
        return [
            *("nnUNetv2_plan_and_preprocess", "-d", str(self.number), "-c", CONFIGURATION),
            *("-gpu_memory_target", f"{memory_gb:g}", "-overwrite_plans_name", PLANS),
            *("-npfp", str(workers), "-np", str(workers)),
        ]

    def train_command(self, seed: int, fold: int, device: str) -> list[str]:
        """Goes on from the last checkpoint where there is one."""
        resume = (self.fold_folder(seed, fold) / "checkpoint_latest.pth").is_file()
        command = ["nnUNetv2_train", str(self.number), CONFIGURATION, str(fold), "-tr", TRAINER, "-p", PLANS]
        return [*command, "-device", device, *(["--c"] if resume else [])]

    def predict_command(self, source: Path, target: Path, fold: int, device: str) -> list[str]:
        """Predicts a folder of scans, with probabilities; scans that are predicted already are left out."""
        return [
            *("nnUNetv2_predict", "-i", str(source), "-o", str(target), "-d", str(self.number), "-c", CONFIGURATION),
            *("-f", str(fold), "-tr", TRAINER, "-p", PLANS, "--save_probabilities", "-npp", "1", "-nps", "1"),
            *("--continue_prediction", "-device", device, "--disable_progress_bar"),
            *([] if device == "cuda" else ["--disable_tta"]),  # as our own prediction: mirrored on a GPU only
        ]


def export_task(target: NnunetTask, splits: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """Writes nnU-Net's raw folder (links to the scans, masks of classes), the trainer, and our splits.

    Cases of the splits only; those that could not be prepared are in none. What is there already is kept.

    Raises:
        UserError: a case has no readable label or scan, or was judged in places only.
    """
    dataset = Dataset.load(target.task)
    wanted = {case for split in splits for part in split.values() for case in part}
    train = [case for case in dataset.cases("Tr") if case.case_id in wanted]
    for case in train:
        if case.judged is not None:
            raise UserError(
                f"{case.judged}: {case.case_id} was judged in places only, nnU-Net would take the rest for background",
                remedy="leave nnunet out of --models, or leave such cases out (nndet_review --export --done_only)",
            )
        _link_images(case, target.raw / "imagesTr")
        path = target.raw / "labelsTr" / f"{case.case_id}.nii.gz"
        if not path.is_file():
            labels = case.read_labels(len(dataset.classes))
            classes = np.zeros(labels.mask.shape, dtype=np.uint8)
            for number, label in labels.classes.items():
                classes[labels.mask == number] = label + 1
            write_image(path, classes, read_grid(case.images[0]))  # headers that differ a little would be refused
    write_json(
        target.raw / "dataset.json",
        {
            "channel_names": {str(i): name for i, name in enumerate(dataset.modalities)},
            "labels": {"background": 0, **{name: i + 1 for i, name in enumerate(dataset.classes)}},
            "numTraining": len(train),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": READER,
        },
    )
    write_text(target.root / "trainer" / f"{TRAINER}.py", TRAINER_FILE)
    write_text(target.root / "without_torchvision" / "sitecustomize.py", WITHOUT_TORCHVISION)
    write_json(target.preprocessed / "splits_final.json", [dict(split) for split in splits])


def link_scans(cases: Sequence[Case], folder: Path) -> None:
    """Scans to predict, in nnU-Net's names."""
    for case in cases:
        _link_images(case, folder)


def _link_images(case: Case, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for modality, path in enumerate(case.images):
        link = folder / f"{case.case_id}_{modality:04d}.nii.gz"
        if link.is_file():
            continue
        array, grid = read_scan(path)
        first = read_grid(case.images[0])
        plain = path.name.endswith(".nii.gz") and np.isfinite(array).all() and grid.matches(first, 1e-6)
        if plain:
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
        else:
            write_image(link, np.nan_to_num(array, posinf=0.0, neginf=0.0), first)


def collect(target: NnunetTask, cases: Sequence[Case], source: Path, folder: Path) -> None:
    """Turns nnU-Net's predictions into ours.

    A lesion is a component (26 neighbours) of the voxels of one class, its score their mean probability of it. All of
    them are reported: nnU-Net's own decision is the most probable class.

    Args:
        target: the Task.
        cases: scans that were predicted.
        source: what ``nnUNetv2_predict --save_probabilities`` wrote.
        folder: where ``{case}_boxes.json`` go.

    Raises:
        UserError: a case was not predicted.
    """
    classes = Dataset.load(target.task).classes
    for case in cases:
        if boxes_file(folder, case.case_id).is_file():
            continue
        path = source / f"{case.case_id}.npz"
        if not path.is_file():
            raise UserError(f"{path}: was not predicted", remedy="run the benchmark again")
        with np.load(path, allow_pickle=False) as stored:
            probabilities = stored["probabilities"].astype(np.float32)
        grid = read_grid(case.images[0])
        if probabilities.shape[1:] != grid.shape:
            raise UserError(f"{path}: has {probabilities.shape[1:]} voxels, the scan {grid.shape}", remedy="remove it")
        found = components_as_detections(probabilities)
        prediction = CasePredictions(case.case_id, found, grid, classes, 0.0, model="nnunet")
        write_case_predictions(folder, prediction)


def components_as_detections(probabilities: np.ndarray) -> Detections:
    """Components of the most probable class; see ``collect``.

    Args:
        probabilities: [1 + classes, z, y, x], background first.

    Returns:
        detections, highest score first.
    """
    winner = probabilities.argmax(axis=0)
    parts = [
        detections_of_instances(label_components(winner == index), probabilities[index], index - 1)
        for index in range(1, len(probabilities))
    ]
    return Detections.concatenate(parts).by_score()


def batch_size(target: NnunetTask) -> int | None:
    """Patches of a step, as nnU-Net planned."""
    path = target.preprocessed / f"{PLANS}.json"
    if not path.is_file():
        return None
    return int(read_json(path)["configurations"][CONFIGURATION]["batch_size"])


def is_planned(target: NnunetTask) -> bool:
    """Whether the training scans are preprocessed."""
    folder = target.preprocessed / f"{PLANS}_{CONFIGURATION}"
    wanted = read_json(target.raw / "dataset.json")["numTraining"] if target.raw.is_dir() else -1
    return batch_size(target) is not None and len(list(folder.glob("*.pkl"))) == wanted
