"""The helper that other tests stand on."""

import numpy as np
from tiny_task import make_tiny_task

from cmb_plugin.commands.names import find_task
from cmb_plugin.dataset import Dataset, read_truth
from cmb_plugin.images import read_grid, read_scan


def test_tiny_task_is_a_task_folder_with_visible_lesions_and_a_healthy_case(tmp_path):
    task = make_tiny_task(tmp_path, classes=("cmb", "iron"))
    assert find_task("900", tmp_path) == task
    dataset = Dataset.load(task)
    assert (dataset.modalities, dataset.classes, dataset.test_labels) == (("swi", "phase"), ("cmb", "iron"), True)
    counts = []
    for case in dataset.cases("Tr") + dataset.cases("Ts"):
        truth = read_truth(case, 2)
        counts.append(len(truth))
        image, grid = read_scan(case.images[0])
        assert grid.matches(truth.grid)
        assert grid.matches(read_grid(case.images[1]))
        assert grid.axis_codes == "SAR"
        mask = case.read_labels().mask
        background = np.median(image[(mask == 0) & (image != 0)])
        for number in truth.instances:
            size = np.count_nonzero(mask == number)
            assert 4 <= size <= 27
            assert image[mask == number].mean() < background - 40
        assert set(truth.labels.tolist()) == set(range(min(2, len(truth))))
    assert counts[3] == counts[5] == 0
    assert min(counts[:3] + counts[4:5]) >= 2
