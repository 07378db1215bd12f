"""Compares the built-in coarse map with the MARS atlas in MNI space: how often both name one group.

    python -m benchmarks.accuracy.coarse_map_vs_mars MARS_scale_parcellation_map_mni.nii.gz

The atlas is that of github.com/v-sundaresan/microbleed-size-counting, which is not part of this project. The map is
taken at its voxels of 1 mm. Prints a Markdown table: of the voxels that the atlas gives to a group, how many the map
gives to it too, among those to which both give a group and among all; and the Dice of each group.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.anatomy import GROUPS
from cmb_plugin.anatomy.atlas import read_atlas
from cmb_plugin.anatomy.regions import CODES
from cmb_plugin.anatomy.resampling import resample_labels
from cmb_plugin.commands.cli import command, parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("atlas", type=Path, help="MARS_scale_parcellation_map_mni.nii.gz")
    mars = read_atlas(str(arguments.parse_args(argv).atlas), "mars")
    coarse = read_atlas("builtin")
    theirs = mars.group_codes()
    ours = resample_labels(coarse.group_codes(), coarse.grid, mars.grid)
    codes = [CODES[group] for group in GROUPS]
    both = np.isin(ours, codes) & np.isin(theirs, codes)
    either = np.isin(theirs, codes)
    print(measured_on("SimpleITK", "numpy") + "\n")
    same_group = ("same group, where both give one", "same group, of all")
    print(table_head("group", "voxels of the atlas", *same_group, "Dice"))
    for name, chosen in (*((group, [CODES[group]]) for group in GROUPS), ("all", codes)):
        wanted = np.isin(theirs, chosen)
        same = wanted & (ours == theirs)
        dice = 2 * np.count_nonzero(same) / (np.count_nonzero(wanted) + np.count_nonzero(np.isin(ours, chosen)))
        shares = (np.count_nonzero(same) / np.count_nonzero(wanted & known) for known in (both, either))
        print(table_row(name, np.count_nonzero(wanted), *(f"{share:.1%}" for share in shares), f"{dice:.3f}"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
