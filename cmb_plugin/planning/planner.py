"""``Planner``: turns the fingerprint of a data set into a plan. Planners themselves are plugins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from cmb_plugin.preparation import Fingerprint
from cmb_plugin.settings import within

from .memory import DEFAULT_BUDGET_GB
from .plan import Plan


@dataclass
class PlannerConfig:
    """Settings of a planner (``-o planner_cfg.*``).

    Attributes:
        gpu_memory_gb: memory to plan for, the same by default wherever planning runs; ``auto`` takes that of this
            machine's CUDA device, or 2 without one.
        base_features: channels of the first stage; they double per stage ... Null is the planner's own rule, as in all
            that follows.
        max_features: ... up to this.
        batch_size: patches per step.
        patch_size: voxels along the network's axes; null finds the largest that fits.
        spacing: mm along z, y, x of the body (superior, posterior, left); null takes the data set's median.
        seed: of everything that is drawn at random in planning.
        domains: where the domain of a scan, its site, scanner or protocol, comes from: ``dataset``, dataset.json;
            ``geometry``, the size of its voxels. Null leaves what an earlier preparation derived, or else dataset.json.
    """

    gpu_memory_gb: float | int | str = DEFAULT_BUDGET_GB
    base_features: int | None = None
    max_features: int = 320
    batch_size: int | None = None
    patch_size: list[int] | None = None
    spacing: list[float] | None = None
    seed: int = within(0, 0)
    domains: str | None = None


class Planner(ABC):
    """Base class of planners: make a subclass, register it with ``@register_planner``, choose it with ``-o
    planner=NAME``.

    Attributes:
        mode: second half of the plan's name.
        config_class: dataclass of the settings, ``PlannerConfig`` or a subclass of it.
    """

    mode: ClassVar[str] = "3d"
    config_class: ClassVar[type[PlannerConfig]] = PlannerConfig

    def __init__(self, config: PlannerConfig | None = None) -> None:
        self.config = config or self.config_class()

    @classmethod
    def plan_name(cls) -> str:
        """``{planner}_{mode}``, for instance ``D3V001_3d``."""
        return f"{cls.__name__}_{cls.mode}"

    @abstractmethod
    def plan(self, fingerprint: Fingerprint) -> Plan:
        """The plan for a data set. The same fingerprint, settings and budget give the same plan.

        Raises:
            UserError: a setting cannot be followed.
        """
