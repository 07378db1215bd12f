"""Fine-tuning: a training that begins with the weights of another model, and a plan that they fit."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmb_plugin.errors import UserError
from cmb_plugin.paths import FoldFolder, ModelFolder, TaskFolder, models_root
from cmb_plugin.planning import Plan
from cmb_plugin.settings import read_settings
from cmb_plugin.training import TrainingModule, read_weights

from .packed import unpacked
from .seen import SeenScans, seen_before, seen_in_training
from .shipped import ENDING, is_packed_name, packed_file
from .trained import TrainedModel

FORMS = f"pretrained, a packed model (*{ENDING}), a checkpoint (*.ckpt), or the folder of a model or a fold"


@dataclass(frozen=True)
class InitialWeights:
    """Another model's fold, to begin with.

    Attributes:
        name: of the model, for names of plans and for people.
        fold: its folder.
        checkpoint: its weights.
    """

    name: str
    fold: FoldFolder
    checkpoint: Path

    @property
    def plan(self) -> Plan:
        """The plan that it was trained with."""
        return Plan.load(self.fold.plan)

    @property
    def module(self) -> str:
        """Name of its trainer."""
        return str(read_settings(self.fold.settings).get("module", ""))

    @property
    def additional_imports(self) -> list[str]:
        """Modules that its trainer comes from."""
        return list(read_settings(self.fold.settings).get("additional_imports") or [])

    @property
    def model_cfg(self) -> dict[str, Any]:
        """Settings of its network."""
        return dict(read_settings(self.fold.settings).get("model_cfg") or {})

    @property
    def plan_name(self) -> str:
        """Of a plan that is made to fit it; the same where its own was made to fit an earlier model of this name."""
        ending = f"_{self.name}"
        return f"{self.plan.name.removesuffix(ending)}{ending}"

    @property
    def digest(self) -> str:
        """Tells these weights from others."""
        packed = TrainedModel(ModelFolder(self.fold.root.parent), (0,)).packed
        if packed is not None:
            return str(packed["weights_sha256"])[:16]
        with self.checkpoint.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def seen_with(self, task: TaskFolder) -> SeenScans | None:
        """What the scans that these weights have learned from are like, beside those of a Task that they go on with;
        None where nothing is known.

        Args:
            task: their next one. Models in folders know their own scans by the Task beside it that they were trained
                on, where it still lies there; its scans count once if it is this very Task.
        """
        model = TrainedModel(ModelFolder(self.fold.root.parent), (0,))
        if model.packed is not None:
            return model.seen
        before, settings = seen_before(self.fold), read_settings(self.fold.settings)
        own = TaskFolder(task.root.parent / str(settings.get("task", "")))
        if own.name == task.name or not (own.fingerprint.is_file() and self.fold.splits.is_file()):
            return before
        number = settings["exp"]["fold"]
        scans = seen_in_training(own, {number if isinstance(number, int) else 0: self.fold})
        return scans.joined(before) if before else scans

    @classmethod
    def named(cls, text: str, task: TaskFolder, number: int = 0) -> InitialWeights:
        """What ``train.init`` and ``plan_from`` mean.

        Args:
            text: as in ``FORMS``, or the name of a model of the Task.
            task: the Task.
            number: of a model of several folds that with this number is taken where there is one, so that no scan is
                learned from that validation holds out; else the first.

        Raises:
            UserError: there is none.
        """
        if is_packed_name(text):
            folder = unpacked(packed_file(text))
            return cls._of_model(folder, number)
        path = Path(text).expanduser()
        if path.is_file():
            return cls(path.resolve().parent.parent.name, FoldFolder(path.resolve().parent), path.resolve())
        candidates = [path.resolve(), models_root() / task.name / text]
        for folder in (ModelFolder(candidate) for candidate in candidates):
            if FoldFolder(folder.root).last.is_file():
                return cls(folder.root.parent.name, FoldFolder(folder.root), FoldFolder(folder.root).last)
            if folder.trained_folds():
                return cls._of_model(folder, number)
        raise UserError(f"{text}: no weights to begin with", remedy=f"name {FORMS}")

    @classmethod
    def _of_model(cls, folder: ModelFolder, number: int) -> InitialWeights:
        folds = folder.trained_folds()
        fold = folder.fold(number if number in folds else folds[0])
        return cls(folder.name, fold, fold.last)

    def begin(self, module: TrainingModule) -> str:
        """Gives an untrained module these weights.

        All weights must fit but two kinds: the convolution that reads the modalities where there are others, or in
        another order (what both have is taken, channels that are new start at 0), and what has a row per class where
        there are other classes, or in another order (left as it was drawn). The only class of both is the same one,
        whatever its name.

        Returns:
            what was taken and what was not, a sentence.

        Raises:
            UserError: the networks differ.
        """
        plan, theirs = module.plan, self.plan
        channels = self.channels_of(plan)
        given, own = read_weights(self.checkpoint), module.state_dict()
        read_channels = _changed_by(module, _with_a_modality(plan)) if plan.modalities != theirs.modalities else set()
        same_classes = plan.classes == theirs.classes or len(plan.classes) == len(theirs.classes) == 1
        of_classes = set() if same_classes else _changed_by(module, _with_a_class(plan))
        fitted, left = {}, []
        for name, value in own.items():
            offered = given.get(name)
            if offered is None:
                raise self._misfit(f"has no {name}")
            if name in of_classes:
                left.append(name)
            elif name in read_channels and _has_channels(offered, value, theirs):
                fitted[name] = _for_channels(offered, channels, value)
            elif offered.shape == value.shape:
                fitted[name] = offered
            else:
                raise self._misfit(f"{name} is {tuple(offered.shape)}, here {tuple(value.shape)}")
        extra = sorted(set(given) - set(own))
        if extra:
            raise self._misfit(f"has {extra[0]} beside")
        module.load_state_dict(fitted, strict=False)
        return self._taken(module, channels, len(fitted), len(own), left)

    def channels_of(self, plan: Plan) -> list[int | None]:
        """For each modality of a plan which of these weights' it is: that of the same name, else one in which
        microbleeds look the same; None for none.

        Raises:
            UserError: none of the modalities is known to the weights.
        """
        theirs = self.plan
        looks, known = plan.polarities, theirs.polarities
        channels: list[int | None] = [
            theirs.modalities.index(name) if name in theirs.modalities else None for name in plan.modalities
        ]
        for channel, look in enumerate(looks):
            free = [i for i, other in enumerate(known) if other == look != "unknown" and i not in channels]
            if channels[channel] is None and free:
                channels[channel] = free[0]
        if all(channel is None for channel in channels):
            raise UserError(
                f"{self.name}: knows {', '.join(theirs.modalities)}, the data set has {', '.join(plan.modalities)}",
                remedy="name a modality of the data set in which microbleeds look alike, or train from nothing",
            )
        return channels

    def plan_for(self, plan: Plan) -> Plan:
        """A plan of a data set as its own planner makes it, with what must be as these weights know it: spacing, axes,
        network, patch, targets.

        Raises:
            UserError: the data set has nothing that the weights know.
        """
        theirs = self.plan
        if theirs.target != plan.target:
            raise UserError(
                f"plan_from={self.name}: it learned {theirs.target}, planned are {plan.target}",
                remedy="name another model, or another planner",
            )
        steps = [
            step
            if channel is None
            else dataclasses.replace(theirs.preprocessing.normalisation[channel], unit=step.unit)
            for step, channel in zip(plan.preprocessing.normalisation, self.channels_of(plan), strict=True)
        ]
        recipe = dataclasses.replace(
            plan.preprocessing,
            normalisation=tuple(steps),
            **{
                name: getattr(theirs.preprocessing, name)
                for name in ("spacing", "transpose", "crop_to_nonzero", "min_instance_voxels", "brain_margin_mm")
            },
        )
        own = ("patch_size", "batch_size", "architecture", "anchors", "centres", "memory_gb", "memory_estimate_gb")
        return dataclasses.replace(
            plan,
            name=self.plan_name,
            preprocessing=recipe,
            notes=(f"Spacing, network, patch and targets are those of {self.name}.", *_brain_notes(plan.notes)),
            **{name: getattr(theirs, name) for name in own},
        )

    def _misfit(self, what: str) -> UserError:
        return UserError(
            f"train.init={self.name}: the network of these weights is another one ({what})",
            remedy=f"plan for them with nndet_prep TASK -o plan_from={self.name}, and leave model_cfg.* as it is",
        )

    def _taken(
        self, module: TrainingModule, channels: Sequence[int | None], fitted: int, all_: int, left: Sequence[str]
    ) -> str:
        plan, theirs = module.plan, self.plan
        pairs = [
            f"{name} from {theirs.modalities[channel]}" if channel is not None else f"{name} from 0"
            for name, channel in zip(plan.modalities, channels, strict=True)
        ]
        parts = [f"Weights of {self.name}: {fitted} of {all_} tensors taken, {', '.join(pairs)}"]
        if left:
            parts.append(f"left as drawn, since the classes are others: {', '.join(left)}")
        if plan.preprocessing.spacing != theirs.preprocessing.spacing:
            ours, known = ("x".join(f"{mm:g}" for mm in p.preprocessing.spacing) for p in (plan, theirs))
            parts.append(f"they know voxels of {known} mm, the plan has {ours} (nndet_prep -o plan_from={self.name})")
        return "; ".join(parts)


def _with_a_class(plan: Plan) -> Plan:
    return dataclasses.replace(plan, classes=(*plan.classes, "another"))


def _with_a_modality(plan: Plan) -> Plan:
    recipe = plan.preprocessing
    normalisation = (*recipe.normalisation, *recipe.normalisation[-1:])
    return dataclasses.replace(
        plan,
        modalities=(*plan.modalities, "another"),
        polarity=(*plan.polarities, "unknown"),
        preprocessing=dataclasses.replace(recipe, normalisation=normalisation),
    )


def _changed_by(module: TrainingModule, plan: Plan) -> set[str]:
    """Names of the tensors that have another shape with another plan: a shape alone does not tell what it is made of,
    for a network may have as many channels of its own as there are modalities."""
    with torch.random.fork_rng():  # what is drawn after this stays what it was
        other = type(module)(plan, module.model_cfg, module.trainer_cfg, module.seed).state_dict()
    return {name for name, value in module.state_dict().items() if name in other and other[name].shape != value.shape}


def _has_channels(offered: Tensor, value: Tensor, theirs: Plan) -> bool:
    """Whether a convolution's weight differs in the number of modalities at most."""
    shape = (offered.shape[0], len(theirs.modalities), *offered.shape[2:])
    return offered.shape == shape and (offered.shape[0], *offered.shape[2:]) == (value.shape[0], *value.shape[2:])


def _for_channels(offered: Tensor, channels: Sequence[int | None], value: Tensor) -> Tensor:
    """A convolution's weight [out, in, z, y, x] for other channels; those that it does not know are 0."""
    weight = torch.zeros_like(value)
    for ours, theirs in enumerate(channels):
        if theirs is not None:
            weight[:, ours] = offered[:, theirs].to(weight)
    return weight


def _brain_notes(notes: Sequence[str]) -> list[str]:
    """Of a planner's notes those that are about the scans, not about what it planned."""
    return [note for note in notes if note.startswith("Brain")]
