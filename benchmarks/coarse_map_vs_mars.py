"""Compares the built-in coarse map with the MARS atlas in MNI space: how often both name one group.

    python benchmarks/coarse_map_vs_mars.py MARS_scale_parcellation_map_mni.nii.gz

The atlas is that of github.com/v-sundaresan/microbleed-size-counting, which is not part of this project. The map is
taken at its voxels of 1 mm. Prints a Markdown table: of the voxels that the atlas gives to a group, how many the map
gives to it too, among those to which both give a group and among all; and the Dice of each group.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cmb_plugin.anatomy import GROUPS
from cmb_plugin.anatomy.atlas import read_atlas
from cmb_plugin.anatomy.regions import CODES
from cmb_plugin.anatomy.resampling import resample_labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas", type=Path)
    mars = read_atlas(str(parser.parse_args().atlas), "mars")
    coarse = read_atlas("builtin")
    theirs = mars.group_codes()
    ours = resample_labels(coarse.group_codes(), coarse.grid, mars.grid)
    codes = [CODES[group] for group in GROUPS]
    both = np.isin(ours, codes) & np.isin(theirs, codes)
    either = np.isin(theirs, codes)
    print("| group | voxels of the atlas | same group, where both give one | same group, of all | Dice |")
    print("|---|---|---|---|---|")
    for name, chosen in (*((group, [CODES[group]]) for group in GROUPS), ("all", codes)):
        wanted = np.isin(theirs, chosen)
        same = wanted & (ours == theirs)
        dice = 2 * np.count_nonzero(same) / (np.count_nonzero(wanted) + np.count_nonzero(np.isin(ours, chosen)))
        print(
            f"| {name} | {np.count_nonzero(wanted)} | {np.count_nonzero(same) / np.count_nonzero(wanted & both):.1%} | "
            f"{np.count_nonzero(same) / np.count_nonzero(wanted & either):.1%} | {dice:.3f} |"
        )


if __name__ == "__main__":
    main()
