from .anchors import (
    anchor_quality,
    default_anchors,
    default_free_anchors,
    fit_anchors,
    fit_by_size,
    fit_free_anchors,
)
from .brain import BrainPlanner, brain_normalisation, brain_notes, brain_preprocessing, shape_around_brain
from .centres import TYPICAL_MM, WIDEST_REACH, WIDEST_TARGET, centre_fit, default_centres, plan_centres
from .memory import DEFAULT_BUDGET_GB, estimate_training_gb, estimate_unet_gb, find_budget
from .network_planner import NetworkPlanner, by
from .plan import AnchorFit, Anchors, Architecture, CentreFit, Centres, Plan, Spacing, Triple
from .planner import Planner, PlannerConfig
from .storage import load_fitting_plan, write_plan
from .topology import build_architecture, plan_topology, shrink_patch

__all__ = [
    "DEFAULT_BUDGET_GB",
    "TYPICAL_MM",
    "WIDEST_REACH",
    "WIDEST_TARGET",
    "AnchorFit",
    "Anchors",
    "Architecture",
    "BrainPlanner",
    "CentreFit",
    "Centres",
    "NetworkPlanner",
    "Plan",
    "Planner",
    "PlannerConfig",
    "Spacing",
    "Triple",
    "anchor_quality",
    "brain_normalisation",
    "brain_notes",
    "brain_preprocessing",
    "build_architecture",
    "by",
    "centre_fit",
    "default_anchors",
    "default_centres",
    "default_free_anchors",
    "estimate_training_gb",
    "estimate_unet_gb",
    "find_budget",
    "fit_anchors",
    "fit_by_size",
    "fit_free_anchors",
    "load_fitting_plan",
    "plan_centres",
    "plan_topology",
    "shape_around_brain",
    "shrink_patch",
    "write_plan",
]
