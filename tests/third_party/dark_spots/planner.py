"""``SpotPlanner``: the scans' own spacing and small patches."""

from __future__ import annotations

import numpy as np

from cmb_plugin.planning import Anchors, Architecture, Plan, Planner, plan_topology
from cmb_plugin.plugins import register_planner
from cmb_plugin.preparation import Fingerprint, Normalisation, Preprocessing

PATCH = (16, 16, 16)


@register_planner
class SpotPlanner(Planner):
    """Plans for a network of a few convolutions, which fits everywhere."""

    def plan(self, fingerprint: Fingerprint) -> Plan:
        """Median spacing, z-scores, patches of ``PATCH`` voxels."""
        z, y, x = np.median([case.spacing for case in fingerprint.cases], axis=0).tolist()
        strides, kernels, patch = plan_topology((z, y, x), PATCH)
        return Plan(
            name=self.plan_name(),
            planner=type(self).__name__,
            task=fingerprint.task,
            modalities=fingerprint.modalities,
            classes=fingerprint.classes,
            preprocessing=Preprocessing((z, y, x), normalisation=(Normalisation(),) * len(fingerprint.modalities)),
            patch_size=patch,
            batch_size=4,
            architecture=Architecture(
                features=(8,) * len(strides),
                strides=tuple(strides),
                kernels=tuple(kernels),
                convs_per_stage=(1,) * len(strides),
                pyramid_channels=0,
                detection_levels=(),  # no anchors
            ),
            anchors=Anchors(()),
            memory_gb=1.0,
            memory_estimate_gb=0.1,
            notes=("Planned by a package outside the repository.",),
        )
