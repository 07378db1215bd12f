"""Settings of a training run, and the named presets that change several of them at once (``-o train=fast``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.settings import within

WITHOUT = "without"
"""``exp.fold=without:DOMAIN`` trains on all domains but one."""


@dataclass
class ExperimentConfig:
    """Which run this is.

    Attributes:
        fold: index into ``splits.json``, or ``without:DOMAIN``: all but one domain (``dataset.without_domain``).
        tag: appended to the name of the model folder, so that variants stand beside each other.
        seed: of weights, patches and augmentation.
    """

    fold: int | str = within(0, 0)
    tag: str = ""
    seed: int = within(0, 0, 2**32 - 1)

    @property
    def without(self) -> str:
        """The domain that is left out; empty for a fold that is one of ``splits.json``.

        Raises:
            UserError: ``fold`` is neither.
        """
        if isinstance(self.fold, int):
            return ""
        kind, _, domain = self.fold.partition(":")
        if kind != WITHOUT or not domain:
            raise UserError(f"exp.fold={self.fold}: is no fold", remedy=f"give a number, or {WITHOUT}:DOMAIN")
        return domain

    @property
    def number(self) -> int:
        """Number of the fold's folder; a model without a domain has one fold."""
        return self.fold if isinstance(self.fold, int) else 0


@dataclass
class TrainerConfig:
    """How long and how fast a network learns; the defaults are RetinaUNetV001's in nnDetection.

    Attributes:
        epochs: epochs of the main schedule; an epoch is ``steps_per_epoch`` batches drawn at random.
        steps_per_epoch: optimisation steps between two validations.
        swa_epochs: further epochs of stochastic weight averaging (Izmailov et al. 2018); 0 for none.
        optimizer: ``sgd`` (Nesterov) or ``adamw``.
        learning_rate: peak value, after the warm-up.
        warmup_steps: linear rise from near 0.
        poly_power: decay ``(1 - t)^power`` of the learning rate over the main schedule.
        swa_learning_rate: each averaging epoch falls from this value ...
        swa_final_learning_rate: ... to this one.
        batch_size: patches per step and device; null takes the plan's.
        foreground_fraction: share of a batch's patches that are drawn around a lesion.
        domain_balance: 0 draws all scans alike, 1 all domains, between them a domain of n scans as n^(1 - balance).
        gradient_clip: largest L2 norm of the gradient.
        precision: ``auto``, ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        accelerator: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        devices: number of devices; more than one trains with DDP.
        num_nodes: machines, as Lightning counts them.
        num_workers: processes that draw patches; null chooses (0 on a machine with few cores).
        validate_every: epochs between two validations on whole scans; the last epoch always validates.
        validation_cases: at most so many scans of the fold are used for it, half of them with lesions where there are
            enough; null uses all.
        validation_overlap: overlap of tiles there, in place of inference_cfg's.
        deterministic: the same seed gives the same weights (on a GPU as far as its kernels allow). Without it cuDNN
            times its kernels at the start and takes the fastest; what that gains has not been measured yet.
    """

    epochs: int = within(50, 1)
    steps_per_epoch: int = within(2500, 1)
    swa_epochs: int = within(10, 0)
    optimizer: str = "sgd"
    learning_rate: float = within(0.01, 0)
    momentum: float = within(0.9, 0, 1)
    weight_decay: float = within(3e-5, 0)
    warmup_steps: int = within(4000, 0)
    poly_power: float = within(0.9, 0)
    swa_learning_rate: float = within(1e-3, 0)
    swa_final_learning_rate: float = within(1e-4, 0)
    batch_size: int | None = within(None, 1)
    foreground_fraction: float = within(0.5, 0, 1)
    domain_balance: float = within(0.0, 0, 1)
    gradient_clip: float = within(12.0, 0)
    precision: str = "auto"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = within(1, 1)
    num_workers: int | None = within(None, 0)
    validate_every: int = within(1, 1)
    validation_cases: int | None = within(None, 1)
    validation_overlap: float = within(0.25, 0, 0.95)
    deterministic: bool = True


@dataclass
class AugmentConfig:
    """Random changes of training patches; probabilities are per patch unless said otherwise.

    Attributes:
        spatial: probability of rotating and scaling.
        rotation_degrees: largest rotation about each axis (in-plane only where voxels are strongly anisotropic).
        scaling: range of the factor by which lesions get smaller.
        mirror: probability of flipping, per axis; 0.5 flips as often as not.
        noise, blur, brightness, contrast, low_resolution, gamma: probability of each intensity change.
        thick_slices: probability of making the patch what a scan with thicker slices would be.
        slice_mm: range of their thickness in mm; patches whose slices are thicker already stay as they are.
        sharpness: probability of sharpening, as scanners' filters do.
        bias_field: probability of a smooth brightness gradient, as coils leave it.
        painted: probability of painting a few dark balls, which are lesions, and tubes, which are none, into the patch;
            bright ones where microbleeds are bright. A trainer may have another value where nothing is given.
        painted_class: class of these lesions.
    """

    spatial: float = within(0.3, 0, 1)
    rotation_degrees: float = within(30.0, 0, 180)
    scaling: tuple[float, float] = within((0.7, 1.4), 0.1, 10)
    mirror: float = within(0.5, 0, 0.5)
    noise: float = within(0.1, 0, 1)
    blur: float = within(0.1, 0, 1)
    brightness: float = within(0.15, 0, 1)
    contrast: float = within(0.15, 0, 1)
    low_resolution: float = within(0.1, 0, 1)
    gamma: float = within(0.15, 0, 1)
    thick_slices: float = within(0.0, 0, 1)
    slice_mm: tuple[float, float] = within((2.0, 6.0), 0.1, 50)
    sharpness: float = within(0.0, 0, 1)
    bias_field: float = within(0.0, 0, 1)
    painted: float = within(0.0, 0, 1)
    painted_class: int = within(0, 0)


_SHORT: dict[str, Any] = {
    "trainer_cfg.optimizer": "adamw",
    "trainer_cfg.learning_rate": 1e-3,
    "trainer_cfg.weight_decay": 1e-2,
    "trainer_cfg.swa_learning_rate": 2e-4,
    "trainer_cfg.swa_final_learning_rate": 2e-5,
}

PRESETS: dict[str, dict[str, Any]] = {
    # nnDetection's own schedule: the defaults above.
    "v001": {},
    # A tenth of the steps with an optimiser that needs fewer of them: hours instead of days.
    "fast": {
        **_SHORT,
        "trainer_cfg.epochs": 50,
        "trainer_cfg.steps_per_epoch": 250,
        "trainer_cfg.swa_epochs": 5,
        "trainer_cfg.warmup_steps": 250,
        "trainer_cfg.validate_every": 5,
    },
    # From weights that know most of it (train.init): lower rates, which change them little, and an hour of a core.
    "finetune": {
        **_SHORT,
        "trainer_cfg.learning_rate": 3e-4,
        "trainer_cfg.epochs": 18,
        "trainer_cfg.steps_per_epoch": 100,
        "trainer_cfg.swa_epochs": 2,
        "trainer_cfg.swa_learning_rate": 1e-4,
        "trainer_cfg.swa_final_learning_rate": 1e-5,
        "trainer_cfg.warmup_steps": 50,
        "trainer_cfg.validate_every": 6,
        "augment_cfg.spatial": 0.2,
    },
    # Minutes on two CPU cores.
    "demo": {
        **_SHORT,
        "trainer_cfg.learning_rate": 2e-3,
        "trainer_cfg.epochs": 8,
        "trainer_cfg.steps_per_epoch": 70,
        "trainer_cfg.swa_epochs": 2,
        "trainer_cfg.warmup_steps": 20,
        "trainer_cfg.validate_every": 4,
        "trainer_cfg.validation_cases": 3,
        "augment_cfg.spatial": 0.2,
        "augment_cfg.blur": 0.0,
        "augment_cfg.low_resolution": 0.0,
    },
}

AUGMENT_PRESETS: dict[str, dict[str, Any]] = {
    # What differs between scanners and protocols, drawn more often and the rest as it was (Billot et al. 2023 randomise
    # resolution, contrast and bias field to do without a scanner's own scans). The probabilities are choices.
    "domains": {
        "augment_cfg.thick_slices": 0.3,
        "augment_cfg.low_resolution": 0.3,
        "augment_cfg.contrast": 0.4,
        "augment_cfg.brightness": 0.3,
        "augment_cfg.gamma": 0.3,
        "augment_cfg.blur": 0.2,
        "augment_cfg.sharpness": 0.2,
        "augment_cfg.bias_field": 0.3,
        "augment_cfg.noise": 0.3,
    },
}
"""Named presets of ``augment_cfg`` (``-o augment=domains``), on top of the preset of the schedule."""
