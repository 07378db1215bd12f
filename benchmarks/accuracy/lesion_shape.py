"""Volume and elongation of outlined lesions in Task folders, by slice thickness, to compare with those of patients.

In patients (Hsu et al. 2026): median 22.9 mm3 (quartiles 14.7 and 38.5), elongation 1.59 (1.40 and 1.83). The
elongation here is ITK's: the root of the largest principal moment of the voxels' places over the second largest, in
mm. The paper's formula may be another one. Lesions of one voxel's width have none and are left out of it.

    python -m benchmarks.accuracy.lesion_shape $det_data/Task100_Phantom [TASK ...]
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.paths import TaskFolder

GROUPS = ("all", "slices to 1.5 mm", "1.5 to 2.5 mm", "over 2.5 mm")


def shapes(mask: sitk.Image) -> dict[int, tuple[float, float]]:
    """Instance -> volume in mm3 and elongation (nan or infinity where the voxels are too few)."""
    found = sitk.LabelShapeStatisticsImageFilter()
    found.Execute(mask)
    return {n: (found.GetPhysicalSize(n), found.GetElongation(n)) for n in found.GetLabels()}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("tasks", nargs="+", type=Path, metavar="TASK", help="Task folders of phantoms")
    args = arguments.parse_args(argv)
    groups: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for folder in args.tasks:
        task = TaskFolder(folder)
        for path in sorted(task.extra("lesions", "Tr").glob("*.json")):
            mask = sitk.ReadImage(str(task.labels("Tr") / f"{path.stem}.nii.gz"), sitk.sitkUInt16)
            slices = max(mask.GetSpacing())
            made = shapes(mask)
            for lesion in read_json(path)["lesions"]:
                if lesion["certainty"] == "definite":
                    group = GROUPS[1] if slices <= 1.5 else GROUPS[2] if slices <= 2.5 else GROUPS[3]
                    for name in (GROUPS[0], group):
                        groups[name].append(made[lesion["instance"]])
    if not groups:
        raise UserError(f"{args.tasks[0]}: no definite lesion", remedy="name Task folders of nndet_example")
    print(measured_on("numpy", "SimpleITK") + "\n")
    print(table_head("definite lesions", "number", "mm3 p25", "p50", "p75", "elongation p25", "p50", "p75"))
    for name in GROUPS:
        if name in groups:
            volumes, long = np.asarray(groups[name]).T
            long = long[np.isfinite(long) & (long < 10) & (long > 0)]
            numbers = (f"{v:.1f}" for v in np.percentile(volumes, (25, 50, 75)))
            turns = (f"{v:.2f}" for v in np.percentile(long, (25, 50, 75))) if len(long) else ("", "", "")
            print(table_row(name, str(len(volumes)), *numbers, *turns))
    return 0


if __name__ == "__main__":
    sys.exit(main())
