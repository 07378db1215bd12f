"""A plan of a network so small that it trains in seconds."""

from cmb_plugin.planning import Anchors, Architecture, Plan
from cmb_plugin.preparation import Preprocessing

PLAN = Plan(
    name="test_3d",
    planner="test",
    task="Task000_Test",
    modalities=("swi",),
    classes=("cmb", "iron"),
    preprocessing=Preprocessing(spacing=(1.5, 1.0, 1.0)),
    patch_size=(16, 16, 16),
    batch_size=2,
    architecture=Architecture(
        features=(8, 16, 32),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        kernels=((3, 3, 3),) * 3,
        convs_per_stage=(1, 1, 1),
        pyramid_channels=16,
        detection_levels=(1, 2),
    ),
    anchors=Anchors(sizes=(((3.0, 3.0, 3.0), (2.0, 4.0, 4.0)), ((6.0, 6.0, 6.0), (5.0, 8.0, 8.0)))),
    memory_gb=1.0,
    memory_estimate_gb=0.1,
)
