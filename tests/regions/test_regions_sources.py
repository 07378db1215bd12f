"""Sources of region maps travel to the processes that make maps side by side."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

from cmb_plugin.dataset import Case
from cmb_plugin.images import Grid, write_image
from cmb_plugin.regions.sources import BUILT_IN, RegionSource, Surroundings, atlas_source, parcellation_source


def sent(source: RegionSource) -> RegionSource:
    """As another process gets it."""
    return pickle.loads(pickle.dumps(source))


def test_a_source_means_the_same_in_another_process(tmp_path: Path) -> None:
    scan = tmp_path / "images" / "one_0000.nii.gz"
    labels = np.full((8, 8, 8), 3, np.int16)
    for path in (scan, tmp_path / "aseg" / "one_aseg.nii.gz"):
        write_image(path, labels, Grid(labels.shape, (4.0, 4.0, 4.0)))
    case, scans = Case("one", (scan,)), Surroundings(scan.parent)
    parcellations = parcellation_source(scans, tmp_path / "aseg")
    for source in (parcellations, atlas_source(scans, BUILT_IN)):
        assert sent(source).key(case) == source.key(case)
    np.testing.assert_array_equal(sent(parcellations).make(case).labels, parcellations.make(case).labels)
    before = parcellations.key(case)
    write_image(tmp_path / "aseg" / "one_wmparc.nii.gz", labels, Grid(labels.shape, (4.0, 4.0, 4.0)))
    assert sent(parcellations).key(case) != before
